"""Files in a folder like /tmp, in which another user can replace a folder by a link."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from files import names

from adepoll import AdeClient, Batch
from adepoll.api.result_folder import ResultFolder
from adepoll.common.replacing import replacing
from adepoll.errors import ConfigurationError, JournalAccessError, StorageError
from adepoll.fetcher.part_file import PartFile
from adepoll.journal import JournalReader

pytestmark = pytest.mark.posix  # Windows has no users with numbers


def write(target):
    with replacing(target) as file:
        file.write(b"new")


@pytest.fixture
def shared(tmp_path, monkeypatch):
    """Return a folder like /tmp. Its entry "theirs" seems to belong to another user."""
    folder, user = tmp_path / "shared", 4_711
    folder.mkdir()
    folder.chmod(0o1777)
    lstat = Path.lstat

    def lstat_of_another_user(self):
        found = lstat(self)
        is_theirs = self == folder / "theirs"
        return SimpleNamespace(st_mode=found.st_mode, st_uid=user) if is_theirs else found

    monkeypatch.setattr(Path, "lstat", lstat_of_another_user)
    return folder


@pytest.mark.parametrize("is_link", [True, False])
async def test_no_folder_is_used_that_another_user_can_replace(shared, tmp_path, is_link):
    """Otherwise the owner of the link or the folder could choose which files are replaced."""
    folder, theirs = tmp_path / "folder", shared / "theirs"
    folder.mkdir()
    target = folder / "sub" / "file"
    target.parent.mkdir()
    target.write_bytes(b"old")
    if is_link:
        theirs.symlink_to(folder)
    else:
        folder = folder.rename(theirs)
        target = folder / "sub" / "file"
    path = theirs / "sub" / "file"
    expected = "theirs belongs to another user, and every user can create folders beside it"
    with pytest.raises(PermissionError, match=expected):
        write(path)
    with pytest.raises(StorageError, match=expected):
        PartFile(path, job_id="j", overwrite=True).check()
    with pytest.raises(JournalAccessError, match=expected):
        JournalReader(path)
    with pytest.raises(PermissionError, match=expected):
        ResultFolder(path.parent).create()
    async with AdeClient("key-of-a-test") as client:
        with pytest.raises(ConfigurationError, match=expected):
            await Batch(client, out_dir=theirs / "new").__aenter__()
    assert target.read_bytes() == b"old"
    assert names(folder) == ["sub"]


@pytest.mark.parametrize("reason", ["not shared", "of its owner", "mounted", "below it"])
def test_other_folders_of_other_users_are_used(shared, monkeypatch, reason):
    theirs = shared / "theirs"
    theirs.mkdir()
    if reason == "not shared":
        shared.chmod(0o777)
    elif reason == "of its owner":
        stat = Path.stat
        owner = SimpleNamespace(st_mode=shared.stat().st_mode, st_uid=4_711)
        monkeypatch.setattr(
            Path, "stat", lambda self, **how: owner if self == shared else stat(self, **how)
        )
    elif reason == "mounted":
        monkeypatch.setattr(Path, "is_mount", lambda self: self == theirs)
    else:
        theirs = theirs.rename(shared / "mine") / "theirs"
        theirs.mkdir()
    write(theirs / "file")
    assert (theirs / "file").read_bytes() == b"new"
