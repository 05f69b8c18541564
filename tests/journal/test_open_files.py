"""A journal notices that its file was removed, renamed or replaced while it was open."""

import shutil

import pytest
from journalling import snapshot

from adepoll import Journal
from adepoll.common.file_system import HAS_FLOCK
from adepoll.errors import JournalMovedError
from adepoll.journal import JournalReader, Settled

pytestmark = pytest.mark.skipif(
    not HAS_FLOCK, reason="on Windows, nobody can remove or rename a file that SQLite has open"
)

ENDPOINT = "https://api.example"


def remove(path, _other):
    path.unlink()


def rename(path, other):
    path.rename(other)


def replace(path, other):
    shutil.copy(path, other)
    other.replace(path)


def remove_folder(path, _other):
    shutil.rmtree(path.parent)


WAYS = [remove, rename, replace, remove_folder]


@pytest.fixture
def path(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    return folder / "batch.db"


async def open_journal(path):
    return await Journal.open(path, endpoint=ENDPOINT)


def settled_in(path):
    with JournalReader(path) as reader:
        return [record.job_id for record in reader.records() if record.snapshot is not None]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "write",
    [
        lambda journal: journal.write(Settled(snapshot("a"), 1.0, fetching=False)),
        lambda journal: journal.add(["b"]),
        lambda journal: journal.set_note("key", "value"),
        lambda journal: journal.reopen(),
        lambda journal: journal.reopen_without_file(),
        lambda journal: journal.check_files(),
    ],
    ids=["write", "add", "set_note", "reopen", "reopen_without_file", "check_files"],
)
async def test_each_write_notices_it(path, tmp_path, way, write):
    journal = await open_journal(path)
    await journal.add(["a"])
    way(path, tmp_path / "other.db")
    with pytest.raises(JournalMovedError) as caught:
        await write(journal)
    assert caught.value.path == caught.value.file == str(path)
    assert caught.value.replaced == (way is replace)
    await journal.aclose()


async def test_the_end_of_a_journal_only_logs_it(path, caplog):
    """Otherwise, the error would replace a cancellation, for example because of SIGTERM."""
    async with await open_journal(path):
        path.unlink()
    assert f"somebody has removed or renamed {path}" in caplog.text


@pytest.mark.parametrize("replaced", [False, True])
async def test_a_renamed_journal_contains_everything_and_can_be_used_again(
    path, tmp_path, replaced
):
    other = tmp_path / "other.db"
    journal = await open_journal(path)
    await journal.add(["a", "b"])
    path.rename(other)
    if replaced:
        async with await open_journal(tmp_path / "new.db") as new:
            await new.add(["c"])
        (tmp_path / "new.db").rename(path)
    with pytest.raises(JournalMovedError, match="give it its name back"):
        await journal.write(Settled(snapshot("a"), 1.0, fetching=False))
    await journal.aclose()
    assert settled_in(other) == ["a"]
    if replaced:
        with JournalReader(path) as reader:  # SQLite applies nothing of the old journal to it
            assert [record.job_id for record in reader.records()] == ["c"]
    other.replace(path)
    async with await open_journal(path) as journal:
        await journal.write(Settled(snapshot("b"), 1.0, fetching=False))
    assert settled_in(path) == ["a", "b"]


@pytest.mark.parametrize("way", [remove, rename, replace])
async def test_a_write_notices_that_the_write_ahead_log_is_gone(path, tmp_path, way):
    wal = path.with_name("batch.db-wal")
    async with await open_journal(path) as journal:
        await journal.add(["a"])
        way(wal, tmp_path / "other.db-wal")
        with pytest.raises(JournalMovedError, match="it contains all outcomes") as caught:
            await journal.write(Settled(snapshot("a"), 1.0, fetching=False))
        assert (caught.value.path, caught.value.file) == (str(path), str(wal))
    assert settled_in(path) == ["a"]  # nothing is lost when the journal is closed


async def test_a_folder_that_cannot_be_read_for_a_moment_is_no_reason(path, monkeypatch):
    """As on a network file system, whose server does not respond."""
    stat = type(path).stat

    def fail(found, **options):
        if found.name == path.name:
            raise PermissionError(13, "not now")
        return stat(found, **options)

    async with await open_journal(path) as journal:
        monkeypatch.setattr(type(path), "stat", fail)
        await journal.add(["a"])
        monkeypatch.undo()
    with JournalReader(path) as reader:
        assert [record.job_id for record in reader.records()] == ["a"]


async def test_a_journal_in_a_linked_folder_can_be_used(path, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(path.parent, target_is_directory=True)
    async with await open_journal(link / "batch.db") as journal:
        await journal.add(["a"])
        link.unlink()
        await journal.add(["b"])
