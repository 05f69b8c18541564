"""Files are replaced also where the system cannot rename open files."""

import errno
import importlib.util
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from files import become

from adepoll.common import file_system
from adepoll.common.replacing import replacing


@pytest.fixture
def open_target(monkeypatch):
    """Make each rename fail, as on Windows, until `count` renames have failed."""
    real = Path.replace
    left = 0

    def replace(source, target):
        nonlocal left
        if left:
            left -= 1
            raise PermissionError(errno.EACCES, "the file is open")
        return real(source, target)

    def open_for(count):
        nonlocal left
        left = count

    monkeypatch.setattr(file_system, "HAS_FLOCK", False)
    monkeypatch.setattr(Path, "replace", replace)
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    return open_for


def write(target):
    with replacing(target) as file:
        file.write(b"new")


def rename_open(target):
    source = target.with_name("source")
    with source.open("wb+") as file:
        file.write(b"new")
        file.flush()
        file_system.rename_open(file.fileno(), source, target)


@pytest.mark.parametrize("replace", [write, rename_open])
def test_a_target_that_is_open_for_a_moment_is_replaced(open_target, tmp_path, replace):
    target = tmp_path / "out"
    target.write_bytes(b"old")
    open_target(3)
    replace(target)
    assert target.read_bytes() == b"new"


@pytest.mark.parametrize("replace", [write, rename_open])
def test_a_target_that_stays_open_is_not_replaced(open_target, tmp_path, replace):
    target = tmp_path / "out"
    target.write_bytes(b"old")
    open_target(1_000)
    with pytest.raises(PermissionError):
        replace(target)
    assert target.read_bytes() == b"old"


# --- with and without the functions that Windows does not have ----------------------------------

POSIX_ONLY = (
    *("pread", "preadv", "pwrite", "pwritev", "fdatasync", "fchmod", "geteuid", "fchown"),
    *("O_NOFOLLOW", "O_DIRECTORY", "O_NONBLOCK", "O_CLOEXEC"),
)


@pytest.fixture(params=["posix", "windows"])
def module(request, monkeypatch):
    """The module as it is loaded here, and as it is loaded without these functions."""
    if request.param == "posix":
        return file_system
    for name in POSIX_ONLY:
        monkeypatch.delattr(os, name, raising=False)
    monkeypatch.setitem(sys.modules, "fcntl", None)
    spec = importlib.util.spec_from_file_location("file_system_of_windows", file_system.__file__)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    assert not loaded.HAS_FLOCK
    assert not loaded.HAS_UIDS
    return loaded


@pytest.fixture
def fd(tmp_path):
    opened = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT, 0o644)
    os.write(opened, b"0123456789")
    yield opened
    os.close(opened)


def test_bytes_are_read_at_an_offset(module, fd):
    assert module.read_at(fd, 3, 4) == b"456"
    assert module.read_at(fd, 30, 8) == b"89"
    assert module.read_at(fd, 3, 10) == b""
    buffer = bytearray(b"xxxx")
    assert module.read_into(fd, memoryview(buffer), 7) == 3
    assert buffer == b"789x"
    assert module.read_into(fd, memoryview(buffer), 99) == 0
    assert buffer == b"789x"


def test_bytes_are_written_at_an_offset(module, fd):
    assert module.write_at(fd, b"ab", 3) == 2
    assert module.write_chunks_at(fd, [memoryview(b"cd"), memoryview(b"efg")], 8) == 5
    assert module.read_at(fd, 99, 0) == b"012ab567cdefg"


@pytest.mark.parametrize("most", [1, 3, 4, 100])
def test_a_write_that_ends_early_is_continued(module, fd, monkeypatch, most):
    """As after a signal, or on a full disk; at most `most` bytes of each chunk are written."""
    write = os.write

    def write_some(fd, data):
        return write(fd, data[:most])

    def write_chunks_some(fd, chunks, offset):
        os.lseek(fd, offset, os.SEEK_SET)
        return write_some(fd, b"".join(chunks))

    monkeypatch.setattr(os, "write", write_some)
    if hasattr(os, "pwritev"):
        monkeypatch.setattr(os, "pwritev", write_chunks_some)
    assert module.write_all_at(fd, [b"abcd", b"", b"ef", memoryview(b"ghijk")], 2) == 13
    assert module.read_at(fd, 99, 0) == b"01abcdefghijk"
    assert module.write_all_at(fd, [], 5) == 5


def test_few_chunks_and_bytes_are_written_at_once(fd, monkeypatch):
    calls, write = [], os.pwritev

    def write_chunks(fd, chunks, offset):
        calls.append([len(chunk) for chunk in chunks])
        return write(fd, chunks, offset)

    monkeypatch.setattr(os, "pwritev", write_chunks)
    half = 2**18
    file_system.write_all_at(fd, [b"x" * half, b"y" * (half + 1), b"z"], 0)
    assert calls == [[half, half], [1, 1]]
    calls.clear()
    file_system.write_all_at(fd, [b"x"] * 1_025, 0)
    assert [len(chunks) for chunks in calls] == [1_024, 1]
    assert file_system.read_at(fd, 3, 2 * half - 1) == b"yyz"


def test_a_link_is_not_opened(module, tmp_path, fd):
    link, new = tmp_path / "link", tmp_path / "new"
    link.symlink_to(tmp_path / "file")
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    for path in (link, tmp_path / "broken"):
        with pytest.raises(OSError, match=f"{path.name}|regular file"):
            module.open_without_following(path, os.O_RDWR | os.O_CREAT, 0o600)
    for path, flags in ((tmp_path / "file", os.O_RDONLY), (new, os.O_RDWR | os.O_CREAT)):
        opened = module.open_without_following(path, flags, 0o600)
        os.close(opened)
    assert new.stat().st_mode & 0o777 == 0o600


def test_a_file_of_this_user_is_its_own(module, tmp_path, fd):
    status = os.fstat(fd)
    assert module.is_own_file(status)
    assert not module.is_own_file(tmp_path.stat())
    other = SimpleNamespace(st_mode=status.st_mode, st_uid=status.st_uid + 1)
    assert module.is_own_file(other) is not hasattr(os, "geteuid")


def test_a_file_becomes_private(module, tmp_path, fd):
    module.make_private(fd, tmp_path / "file")
    assert os.fstat(fd).st_mode & 0o777 == 0o600


def test_a_locked_file_cannot_be_locked_again(module, tmp_path, fd):
    again = os.open(tmp_path / "file", os.O_RDWR)
    module.lock(fd)
    if module.HAS_FLOCK:
        with pytest.raises(BlockingIOError):
            module.lock(again, shared=True)
    module.unlock(fd)
    module.lock(again, shared=True)
    module.lock(fd, shared=True)
    if module.HAS_FLOCK:
        with pytest.raises(BlockingIOError):
            module.lock(fd)
    os.close(again)


def test_an_open_file_is_renamed_and_removed(module, tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    target.write_bytes(b"old")
    opened = os.open(source, os.O_RDWR | os.O_CREAT)
    os.write(opened, b"new")
    module.rename_open(opened, source, target)
    assert (target.read_bytes(), source.exists()) == (b"new", False)
    os.lseek(opened, 0, os.SEEK_SET)
    assert os.read(opened, 9) == b"new"
    assert not os.get_inheritable(opened)
    module.remove_open(opened, target)
    assert not target.exists()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(opened)


def test_an_open_file_is_closed_while_it_is_renamed_where_the_system_needs_that(
    module, tmp_path, monkeypatch
):
    source, seen, replace = tmp_path / "source", [], Path.replace
    opened = os.open(source, os.O_RDWR | os.O_CREAT)

    def look(path, to):
        seen.append(os.path.samestat(os.fstat(opened), path.stat()))
        return replace(path, to)

    monkeypatch.setattr(Path, "replace", look)
    module.rename_open(opened, source, tmp_path / "target")
    assert seen == [module.HAS_FLOCK]
    assert os.path.samestat(os.fstat(opened), (tmp_path / "target").stat())
    os.close(opened)


def test_a_file_that_is_gone_is_closed_all_the_same(module, tmp_path):
    opened = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    (tmp_path / "file").unlink()
    module.remove_open(opened, tmp_path / "file")
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(opened)


def test_a_rename_that_fails_leaves_the_file_open(module, tmp_path):
    source = tmp_path / "source"
    opened = os.open(source, os.O_RDWR | os.O_CREAT)
    with pytest.raises(FileNotFoundError):
        module.rename_open(opened, source, tmp_path / "no folder" / "target")
    os.write(opened, b"more")
    os.close(opened)
    assert source.read_bytes() == b"more"


def test_a_file_that_another_process_replaces_meanwhile_is_an_error(module, tmp_path, monkeypatch):
    source, target = tmp_path / "source", tmp_path / "target"
    opened, replace = os.open(source, os.O_RDWR | os.O_CREAT), Path.replace

    def replace_twice(path, to):
        replace(path, to)
        (tmp_path / "other").write_bytes(b"other")
        return replace(tmp_path / "other", to)

    monkeypatch.setattr(Path, "replace", replace_twice)
    if module.HAS_FLOCK:
        module.rename_open(opened, source, target)
    else:
        with pytest.raises(OSError, match="another process has replaced the file"):
            module.rename_open(opened, source, target)
    os.close(opened)


def test_renames_are_tried_again_for_a_second(monkeypatch, tmp_path):
    pauses, tries = [], []

    def replace(source, _target):
        tries.append(source)
        raise PermissionError(errno.EACCES, "the file is open")

    monkeypatch.setattr(Path, "replace", replace)
    monkeypatch.setattr("time.sleep", pauses.append)
    for has_flock, number in ((True, 1), (False, 20)):
        monkeypatch.setattr(file_system, "HAS_FLOCK", has_flock)
        tries.clear()
        with pytest.raises(PermissionError), replacing(tmp_path / "target"):
            pass
        assert len(tries) == number
    assert pauses == [0.05] * 19
    assert not [*tmp_path.iterdir()], "the temporary file is removed"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EINVAL, errno.ENOTSUP, errno.EIO])
@pytest.mark.parametrize("fails", ["open", "fsync"])
def test_a_folder_that_cannot_be_synced_is_no_error(monkeypatch, tmp_path, number, fails):
    def fail(*_args):
        raise OSError(number, "no")

    file_system.sync_folder(tmp_path)
    monkeypatch.setattr(os, fails, fail)
    if number == errno.EIO:
        with pytest.raises(OSError, match="no"):
            file_system.sync_folder(tmp_path)
    else:
        file_system.sync_folder(tmp_path)


def test_a_system_without_folders_to_open_syncs_none(monkeypatch, tmp_path):
    monkeypatch.delattr(os, "O_DIRECTORY")
    monkeypatch.setattr(os, "open", None)
    file_system.sync_folder(tmp_path)


def test_a_synced_folder_is_closed(monkeypatch, tmp_path):
    synced, closed, close = [], [], os.close
    monkeypatch.setattr(os, "fsync", synced.append)
    monkeypatch.setattr(os, "close", lambda fd: closed.append(fd) or close(fd))
    file_system.sync_folder(tmp_path)
    assert synced == closed
    assert len(synced) == 1


@pytest.mark.parametrize(
    ("owner", "user", "is_refused"),
    [(4_711, 4_712, True), (4_711, 4_711, False), (0, 4_712, False), (4_711, None, False)],
)
def test_a_link_of_another_user_is_not_followed(monkeypatch, tmp_path, owner, user, is_refused):
    path = tmp_path / "link"
    path.symlink_to(tmp_path / "file")
    status = SimpleNamespace(st_mode=path.lstat().st_mode, st_uid=owner)
    lstat = Path.lstat
    monkeypatch.setattr(Path, "lstat", lambda self: status if self == path else lstat(self))
    if user is None:
        monkeypatch.delattr(os, "geteuid")
    else:
        become(user, monkeypatch)
    if is_refused:
        with pytest.raises(PermissionError, match="of another user"):
            write(path)
        assert not (tmp_path / "file").exists()
    else:
        write(path)
        assert (tmp_path / "file").read_bytes() == b"new"


def test_a_plain_file_of_another_user_is_replaced(monkeypatch, tmp_path):
    path, folder, lstat = tmp_path / "file", tmp_path / "folder", Path.lstat
    path.write_bytes(b"old")
    folder.mkdir()

    def lstat_of_another_user(self):
        return SimpleNamespace(st_mode=lstat(self).st_mode, st_uid=4_712)

    monkeypatch.setattr(Path, "lstat", lstat_of_another_user)
    become(4_711, monkeypatch)
    write(path)
    assert (tmp_path / "file").read_bytes() == b"new"
    with pytest.raises(IsADirectoryError):
        write(folder)


def test_a_plain_path_has_no_dots(tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.chdir(tmp_path)
    assert file_system.plain_path(Path("link/x")) == tmp_path / "link" / "x"
    assert file_system.plain_path(Path("link/../x")) == (tmp_path / "x").resolve()
