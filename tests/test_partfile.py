"""A file appears whole or not at all, and nothing is left where it does not."""

import errno
import hashlib
import os
import pickle
import resource
import stat
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adepoll.errors import ResultTransferError, StorageError, TargetExistsError
from adepoll.fetcher.partfile import PartFile


def part_file(target, *, overwrite=False):
    return PartFile(Path(target), job_id="job-1", overwrite=overwrite)


def names(folder):
    return sorted(entry.name for entry in Path(folder).iterdir())


def write_whole(part, *chunks):
    part.open()
    for chunk in chunks:
        part.write(chunk)
    return part.publish()


class FailingFile:
    """An open file of which one operation fails."""

    def __init__(self, file, fails, number):
        self.file, self.fails, self.number = file, fails, number

    def __getattr__(self, name):
        return getattr(self.file, name)

    def write(self, data):
        if self.fails == "write":
            self.file.write(data[: len(data) // 2])
            raise OSError(self.number, os.strerror(self.number))
        return self.file.write(data)

    def close(self):
        self.file.close()
        if self.fails == "close":
            raise OSError(self.number, os.strerror(self.number))


@pytest.fixture
def fail_file(monkeypatch):
    """Let one operation of the files opened from now on fail with that errno."""
    real = os.fdopen

    def fail(operation, number):
        monkeypatch.setattr(
            os, "fdopen", lambda *a, **k: FailingFile(real(*a, **k), operation, number)
        )

    return fail


@pytest.fixture
def fail_os(monkeypatch):
    """Let a function of `os` fail with that errno, where its first argument is such a thing."""

    def fail(name, number, *, when=lambda _: True):
        real = getattr(os, name)

        def failing(first, *args, **kwargs):
            if when(first):
                raise OSError(number, os.strerror(number))
            return real(first, *args, **kwargs)

        monkeypatch.setattr(os, name, failing)

    return fail


# --- what is written ----------------------------------------------------------------------------


WITHOUT_BRACES = st.binary(max_size=100).map(lambda chunk: chunk.translate(None, b"{}"))


@given(chunks=st.lists(WITHOUT_BRACES, max_size=10))
def test_the_file_holds_the_chunks_in_order_and_size_and_digest_are_theirs(chunks):
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "out.json")
        size, digest = write_whole(part_file(target), *chunks)
        whole = b"".join(chunks)
        assert target.read_bytes() == whole
        assert (size, digest) == (len(whole), hashlib.sha256(whole).hexdigest())
        assert names(folder) == ["out.json"]


def test_a_write_that_takes_only_some_bytes_is_continued(tmp_path, monkeypatch):
    class Short(FailingFile):
        def write(self, data):
            return self.file.write(data[:3])

    real = os.fdopen
    monkeypatch.setattr(os, "fdopen", lambda *a, **k: Short(real(*a, **k), None, 0))
    size, digest = write_whole(part_file(tmp_path / "out"), b"0123456789")
    assert (tmp_path / "out").read_bytes() == b"0123456789"
    assert (size, digest) == (10, hashlib.sha256(b"0123456789").hexdigest())


def test_a_new_attempt_begins_from_nothing(tmp_path):
    part = part_file(tmp_path / "out")
    part.open()
    part.write(b"of the first attempt, longer")
    part.discard()
    size, digest = write_whole(part, b"second")
    assert (tmp_path / "out").read_bytes() == b"second"
    assert (size, digest) == (6, hashlib.sha256(b"second").hexdigest())
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
@pytest.mark.parametrize("overwrite", [False, True])
def test_only_the_owner_may_read_it_whatever_the_umask(tmp_path, umask, overwrite):
    target = tmp_path / "out"
    if overwrite:
        target.touch(mode=0o644)
    part = part_file(target, overwrite=overwrite)
    before = os.umask(umask)
    try:
        part.open()
        (temporary,) = tmp_path.glob(".*")
        modes = {stat.S_IMODE(temporary.stat().st_mode)}
        part.publish()
    finally:
        os.umask(before)
    modes.add(stat.S_IMODE(target.stat().st_mode))
    assert modes <= {0o600, 0o600 & ~umask}


def test_the_temporary_is_hidden_and_in_the_folder_of_the_target(tmp_path):
    part = part_file(tmp_path / "out.json")
    part.open()
    (name,) = names(tmp_path)
    assert name.startswith(".out.json.")
    assert name.endswith(".part")
    part.discard()


@pytest.mark.parametrize(
    "name", ["n" * 255, "😀" * 63, "é" * 127, ".hidden", "a b", "-rf", "%s", "\udcff\udcfe"]
)
def test_any_name_that_the_file_system_takes_will_do(tmp_path, name):
    part = part_file(tmp_path / name)
    part.check()
    write_whole(part, b"x")
    assert names(tmp_path) == [name]


def test_a_relative_target_is_one_of_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    part = part_file("out")
    part.check()
    write_whole(part, b"x")
    assert names(tmp_path) == ["out"]


def test_two_writers_of_one_folder_do_not_meet(tmp_path):
    parts = [part_file(tmp_path / "out", overwrite=True) for _ in range(5)]
    for part in parts:
        part.open()
    for number, part in enumerate(parts):
        part.write(b"%d" % number)
    for part in reversed(parts):
        part.publish()
    assert (tmp_path / "out").read_bytes() == b"0"
    assert names(tmp_path) == ["out"]


# --- what makes it durable ----------------------------------------------------------------------


@pytest.mark.parametrize("overwrite", [False, True])
def test_bytes_are_synced_before_they_get_their_name_and_the_folder_after(
    tmp_path, monkeypatch, overwrite
):
    events = []
    real_fsync, real_link, real_rename = os.fsync, os.link, os.replace

    def fsync(fd):
        events.append("sync folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "sync bytes")
        if events[-1] == "sync folder":
            assert os.path.samestat(os.fstat(fd), tmp_path.stat())
            assert names(tmp_path) == ["out"]  # the temporary's name has gone before
        real_fsync(fd)

    def link(*args, **kwargs):
        events.append("name")
        real_link(*args, **kwargs)

    def replace(*args, **kwargs):
        events.append("name")
        real_rename(*args, **kwargs)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "link", link)
    monkeypatch.setattr(os, "replace", replace)
    write_whole(part_file(tmp_path / "out", overwrite=overwrite), b"x")
    assert events == ["sync bytes", "name", "sync folder"]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_cannot_sync_folders_is_no_failure(tmp_path, fail_os, number):
    fail_os("fsync", number, when=lambda fd: stat.S_ISDIR(os.fstat(fd).st_mode))
    write_whole(part_file(tmp_path / "out"), b"x")
    assert (tmp_path / "out").read_bytes() == b"x"


def test_a_folder_that_may_be_written_and_not_read_is_no_failure(tmp_path, fail_os):
    fail_os("open", errno.EACCES, when=lambda path: Path(path) == tmp_path)
    write_whole(part_file(tmp_path / "out"), b"x")
    assert (tmp_path / "out").read_bytes() == b"x"


def test_a_folder_that_fails_to_sync_is_told(tmp_path, fail_os):
    fail_os("fsync", errno.EIO, when=lambda fd: stat.S_ISDIR(os.fstat(fd).st_mode))
    part = part_file(tmp_path / "out")
    with pytest.raises(StorageError) as caught:
        write_whole(part, b"x")
    assert caught.value.errno == errno.EIO
    part.discard()
    assert names(tmp_path) == ["out"]  # whole, and its name may not outlive a power cut


# --- a target that exists -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["file", "dangling link", "link to a file"])
def test_a_target_that_exists_is_refused_at_once(tmp_path, kind):
    target = tmp_path / "out"
    if kind == "file":
        target.write_bytes(b"before")
    else:
        target.symlink_to(tmp_path / "elsewhere")
    if kind == "link to a file":
        (tmp_path / "elsewhere").write_bytes(b"before")
    with pytest.raises(TargetExistsError, match="overwrite=True") as caught:
        part_file(target).check()
    assert caught.value.path == str(target)
    assert isinstance(caught.value, FileExistsError)
    assert pickle.loads(pickle.dumps(caught.value)).path == str(target)


def test_with_overwrite_a_target_that_exists_is_replaced_only_when_all_is_there(tmp_path):
    target = tmp_path / "out"
    target.write_bytes(b"before")
    part = part_file(target, overwrite=True)
    part.check()
    part.open()
    part.write(b"after")
    assert target.read_bytes() == b"before"
    part.publish()
    assert target.read_bytes() == b"after"
    assert names(tmp_path) == ["out"]


def test_overwriting_a_link_leaves_alone_what_it_points_to(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"before")
    target = tmp_path / "out"
    target.symlink_to(elsewhere)
    write_whole(part_file(target, overwrite=True), b"after")
    assert elsewhere.read_bytes() == b"before"
    assert target.read_bytes() == b"after"
    assert not target.is_symlink()


@pytest.mark.parametrize("has_links", [True, False], ids=["hard links", "no hard links"])
def test_a_target_that_appeared_meanwhile_is_never_replaced(tmp_path, fail_os, has_links):
    if not has_links:
        fail_os("link", errno.EPERM)
    target = tmp_path / "out"
    part = part_file(target)
    part.check()
    part.open()
    part.write(b"ours")
    target.write_bytes(b"theirs")
    with pytest.raises(TargetExistsError) as caught:
        part.publish()
    assert caught.value.__cause__ is None
    part.discard()
    assert target.read_bytes() == b"theirs"
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_hard_links_gets_the_file_all_the_same(tmp_path, fail_os, number):
    fail_os("link", number)
    write_whole(part_file(tmp_path / "out"), b"x")
    assert (tmp_path / "out").read_bytes() == b"x"
    assert names(tmp_path) == ["out"]


# --- what cannot be written ---------------------------------------------------------------------


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_missing_folder_is_refused_at_once(tmp_path, overwrite):
    with pytest.raises(StorageError, match="no such folder") as caught:
        part_file(tmp_path / "missing" / "out", overwrite=overwrite).check()
    assert caught.value.errno == errno.ENOENT


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_is_a_file_is_refused_at_once(tmp_path, overwrite):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError) as caught:
        part_file(tmp_path / "file" / "out", overwrite=overwrite).check()
    assert caught.value.errno in {errno.ENOENT, errno.ENOTDIR}


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_target_that_is_a_folder_is_refused_at_once_without_a_hint_to_overwrite(
    tmp_path, overwrite
):
    with pytest.raises(StorageError, match="directory") as caught:
        part_file(tmp_path, overwrite=overwrite).check()
    assert caught.value.errno == errno.EISDIR


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("name", "number"),
    [("a\0b", errno.EINVAL), ("\ud800", errno.EINVAL), ("n" * 256, errno.ENAMETOOLONG)],
    ids=["null", "lone surrogate", "too long"],
)
def test_a_name_that_no_file_can_have_is_refused_at_once(tmp_path, name, number, overwrite):
    with pytest.raises(StorageError) as caught:
        part_file(tmp_path / name, overwrite=overwrite).check()
    assert caught.value.errno == number
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC, errno.EMFILE])
def test_a_folder_that_takes_no_file_is_told_with_errno_and_cause(tmp_path, fail_os, number):
    fail_os("open", number, when=lambda path: Path(path).suffix == ".part")
    part = part_file(tmp_path / "out")
    part.check()
    with pytest.raises(StorageError, match=os.strerror(number)) as caught:
        part.open()
    assert caught.value.errno == number
    assert caught.value.path == str(tmp_path / "out")
    assert caught.value.job_id == "job-1"
    assert isinstance(caught.value.__cause__, OSError)
    part.discard()
    assert names(tmp_path) == []


def test_a_disk_that_fills_up_is_told_and_its_bytes_are_given_back(tmp_path, fail_file):
    fail_file("write", errno.ENOSPC)
    part = part_file(tmp_path / "out")
    part.open()
    with pytest.raises(StorageError, match="No space") as caught:
        part.write(b"0123456789")
    assert caught.value.errno == errno.ENOSPC
    part.discard()
    assert names(tmp_path) == []


def test_a_real_limit_of_the_kernel_is_told_in_the_same_way(tmp_path):
    # Python ignores SIGXFSZ, so that a write over RLIMIT_FSIZE is EFBIG.
    part = part_file(tmp_path / "out")
    part.open()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, hard))
    try:
        with pytest.raises(StorageError) as caught:
            part.write(bytes(5_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG
    part.discard()
    assert names(tmp_path) == []


@pytest.mark.parametrize("operation", ["fsync", "link", "close"])
def test_a_failure_while_publishing_leaves_neither_target_nor_temporary(
    tmp_path, fail_os, fail_file, operation
):
    if operation == "close":
        fail_file("close", errno.EIO)  # where NFS tells what it could not write
    else:
        fail_os(operation, errno.EIO)
    part = part_file(tmp_path / "out")
    with pytest.raises(StorageError) as caught:
        write_whole(part, b"x")
    assert caught.value.errno == errno.EIO
    part.discard()
    assert names(tmp_path) == []


def test_a_failure_while_replacing_leaves_the_file_that_was_there(tmp_path, fail_os):
    target = tmp_path / "out"
    target.write_bytes(b"before")
    fail_os("replace", errno.EIO)
    part = part_file(target, overwrite=True)
    with pytest.raises(StorageError):
        write_whole(part, b"after")
    part.discard()
    assert target.read_bytes() == b"before"
    assert names(tmp_path) == ["out"]


# --- discarding ---------------------------------------------------------------------------------


def test_discarding_removes_the_temporary_and_may_be_repeated(tmp_path):
    part = part_file(tmp_path / "out")
    part.discard()
    part.open()
    part.write(b"x")
    part.discard()
    part.discard()
    assert names(tmp_path) == []


def test_discarding_after_publishing_leaves_the_file(tmp_path):
    part = part_file(tmp_path / "out")
    write_whole(part, b"x")
    part.discard()
    assert names(tmp_path) == ["out"]


def test_discarding_never_fails_or_it_would_hide_why_it_was_needed(tmp_path, fail_file):
    fail_file("close", errno.EDQUOT)
    part = part_file(tmp_path / "out")
    part.open()
    part.discard()
    assert names(tmp_path) == []


def test_discarding_what_somebody_else_has_removed_is_no_failure(tmp_path):
    part = part_file(tmp_path / "out")
    part.open()
    (temporary,) = tmp_path.iterdir()
    temporary.unlink()
    part.discard()


def test_a_temporary_that_somebody_removed_is_told_when_it_is_to_be_published(tmp_path):
    part = part_file(tmp_path / "out")
    part.open()
    (temporary,) = tmp_path.iterdir()
    temporary.unlink()
    with pytest.raises(StorageError) as caught:
        part.publish()
    assert caught.value.errno == errno.ENOENT
    part.discard()
    assert names(tmp_path) == []


def test_after_discarding_nothing_is_written_or_published(tmp_path):
    part = part_file(tmp_path / "out")
    part.open()
    part.discard()
    part.write(b"late")
    with pytest.raises(StorageError) as caught:
        part.publish()
    assert caught.value.errno == errno.ECANCELED
    assert names(tmp_path) == []


def test_discarding_waits_for_a_write_in_another_thread(tmp_path, monkeypatch):
    writing, go_on = threading.Event(), threading.Event()

    class Slow(FailingFile):
        def write(self, data):
            writing.set()
            assert go_on.wait(10)
            return self.file.write(data)

    real = os.fdopen
    monkeypatch.setattr(os, "fdopen", lambda *a, **k: Slow(real(*a, **k), None, 0))
    part = part_file(tmp_path / "out")
    part.open()
    writer = threading.Thread(target=part.write, args=(b"x",))
    writer.start()
    assert writing.wait(10)
    discarder = threading.Thread(target=part.discard)
    discarder.start()
    assert len(names(tmp_path)) == 1
    go_on.set()
    discarder.join(10)
    writer.join(10)
    assert names(tmp_path) == []


# --- braces --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        (b'{"a": {"b": 1}}', True),
        (b'{"a": {"b": 1}', False),
        (b'{"a": "}}}{", "b": {}}', True),
        (b'{"a": "\\"}\\\\", "b": {}}', True),
        (b'{"a": "{', False),
        (b'{"a": "' + b"{" * 3_000_000 + b'"}', True),
        (b'{"a": "' + b"\\\\" * 1_500_000 + b'{"}', True),
    ],
)
@pytest.mark.parametrize("size", [7, 2**20])
def test_a_result_that_misses_a_brace_is_not_published(tmp_path, text, whole, size):
    if size == 7 and len(text) > 1_000:
        text = text[:500] + text[-500:]
    part = PartFile(tmp_path / "out", job_id="job-1", overwrite=False)
    part.open()
    for start in range(0, len(text), size):
        part.write(text[start : start + size])
    if whole:
        part.publish()
        assert (tmp_path / "out").read_bytes() == text
    else:
        with pytest.raises(ResultTransferError, match="ended within the result"):
            part.publish()
        part.discard()
        assert not list(tmp_path.iterdir())
