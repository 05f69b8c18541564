"""A file appears complete or not at all, and a failure leaves nothing behind."""

import errno
import fcntl
import gc
import hashlib
import itertools
import os
import pickle
import random
import resource
import stat
import struct
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

import forkserver
import pytest
from files import become, names
from hypothesis import given, settings
from hypothesis import strategies as st
from openfiles import open_files_in
from waiting import first_lines

from adepoll.common import file_system, own_file
from adepoll.errors import ResultTransferError, StorageError, TargetExistsError
from adepoll.fetcher import resume_state
from adepoll.fetcher.part_file import PartFile
from adepoll.fetcher.part_names import LeftoverRemoval, PartNames
from adepoll.fetcher.resume_state import ResumeStateFile
from adepoll.fetcher.storage_rules import ObjectVersion
from adepoll.fetcher.target_file import set_mode_and_owner

MIB = 2**20
SURE = ObjectVersion(size=4 * MIB, etag='"one"')


def part_file(target, *, overwrite=False):
    return PartFile(Path(target), job_id="job-1", overwrite=overwrite)


def begun(target, *, overwrite=False):
    """Return a part file that is open and empty."""
    part = part_file(target, overwrite=overwrite)
    part.open()
    part.begin(ObjectVersion(), multipart=False)
    return part


def publish(part, size):
    part.hash_to(size)
    return part.publish()


def write_whole(part, *chunks):
    """Write and publish a file of these chunks; return its digest."""
    part.open()
    part.begin(ObjectVersion(), multipart=False)
    part.write(0, chunks)
    return publish(part, sum(map(len, chunks)))


def state_of(target, *, job_id="job-1"):
    """Return what a later download would resume, or None."""
    part = PartFile(Path(target), job_id=job_id, overwrite=True)
    state = part.open()
    part.close()
    return state


@pytest.fixture
def fail_os(monkeypatch):
    """Make a function of `os` fail with this errno if its first argument matches."""

    def fail(name, number, *, when=lambda _: True):
        real = getattr(os, name)

        def failing(first, *args, **kwargs):
            if when(first):
                raise OSError(number, os.strerror(number))
            return real(first, *args, **kwargs)

        monkeypatch.setattr(os, name, failing)

    return fail


@pytest.fixture
def no_descriptor_is_left_open():
    gc.collect()  # earlier tests can have left objects that have descriptors
    before = len(names("/dev/fd"))
    yield
    assert len(names("/dev/fd")) <= before


# --- Written bytes ------------------------------------------------------------------------------


WITHOUT_BRACES = st.binary(max_size=100).map(lambda chunk: chunk.translate(None, b"{}"))


@given(chunks=st.lists(WITHOUT_BRACES, max_size=10))
def test_the_file_has_the_chunks_in_order_and_their_digest(chunks):
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "out.json")
        whole = b"{" + b"".join(chunks) + b"}"
        digest = write_whole(part_file(target), b"{", *chunks, b"}")
        assert target.read_bytes() == whole
        assert digest == hashlib.sha256(whole).hexdigest()
        assert names(folder) == ["out.json"]


@given(body=WITHOUT_BRACES, order=st.randoms(use_true_random=False), chunk_size=st.integers(1, 9))
def test_segments_may_be_written_in_any_order(body, order, chunk_size):
    whole = b"{" + body + b"}"
    starts = [*range(0, len(whole), chunk_size)]
    order.shuffle(starts)
    with tempfile.TemporaryDirectory() as folder:
        part = begun(Path(folder, "out"))
        there = set()
        for start in starts:
            part.write(start, [whole[start : start + chunk_size]])
            there.add(start)
            whole_up_to = next(
                at for at in range(0, len(whole) + chunk_size, chunk_size) if at not in there
            )
            part.hash_to(min(whole_up_to, len(whole)))
            assert part.hashed == min(whole_up_to, len(whole))
        assert part.publish() == hashlib.sha256(whole).hexdigest()
        assert Path(folder, "out").read_bytes() == whole


def test_a_partial_write_is_continued(tmp_path, monkeypatch):
    def some(fd, chunks, offset):
        return os.pwrite(fd, b"".join(chunks)[:3], offset)

    monkeypatch.setattr(os, "pwritev", some)
    digest = write_whole(part_file(tmp_path / "out"), b"{01", b"2345", b"", b"6", b"789}")
    assert (tmp_path / "out").read_bytes() == b"{0123456789}"
    assert digest == hashlib.sha256(b"{0123456789}").hexdigest()


@pytest.mark.posix
def test_no_call_writes_more_than_half_a_mebibyte(tmp_path, monkeypatch):
    sizes, real = [], os.pwritev

    def pwritev(fd, chunks, offset):
        sizes.append(sum(map(len, chunks)))
        return real(fd, chunks, offset)

    monkeypatch.setattr(os, "pwritev", pwritev)
    body = b"{%s}" % random.Random(4).randbytes(3 * MIB).translate(None, b"{}")
    cuts = [0, 10, 10, MIB, MIB + 5, MIB + 7, 2 * MIB, len(body)]
    write_whole(part_file(tmp_path / "out"), *(body[a:b] for a, b in itertools.pairwise(cuts)))
    assert (tmp_path / "out").read_bytes() == body
    assert max(sizes) == MIB // 2
    assert len(sizes) <= len(body) // (MIB // 2) + 1


def test_more_chunks_are_written_than_one_call_accepts(tmp_path):
    body = b"{%s}" % random.Random(3).randbytes(5_000).translate(None, b"{}")
    write_whole(part_file(tmp_path / "out"), *(bytes([byte]) for byte in body))
    assert (tmp_path / "out").read_bytes() == body


def test_a_new_attempt_begins_with_an_empty_file(tmp_path):
    part = begun(tmp_path / "out")
    part.write(0, [b"{of the first attempt, longer"])
    part.hash_to(20)
    part.begin(ObjectVersion(), multipart=False)
    part.write(0, [b"{second}"])
    assert publish(part, 8) == hashlib.sha256(b"{second}").hexdigest()
    assert (tmp_path / "out").read_bytes() == b"{second}"
    assert names(tmp_path) == ["out"]


@pytest.mark.posix
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
@pytest.mark.parametrize("overwrite", [False, True])
def test_only_the_owner_may_read_part_files_whatever_the_umask(tmp_path, umask, overwrite):
    target = tmp_path / "out"
    if overwrite:
        target.touch()
        target.chmod(replaced_mode := 0o604)
    part = part_file(target, overwrite=overwrite)
    before = os.umask(umask)
    try:
        part.open()
        part.begin(SURE, multipart=True, resumable=True)
        part.write(0, [b"{" + b" " * MIB + b"}"])
        hidden = [*tmp_path.glob(".*")]
        modes = {stat.S_IMODE(path.stat().st_mode) for path in hidden}
        publish(part, MIB + 2)
    finally:
        os.umask(before)
    assert len(hidden) == 2  # the part file and its resume state
    assert modes <= {0o600, 0o600 & ~umask}
    mode = replaced_mode if overwrite else 0o666 & ~umask
    assert stat.S_IMODE(target.stat().st_mode) == mode


def test_the_part_file_is_hidden_in_the_folder_of_the_target(tmp_path):
    part = part_file(tmp_path / "out.json")
    part.open()
    (name,) = names(tmp_path)
    assert name.startswith(".out.json.")
    assert name.endswith(".part")
    part.close()


@pytest.mark.parametrize(
    "name",
    ["n" * 255, "😀" * 57, "😀" * 63, "é" * 127, ".hidden", "a b", "-rf", "%s", "\udcff\udcfe"],
)
def test_any_valid_file_name_works(tmp_path, name):
    part = part_file(tmp_path / name)
    part.check()
    write_whole(part, b"{}")
    assert names(tmp_path) == [name]
    left_behind(tmp_path / name)
    assert state_of(tmp_path / name)


@pytest.mark.parametrize("name", ["n" * 143, "果" * 47, "é" * 71])
def test_no_other_name_is_longer_than_143_bytes(tmp_path, monkeypatch, name):
    """eCryptfs allows no longer ones (botocore issue 2084)."""
    real_open, used = os.open, []

    def recording(path, *args, **kwargs):
        used.append(len(os.fsencode(Path(path).name)))
        return real_open(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", recording)
    left_behind(tmp_path / name)
    part = part_file(tmp_path / name)
    assert part.open() is not None
    part.close()
    assert 143 >= max(used) > 80


def test_a_relative_target_is_in_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    part = part_file("out")
    part.check()
    write_whole(part, b"{}")
    assert names(tmp_path) == ["out"]


def test_two_writers_in_one_folder_do_not_interfere(tmp_path):
    parts = [part_file(tmp_path / "out", overwrite=True) for _ in range(5)]
    for part in parts:
        part.open()
        part.begin(SURE, multipart=True, resumable=True)
    assert len(names(tmp_path)) == 5
    for number, part in enumerate(parts):
        part.write(0, [b"{%d}" % number])
    for part in reversed(parts):
        publish(part, 3)
    assert (tmp_path / "out").read_bytes() == b"{0}"
    assert names(tmp_path) == ["out"]


# --- Durability ---------------------------------------------------------------------------------


@pytest.mark.posix
@pytest.mark.parametrize("overwrite", [False, True])
def test_the_file_is_synced_before_and_the_folder_after_the_rename(
    tmp_path, monkeypatch, overwrite
):
    events = []
    real_fsync, real_link, real_rename = os.fsync, os.link, os.replace

    def fsync(fd):
        events.append("sync folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "sync bytes")
        if events[-1] == "sync folder":
            assert os.path.samestat(os.fstat(fd), tmp_path.stat())
            assert names(tmp_path) == ["out"]  # the name of the part file was removed before
        real_fsync(fd)

    def link(*args, **kwargs):
        events.append("name")
        real_link(*args, **kwargs)

    def replace(source, into):
        if into == tmp_path / "out":
            events.append("name")
        real_rename(source, into)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "link", link)
    monkeypatch.setattr(os, "replace", replace)
    write_whole(part_file(tmp_path / "out", overwrite=overwrite), b"{}")
    assert events == ["sync bytes", "name", "sync folder"]


@pytest.mark.parametrize(
    "number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF, errno.EPERM]
)
def test_a_file_system_that_cannot_sync_folders_is_accepted(tmp_path, fail_os, number):
    fail_os("fsync", number, when=lambda fd: stat.S_ISDIR(os.fstat(fd).st_mode))
    write_whole(part_file(tmp_path / "out"), b"{}")
    assert (tmp_path / "out").read_bytes() == b"{}"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EISDIR])
def test_a_folder_that_is_writable_but_not_readable_is_accepted(tmp_path, fail_os, number):
    fail_os("open", number, when=lambda path: Path(path) == tmp_path)
    write_whole(part_file(tmp_path / "out"), b"{}")
    assert (tmp_path / "out").read_bytes() == b"{}"


@pytest.mark.posix
def test_a_failed_sync_of_the_folder_raises(tmp_path, fail_os):
    fail_os("fsync", errno.EIO, when=lambda fd: stat.S_ISDIR(os.fstat(fd).st_mode))
    part = part_file(tmp_path / "out")
    with pytest.raises(StorageError) as caught:
        write_whole(part, b"{}")
    assert caught.value.errno == errno.EIO
    part.close()
    assert names(tmp_path) == ["out"]  # complete, but a power cut may lose its name


# --- An existing target -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["file", "dangling link", "link to a file"])
def test_an_existing_target_raises_immediately(tmp_path, kind):
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


def test_with_overwrite_an_existing_target_is_replaced_only_at_the_end(tmp_path):
    target = tmp_path / "out"
    target.write_bytes(b"before")
    part_file(target, overwrite=True).check()
    part = begun(target, overwrite=True)
    part.write(0, [b"{after}"])
    assert target.read_bytes() == b"before"
    publish(part, 7)
    assert target.read_bytes() == b"{after}"
    assert names(tmp_path) == ["out"]


def test_a_link_is_neither_followed_nor_replaced(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"before")
    target = tmp_path / "out"
    target.symlink_to(elsewhere)
    with pytest.raises(StorageError, match="symbolic link; pass the path that it leads to"):
        part_file(target, overwrite=True).check()
    part = begun(tmp_path / "late", overwrite=True)
    part.write(0, [b"{after}"])
    (tmp_path / "late").symlink_to(elsewhere)
    with pytest.raises(StorageError, match="symbolic link"):
        publish(part, 7)
    part.close()
    assert elsewhere.read_bytes() == b"before"
    assert names(tmp_path) == ["elsewhere", "late", "out"]


@pytest.mark.parametrize("kind", ["pipe", "link to a pipe", "device", "link to a descriptor"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_device_or_pipe_is_never_replaced(tmp_path, kind, overwrite):
    target = tmp_path / "out"
    reader, writer = os.pipe()
    if kind == "pipe":
        os.mkfifo(target)
    elif kind == "link to a pipe":
        os.mkfifo(tmp_path / "pipe")
        target.symlink_to("pipe")
    elif kind == "device":
        target = Path(os.devnull)
    else:
        target.symlink_to(f"/dev/fd/{writer}")
    with pytest.raises(StorageError, match="a device, a pipe or a socket"):
        part_file(target, overwrite=overwrite).check()
    os.close(reader)
    os.close(writer)


@pytest.mark.posix
def test_a_new_file_has_the_mode_that_the_umask_gives(tmp_path):
    before = os.umask(0o027)
    try:
        write_whole(part_file(tmp_path / "out"), b"{}")
        assert (tmp_path / "out").stat().st_mode & 0o7777 == 0o640
    finally:
        os.umask(before)
    assert names(tmp_path) == ["out"]


@pytest.mark.posix
def test_a_replaced_file_hands_its_mode_and_owner_on(tmp_path):
    target = tmp_path / "out"
    target.write_bytes(b"before")
    target.chmod(0o604)
    if os.geteuid() == 0:
        os.chown(target, 1234, 5678)
    owner = (target.stat().st_uid, target.stat().st_gid)
    write_whole(part_file(target, overwrite=True), b"{}")
    status = target.stat()
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o604, *owner)


@pytest.mark.posix
@pytest.mark.parametrize("refused", [1, 2])
@pytest.mark.parametrize("number", [errno.EPERM, errno.EINVAL, errno.ENOSYS, errno.EDQUOT])
def test_a_user_who_may_not_change_the_owner_keeps_the_group(
    tmp_path, monkeypatch, refused, number
):
    """Only root may change the owner; some users may change the group.

    In a user namespace, root gets EINVAL for an owner that does not exist there.
    """
    target, calls = tmp_path / "out", []
    target.write_bytes(b"before")
    found = os.lstat(target)
    other = list(found)
    other[stat.ST_UID], other[stat.ST_GID] = 1234, 5678

    def refuse(_fd, uid, gid):
        calls.append((uid, gid))
        if len(calls) <= refused:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fchown", refuse)
    with (tmp_path / "new").open("wb") as file:
        set_mode_and_owner(file.fileno(), target, os.stat_result(other), tmp_path / "probe")
    assert calls == [(1234, 5678), (-1, 5678)]


@pytest.mark.posix
@pytest.mark.parametrize(("before", "after"), [(0o640, 0o600), (0o644, 0o644), (0o604, 0o644)])
def test_another_group_gets_only_the_rights_of_all_other_users(
    tmp_path, fail_os, monkeypatch, before, after
):
    """It had these rights; the rights of the old group are not for its members."""
    target = tmp_path / "out"
    target.write_bytes(b"before")
    target.chmod(before)
    found = list(os.lstat(target))
    found[stat.ST_GID] += 1
    fail_os("fchown", errno.EPERM)
    with (tmp_path / "new").open("wb") as file:
        set_mode_and_owner(file.fileno(), target, os.stat_result(found), tmp_path / "probe")
        assert os.fstat(file.fileno()).st_mode & 0o7777 == after


def access_list(*entries):
    """Return an access control list of Linux (acl(5)): entries (tag, rights, user or group id)."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


# Another user may read and write, the group may not. So the mode is 0660.
FOR_ANOTHER_USER = access_list(
    (0x01, 6, 2**32 - 1), (0x02, 6, 1234), (0x04, 0, 2**32 - 1), (0x10, 6, 2**32 - 1),
    (0x20, 0, 2**32 - 1),
)  # fmt: skip


def set_access_list(path, kind, entries):
    """Set an access control list; skip the test if the system has none."""
    if not hasattr(os, "setxattr"):
        pytest.skip("only Linux has this kind of access control lists")
    try:
        os.setxattr(path, f"system.posix_acl_{kind}", entries)
    except OSError as error:
        pytest.skip(f"the file system has no access control lists: {error}")


@pytest.mark.posix
def test_a_replaced_file_hands_its_access_control_list_on(tmp_path):
    """Without the list, its mode of 0660 would let the group read and write."""
    target = tmp_path / "out"
    target.write_bytes(b"before")
    target.chmod(0o600)
    set_access_list(target, "access", FOR_ANOTHER_USER)
    write_whole(part_file(target, overwrite=True), b"{}")
    assert target.read_bytes() == b"{}"
    assert os.getxattr(target, "system.posix_acl_access") == FOR_ANOTHER_USER
    assert target.stat().st_mode & 0o7777 == 0o660


@pytest.mark.posix
def test_a_replaced_file_without_an_access_control_list_does_not_get_that_of_the_folder(tmp_path):
    target = tmp_path / "out"
    target.write_bytes(b"before")
    target.chmod(0o660)
    set_access_list(tmp_path, "default", FOR_ANOTHER_USER)
    write_whole(part_file(target, overwrite=True), b"{}")
    assert target.read_bytes() == b"{}"
    assert target.stat().st_mode & 0o7777 == 0o660
    with pytest.raises(OSError, match="No data"):
        os.getxattr(target, "system.posix_acl_access")


@pytest.mark.posix
@pytest.mark.parametrize(
    ("name", "has_list"),
    [("getxattr", True), ("getxattr", False), ("setxattr", True), ("removexattr", False)],
)
def test_a_result_is_private_if_its_access_control_list_cannot_be_copied(
    tmp_path, fail_os, name, has_list
):
    target = tmp_path / "out"
    target.write_bytes(b"before")
    target.chmod(0o660)
    if has_list:
        set_access_list(target, "access", FOR_ANOTHER_USER)
    elif not hasattr(os, "setxattr"):
        pytest.skip("only Linux has this kind of access control lists")
    fail_os(name, errno.EPERM)
    write_whole(part_file(target, overwrite=True), b"{}")
    assert target.read_bytes() == b"{}"
    assert target.stat().st_mode & 0o7777 == 0o600


@pytest.mark.posix
@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EIO])
def test_a_result_is_published_although_its_mode_cannot_be_set(
    tmp_path, fail_os, overwrite, number
):
    """CIFS and many FUSE file systems refuse chmod(2), also of the present mode."""
    target = tmp_path / "out"
    if overwrite:
        target.write_bytes(b"before")
    fail_os("fchmod", number)
    write_whole(part_file(target, overwrite=overwrite), b"{}")
    assert target.read_bytes() == b"{}"
    assert target.stat().st_mode & 0o7777 == 0o600
    assert names(tmp_path) == ["out"]


def test_copying_stops_at_the_end_of_the_range(tmp_path):
    data = random.Random(0).randbytes(100)
    (tmp_path / "one").write_bytes(data)
    with (tmp_path / "one").open("rb") as one, (tmp_path / "two").open("w+b") as two:
        own_file.copy(one.fileno(), two.fileno(), 10, 30)
        assert (tmp_path / "two").read_bytes() == bytes(10) + data[10:30]
        own_file.copy(one.fileno(), two.fileno(), 0, 5)
        assert (tmp_path / "two").read_bytes() == data[:5] + bytes(5) + data[10:30]
        with pytest.raises(EOFError):
            own_file.copy(one.fileno(), two.fileno(), 90, 101)


@pytest.mark.posix
def test_the_owner_is_only_changed_if_it_differs(tmp_path, fail_os):
    """Some file systems refuse each change of the owner, with various errors."""
    (tmp_path / "out").write_bytes(b"before")
    fail_os("fchown", errno.ENOTSUP)
    write_whole(part_file(tmp_path / "out", overwrite=True), b"{}")
    assert (tmp_path / "out").read_bytes() == b"{}"


@pytest.mark.posix
@pytest.mark.usefixtures("no_descriptor_is_left_open")
def test_a_name_that_another_file_has_now_is_not_removed(tmp_path):
    own = PartNames(tmp_path / "out", "job-1").create_shared()
    assert own.has_name()
    own.path.rename(tmp_path / "moved")
    own.path.write_bytes(b"other")
    assert not own.has_name()
    own.remove()
    assert own.path.read_bytes() == b"other"
    assert (tmp_path / "moved").exists()


@pytest.mark.parametrize("has_links", [True, False], ids=["hard links", "no hard links"])
def test_a_target_created_meanwhile_is_never_replaced(tmp_path, fail_os, has_links):
    if not has_links:
        fail_os("link", errno.EPERM)
    target = tmp_path / "out"
    part_file(target).check()
    part = begun(target)
    part.write(0, [b"{ours}"])
    target.write_bytes(b"theirs")
    with pytest.raises(TargetExistsError) as caught:
        publish(part, 6)
    assert caught.value.__cause__ is None
    part.close()
    assert target.read_bytes() == b"theirs"
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize(
    "number", [errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EACCES, errno.EMLINK, errno.EXDEV]
)
def test_the_file_is_published_without_hard_links(tmp_path, fail_os, number):
    fail_os("link", number)
    write_whole(part_file(tmp_path / "out"), b"{}")
    assert (tmp_path / "out").read_bytes() == b"{}"
    assert names(tmp_path) == ["out"]


@pytest.mark.posix
@pytest.mark.parametrize("number", [errno.EEXIST, errno.ENOENT, errno.EIO, errno.ESTALE])
@pytest.mark.parametrize(("name", "overwrite"), [("link", False), ("replace", True)])
def test_a_name_that_was_given_although_the_call_failed_is_accepted(
    tmp_path, monkeypatch, number, name, overwrite
):
    """NFS repeats a request whose answer was lost, and reports the error of the second request."""
    target = tmp_path / "out"
    real = getattr(os, name)

    def fail_afterwards(source, into):
        real(source, into)
        raise OSError(number, os.strerror(number))

    if overwrite:
        target.write_bytes(b"before")
    monkeypatch.setattr(os, name, fail_afterwards)
    write_whole(part_file(target, overwrite=overwrite), b"{}")
    assert target.read_bytes() == b"{}"
    assert names(tmp_path) == ["out"]


@pytest.mark.posix
def test_a_result_is_published_although_its_second_name_cannot_be_removed(tmp_path, monkeypatch):
    part = part_file(tmp_path / "out")
    part.open()
    part.begin(ObjectVersion(), multipart=False)
    part.write(0, [b"{}"])
    part.hash([b"{}"])
    real = os.link

    def link(source, into):
        real(source, into)
        monkeypatch.setattr(os, "unlink", refuse)

    def refuse(path, **_):
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), path)

    monkeypatch.setattr(os, "link", link)
    part.publish()
    part.close()
    assert (tmp_path / "out").read_bytes() == b"{}"


# --- Write errors -------------------------------------------------------------------------------


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_missing_folder_raises_immediately(tmp_path, overwrite):
    with pytest.raises(StorageError, match="no such folder") as caught:
        part_file(tmp_path / "missing" / "out", overwrite=overwrite).check()
    assert caught.value.errno == errno.ENOENT


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_as_the_folder_raises_immediately(tmp_path, overwrite):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError) as caught:
        part_file(tmp_path / "file" / "out", overwrite=overwrite).check()
    assert caught.value.errno in {errno.ENOENT, errno.ENOTDIR}


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_as_the_target_raises_without_a_hint_to_overwrite(tmp_path, overwrite):
    with pytest.raises(StorageError, match="directory") as caught:
        part_file(tmp_path, overwrite=overwrite).check()
    assert caught.value.errno == errno.EISDIR


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("name", "number"),
    [("a\0b", errno.EINVAL), ("\ud800", errno.EINVAL), ("n" * 256, errno.ENAMETOOLONG)],
    ids=["null", "lone surrogate", "too long"],
)
def test_an_invalid_file_name_raises_immediately(tmp_path, name, number, overwrite):
    with pytest.raises(StorageError) as caught:
        part_file(tmp_path / name, overwrite=overwrite).check()
    assert caught.value.errno == number
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC, errno.EMFILE])
def test_a_folder_that_accepts_no_file_raises_with_errno_and_cause(tmp_path, fail_os, number):
    fail_os("open", number, when=lambda path: Path(path).suffix == ".part")
    part = part_file(tmp_path / "out")
    part.check()
    with pytest.raises(StorageError, match=os.strerror(number)) as caught:
        part.open()
    assert caught.value.errno == number
    assert caught.value.path == str(tmp_path / "out")
    assert caught.value.job_id == "job-1"
    assert isinstance(caught.value.__cause__, OSError)
    part.close()
    assert names(tmp_path) == []


@pytest.mark.posix
def test_a_full_disk_raises_after_a_partial_write(tmp_path, fail_os):
    part = begun(tmp_path / "out")
    part.write(0, [b"{"])
    fail_os("pwritev", errno.ENOSPC)
    with pytest.raises(StorageError, match="No space") as caught:
        part.write(1, [b"0123456789"])
    assert caught.value.errno == errno.ENOSPC
    part.close()
    assert names(tmp_path) == []


def test_a_file_size_limit_of_the_kernel_raises_the_same_error(tmp_path):
    # Python ignores SIGXFSZ, so a write over RLIMIT_FSIZE fails with EFBIG.
    part = begun(tmp_path / "out")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, hard))
    try:
        with pytest.raises(StorageError) as caught:
            part.write(0, [bytes(5_000)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG
    part.close()
    assert names(tmp_path) == []


@pytest.mark.parametrize("operation", ["fsync", "link"])
def test_a_failure_leaves_neither_target_nor_part_file(tmp_path, fail_os, operation):
    fail_os(operation, errno.EIO)
    part = part_file(tmp_path / "out")
    with pytest.raises(StorageError) as caught:
        write_whole(part, b"{}")
    assert caught.value.errno == errno.EIO
    part.close()
    assert names(tmp_path) == []


def test_a_failure_while_replacing_keeps_the_old_file(tmp_path, fail_os):
    target = tmp_path / "out"
    target.write_bytes(b"before")
    fail_os("replace", errno.EIO)
    part = part_file(target, overwrite=True)
    with pytest.raises(StorageError):
        write_whole(part, b"{after}")
    part.close()
    assert target.read_bytes() == b"before"
    assert names(tmp_path) == ["out"]


def test_a_truncated_part_file_raises(tmp_path):
    part = begun(tmp_path / "out")
    part.write(6, [b"56789}"])  # out of order, so the bytes must be read again
    part.write(0, [b"{01234"])
    os.truncate(tmp_path / names(tmp_path)[0], 8)
    with pytest.raises(StorageError, match="has truncated the part file"):
        part.hash_to(12)
    part.close()


def test_a_part_file_truncated_after_hashing_raises(tmp_path):
    part = begun(tmp_path / "out")
    part.write(0, [b"{0123456789}"])
    os.truncate(tmp_path / names(tmp_path)[0], 5)
    with pytest.raises(StorageError, match="has truncated the part file"):
        publish(part, 12)
    part.close()
    assert names(tmp_path) == []


@pytest.mark.posix
def test_an_unreadable_part_file_raises(tmp_path, fail_os):
    fail_os("preadv", errno.EIO)
    part = begun(tmp_path / "out")
    part.write(1, [b"}"])
    part.write(0, [b"{"])
    with pytest.raises(StorageError) as caught:
        part.hash_to(2)
    assert caught.value.errno == errno.EIO
    assert "Input/output error" in str(caught.value)
    part.close()


def test_bytes_in_memory_are_hashed_without_being_read_again(tmp_path, fail_os):
    fail_os("preadv", errno.EIO)
    part = begun(tmp_path / "out")
    part.write(0, [b"{"])
    part.write(1, [b"1", b"2}"])
    part.hash([b"{", b"1", b"2}"])
    assert publish(part, 4) == hashlib.sha256(b"{12}").hexdigest()


# --- Closing ------------------------------------------------------------------------------------


def test_closing_removes_a_small_part_file_and_may_be_repeated(tmp_path):
    part = part_file(tmp_path / "out")
    part.close()
    part = begun(tmp_path / "out")
    part.write(0, [b"x"])
    part.close()
    part.close()
    assert names(tmp_path) == []


def test_closing_removes_a_few_bytes_far_from_the_beginning(tmp_path):
    part = part_file(tmp_path / "out")
    part.open()
    part.begin(SURE, multipart=True, resumable=True)
    part.write(2 * MIB, [b"x"])
    part.close()
    assert names(tmp_path) == []


def test_closing_after_publishing_keeps_the_file(tmp_path):
    part = part_file(tmp_path / "out")
    write_whole(part, b"{}")
    part.close()
    assert names(tmp_path) == ["out"]


def test_closing_never_raises(tmp_path, fail_os):
    part = begun(tmp_path / "out")
    for name in ("close", "unlink", "open"):
        fail_os(name, errno.EDQUOT)
    part.close()


@pytest.mark.posix
def test_closing_a_removed_part_file_does_not_raise(tmp_path):
    part = begun(tmp_path / "out")
    (part_path,) = tmp_path.iterdir()
    part_path.unlink()
    part.close()


@pytest.mark.posix
@pytest.mark.parametrize("number", [1, 2])
def test_a_file_whose_part_file_was_removed_is_published(tmp_path, number):
    parts = [begun(tmp_path / "out") for _ in range(number)]  # the second has a random name
    parts[-1].write(0, [b"{}"])
    for path in tmp_path.iterdir():
        path.unlink()
    assert publish(parts[-1], 2) == hashlib.sha256(b"{}").hexdigest()
    assert (tmp_path / "out").read_bytes() == b"{}"
    for part in parts:
        part.close()
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize(
    "work",
    [
        lambda part: part.write(0, [b"late"]),
        lambda part: part.begin(SURE, multipart=True),
        lambda part: part.hash_to(1),
        lambda part: part.sync(),
        lambda part: part.publish(),
    ],
    ids=["write", "begin", "hash_to", "sync", "publish"],
)
def test_after_closing_no_work_is_done(tmp_path, work):
    part = begun(tmp_path / "out")
    part.close()
    with pytest.raises(StorageError) as caught:
        work(part)
    assert caught.value.errno == errno.ECANCELED
    assert names(tmp_path) == []


# --- Resume state -------------------------------------------------------------------------------


def left_behind(target, *, version=SURE, done=((0, 2 * MIB),), job_id="job-1"):
    """Leave a part file with these bytes."""
    part = PartFile(Path(target), job_id=job_id, overwrite=True)
    part.open()
    part.begin(version, multipart=True, resumable=True)
    for start, stop in done:
        part.write(start, [b"x" * (stop - start)])
    part.close()


@pytest.mark.parametrize(
    "done",
    [[(0, MIB)], [(0, MIB), (3 * MIB, 4 * MIB)], [(0, 2**19), (MIB, MIB + 2**19)]],
    ids=["the first", "with a gap", "just enough"],
)
def test_a_mebibyte_of_a_resumable_version_is_kept_with_its_spans(tmp_path, done):
    left_behind(tmp_path / "out", done=done)
    assert len(names(tmp_path)) == 2
    state = state_of(tmp_path / "out")
    assert (state.version, state.present) == (SURE, done)


@pytest.mark.parametrize(
    ("version", "done"),
    [
        (SURE, [(0, MIB - 1)]),
        (ObjectVersion(size=4 * MIB), [(0, 2 * MIB)]),
        (ObjectVersion(etag='"one"'), [(0, 2 * MIB)]),
        (ObjectVersion(size=4 * MIB, etag='W/"one"'), [(0, 2 * MIB)]),
        (ObjectVersion(size=4 * MIB, etag=""), [(0, 2 * MIB)]),
    ],
    ids=["less than a mebibyte", "no tag", "no size", "a weak tag", "an empty tag"],
)
def test_a_part_file_that_cannot_be_resumed_is_removed(tmp_path, version, done):
    left_behind(tmp_path / "out", version=version, done=done)
    assert names(tmp_path) == []


def test_a_part_file_belongs_to_one_job_and_one_target(tmp_path):
    left_behind(tmp_path / "out")
    assert state_of(tmp_path / "other") is None
    assert state_of(tmp_path / "out", job_id="job-2") is None
    assert state_of(tmp_path / "out") is not None


def test_resuming_completes_the_file_and_its_digest(tmp_path):
    left_behind(tmp_path / "out", version=ObjectVersion(2 * MIB + 2, '"one"'), done=[(1, 2 * MIB)])
    part = part_file(tmp_path / "out")
    state = part.open()
    assert state.present == [(1, 2 * MIB)]
    part.write(0, [b"{"])
    part.write(2 * MIB, [b"x}"])
    whole = b"{" + b"x" * (2 * MIB) + b"}"
    assert publish(part, len(whole)) == hashlib.sha256(whole).hexdigest()
    assert (tmp_path / "out").read_bytes() == whole
    assert names(tmp_path) == ["out"]


def test_beginning_again_removes_the_resume_state(tmp_path):
    left_behind(tmp_path / "out")
    part = part_file(tmp_path / "out")
    assert part.open()
    part.begin(ObjectVersion(5, '"two"'), multipart=True)
    (name,) = names(tmp_path)  # or after a crash, the new bytes would count as the old ones
    assert (tmp_path / name).stat().st_size == 0
    part.close()
    assert names(tmp_path) == []


@pytest.mark.posix
def test_a_full_disk_keeps_the_last_resume_state(tmp_path, fail_os):
    part = part_file(tmp_path / "out")
    part.open()
    part.begin(SURE, multipart=True, resumable=True)
    part.write(0, [b"x" * MIB])
    fail_os("pwrite", errno.ENOSPC)
    with pytest.raises(StorageError):
        part.write(MIB, [b"x" * MIB])
    part.close()
    assert recorded_state_of(tmp_path / "out").present == [(0, MIB)]


@pytest.mark.posix
def test_a_full_disk_without_room_for_a_resume_state_keeps_no_part_file(tmp_path, fail_os):
    part = part_file(tmp_path / "out")
    part.open()
    part.begin(SURE, multipart=True, resumable=True)
    fail_os("pwrite", errno.ENOSPC)
    with pytest.raises(StorageError):
        part.write(0, [b"x" * MIB])
    part.close()
    assert names(tmp_path) == []


@pytest.mark.posix
def test_a_folder_with_the_name_of_the_resume_state_fails_no_download(tmp_path):
    part = part_file(tmp_path / "out")
    part.open()
    (hidden,) = names(tmp_path)
    (tmp_path / f"{hidden}.json").mkdir()
    part.begin(ObjectVersion(2 * MIB + 2, '"one"'), multipart=True, resumable=True)
    part.write(0, [b"{" + b" " * (2 * MIB) + b"}"])
    publish(part, 2 * MIB + 2)
    part.close()
    assert names(tmp_path) == [f"{hidden}.json", "out"]


@pytest.mark.posix
def test_a_resume_state_that_cannot_be_created_fails_no_download(tmp_path, fail_os):
    """For example, the file system has room for bytes, but not for another file."""
    part = part_file(tmp_path / "out")
    part.open()
    part.begin(ObjectVersion(2 * MIB + 2, '"one"'), multipart=True, resumable=True)
    fail_os("open", errno.ENOSPC, when=lambda path: str(path).endswith(".json.new"))
    part.write(0, [b"{" + b" " * (2 * MIB) + b"}"])
    publish(part, 2 * MIB + 2)
    assert names(tmp_path) == ["out"]


@pytest.mark.posix
def test_a_download_whose_renaming_fails_can_be_resumed(tmp_path, monkeypatch):
    """`publish` has given the part file a random name before, which no later download looks for."""

    def fail(_fd, _source, target):
        if target.name == "out":
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        return real(_fd, _source, target)

    real = file_system.rename_open
    part = part_file(tmp_path / "out", overwrite=True)
    part.open()
    part.begin(ObjectVersion(2 * MIB + 2, '"one"'), multipart=True, resumable=True)
    part.write(0, [b"{" + b" " * (2 * MIB) + b"}"])
    with monkeypatch.context() as patch:
        patch.setattr(file_system, "rename_open", fail)
        with pytest.raises(StorageError, match="Operation not permitted"):
            publish(part, 2 * MIB + 2)
    part.close()
    assert state_of(tmp_path / "out").present == [(0, 2 * MIB + 2)]
    assert len(names(tmp_path)) == 2  # the part file and its resume state


@pytest.mark.posix
def test_a_renamed_part_file_is_not_kept_if_another_download_has_begun(tmp_path, monkeypatch):
    first = part_file(tmp_path / "out", overwrite=True)
    second = part_file(tmp_path / "out", overwrite=True)

    def fail(_fd, _source, target):
        if target.name == "out":
            second.open()
            second.begin(SURE, multipart=True, resumable=True)
            second.write(0, [b"{" + b" " * MIB])
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        return real(_fd, _source, target)

    real = file_system.rename_open
    first.open()
    first.begin(ObjectVersion(2 * MIB + 2, '"one"'), multipart=True, resumable=True)
    first.write(0, [b"{" + b" " * (2 * MIB) + b"}"])
    with monkeypatch.context() as patch:
        patch.setattr(file_system, "rename_open", fail)
        with pytest.raises(StorageError):
            publish(first, 2 * MIB + 2)
    first.close()
    assert recorded_state_of(tmp_path / "out").present == [(0, MIB + 1)]
    second.close()
    assert state_of(tmp_path / "out").present == [(0, MIB + 1)]
    assert len(names(tmp_path)) == 2


@pytest.mark.posix
def test_a_relative_target_stays_the_same_file_if_the_program_changes_its_folder(
    tmp_path, monkeypatch
):
    (tmp_path / "later").mkdir()
    monkeypatch.chdir(tmp_path)
    part = begun("out")
    part.write(0, [b"{}"])
    monkeypatch.chdir(tmp_path / "later")
    publish(part, 2)
    assert (tmp_path / "out").read_bytes() == b"{}"
    assert names(tmp_path) == ["later", "out"]


def test_a_relative_target_in_a_deleted_folder_raises_immediately(tmp_path, monkeypatch):
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    with pytest.raises(StorageError, match=r"cannot write out: No such file or directory"):
        part_file(Path("out"))


def test_a_target_created_meanwhile_leaves_nothing_to_resume(tmp_path):
    part = part_file(tmp_path / "out")
    part.open()
    part.begin(SURE, multipart=True, resumable=True)
    part.write(0, [b"{" + b"x" * (2 * MIB) + b"}"])
    (tmp_path / "out").touch()
    with pytest.raises(TargetExistsError):
        publish(part, 2 * MIB + 2)
    part.close()
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize(
    "work", [lambda part: publish(part, 2 * MIB + 2), PartFile.sync], ids=["publish", "sync"]
)
def test_after_a_failed_sync_nothing_is_resumed(tmp_path, monkeypatch, work):
    """The kernel can lose bytes that it could not write, and later return others (fsync(2))."""

    def fail(_fd):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    part = part_file(tmp_path / "out")
    part.open()
    part.begin(SURE, multipart=True, resumable=True)
    part.write(0, [b"{" + b"x" * (2 * MIB) + b"}"])
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        patch.setattr(file_system, "sync_data", fail)
        assert len(names(tmp_path)) == 2  # with the resume state
        with pytest.raises(StorageError):
            work(part)
    assert len(names(tmp_path)) == 1  # the process could be killed now
    part.write(2 * MIB, [bytes(2 * MIB)])
    part.close()
    assert names(tmp_path) == []


def test_after_a_failed_sync_of_an_update_the_state_before_it_is_resumed(tmp_path, monkeypatch):
    monkeypatch.setattr(resume_state, "_boot_id", lambda: None)
    results = iter([None, OSError(errno.EIO, os.strerror(errno.EIO))])

    def sync(_fd):
        if (result := next(results, None)) is not None:
            raise result

    monkeypatch.setattr(os, "fsync", sync)
    part = part_file(tmp_path / "out")
    part.open()
    part.begin(ObjectVersion(size=20 * MIB, etag='"one"'), multipart=True, resumable=True)
    part.write(0, [b"x" * MIB])
    with pytest.raises(StorageError):
        part.write(MIB, [b"x" * 9 * MIB])
    part.close()
    assert state_of(tmp_path / "out").present == [(0, MIB)]


@pytest.mark.posix
def test_a_failed_sync_of_the_folder_leaves_no_resume_state(tmp_path, fail_os):
    fail_os("fsync", errno.EIO, when=lambda fd: stat.S_ISDIR(os.fstat(fd).st_mode))
    part = part_file(tmp_path / "out")
    part.open()
    part.begin(SURE, multipart=True, resumable=True)
    part.write(0, [b"{" + b"x" * (2 * MIB) + b"}"])
    with pytest.raises(StorageError):
        publish(part, 2 * MIB + 2)
    part.close()
    assert names(tmp_path) == ["out"]


@pytest.fixture
def fail_close(monkeypatch):
    """Make closing files with this suffix fail, though they are closed, as a network's can."""

    def fail(ending):
        real = os.close

        def close(fd):
            path = Path(f"/proc/self/fd/{fd}").readlink()
            real(fd)
            if path.name.endswith(ending):
                raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

        monkeypatch.setattr(os, "close", close)

    return fail


def recorded_state_of(target):
    """Return the resume state of the part file while it is being written."""
    (path,) = target.parent.glob(".*.part")
    return ResumeStateFile(path).read("job-1", path.stat().st_size, path.stat().st_ino)


def test_each_write_updates_the_resume_state_immediately(tmp_path):
    part = part_file(tmp_path / "out")
    part.open()
    part.begin(SURE, multipart=True, resumable=True)
    assert recorded_state_of(tmp_path / "out") is None
    part.write(MIB, [b"x" * MIB])
    assert recorded_state_of(tmp_path / "out").present == [(MIB, 2 * MIB)]
    part.write(3 * MIB, [b"x", b"xx"])
    assert recorded_state_of(tmp_path / "out").present == [(MIB, 2 * MIB), (3 * MIB, 3 * MIB + 3)]
    part.write(0, [b"x" * MIB])
    assert recorded_state_of(tmp_path / "out").present == [(0, 2 * MIB), (3 * MIB, 3 * MIB + 3)]
    part.close()


def test_a_resumed_part_file_records_each_write_immediately(tmp_path):
    left_behind(tmp_path / "out")
    part = part_file(tmp_path / "out")
    part.open()
    part.write(2 * MIB, [b"x"])
    assert recorded_state_of(tmp_path / "out").present == [(0, 2 * MIB + 1)]
    part.close()


def test_less_than_a_mebibyte_gets_no_resume_state(tmp_path):
    part = part_file(tmp_path / "out")
    part.open()
    part.begin(SURE, multipart=True, resumable=True)
    part.write(0, [b"x" * (MIB - 1)])
    assert len(names(tmp_path)) == 1
    part.write(MIB, [b"x"])
    assert recorded_state_of(tmp_path / "out").present == [(0, MIB - 1), (MIB, MIB + 1)]
    part.close()


def test_a_resume_state_that_cannot_be_closed_costs_no_descriptor_and_no_result(
    tmp_path, fail_close
):
    part = part_file(tmp_path / "out")
    part.open()
    part.begin(ObjectVersion(MIB + 2, '"one"'), multipart=True, resumable=True)
    part.write(0, [b"{" + b" " * MIB + b"}"])
    before = names("/proc/self/fd")
    fail_close(".json")
    publish(part, MIB + 2)
    assert len(names("/proc/self/fd")) == len(before) - 2  # the part file and its resume state
    assert names(tmp_path) == ["out"]


def test_without_ranges_no_part_file_or_resume_state_is_kept(tmp_path):
    part = part_file(tmp_path / "out")
    part.open()
    part.begin(SURE, multipart=True)
    part.write(0, [b"x" * 2 * MIB])
    assert len(names(tmp_path)) == 1
    part.close()
    assert names(tmp_path) == []


def test_with_a_sync_per_update_there_are_fewer_updates(tmp_path, monkeypatch):
    monkeypatch.setattr(resume_state, "_boot_id", lambda: None)
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    part = part_file(tmp_path / "out")
    part.open()
    part.begin(ObjectVersion(size=20 * MIB, etag='"one"'), multipart=True, resumable=True)
    for number in range(20):
        part.write(number * MIB, [b"x" * MIB])
    assert len(synced) == 3
    assert recorded_state_of(tmp_path / "out").present == [(0, 17 * MIB)]
    part.close()
    assert state_of(tmp_path / "out").present == [(0, 20 * MIB)]


def test_simultaneous_writes_of_threads_are_all_recorded(tmp_path, monkeypatch):
    part = part_file(tmp_path / "out")
    part.open()
    part.begin(SURE, multipart=True, resumable=True)
    within, real = Lock(), ResumeStateFile.write

    def write(self, *args):
        assert within.acquire(blocking=False), "two updates at the same time"
        time.sleep(0.0005)
        real(self, *args)
        within.release()

    monkeypatch.setattr(ResumeStateFile, "write", write)
    with ThreadPoolExecutor(8) as pool:
        writes = [pool.submit(part.write, at * 4096, [b"x" * 4096]) for at in range(1024)]
    assert [write.result() for write in writes] == [None] * 1024
    assert recorded_state_of(tmp_path / "out").present == [(0, 4 * MIB)]
    part.close()


# --- Part files of others -----------------------------------------------------------------------


def part_path_of(target):
    """Return the fixed name of the part file of this target."""
    part = begun(target)
    (path,) = target.parent.glob(".*.part")
    part.close()
    return path


@pytest.mark.posix
@pytest.mark.usefixtures("no_descriptor_is_left_open")
def test_a_part_file_in_use_is_not_touched(tmp_path):
    first = part_file(tmp_path / "out")
    first.open()
    first.begin(SURE, multipart=True, resumable=True)
    first.write(0, [b"{" + b"x" * (2 * MIB) + b"}"])
    second = part_file(tmp_path / "out", overwrite=True)
    assert second.open() is None
    second.begin(SURE, multipart=True, resumable=True)
    second.write(0, [b"{second}"])
    publish(second, 8)
    assert (tmp_path / "out").read_bytes() == b"{second}"
    first.close()
    assert state_of(tmp_path / "out").present == [(0, 2 * MIB + 2)]


@pytest.mark.posix
def test_a_part_file_in_use_by_another_process_is_not_touched(tmp_path):
    left_behind(tmp_path / "out")
    script = (
        "import sys; from pathlib import Path; from adepoll.fetcher.part_file import PartFile;"
        "part = PartFile(Path(sys.argv[1]), job_id='job-1', overwrite=False);"
        "print(part.open() is not None, flush=True); sys.stdin.read(); part.close()"
    )
    command = [sys.executable, "-W", "error", "-c", script, str(tmp_path / "out")]
    with forkserver.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert first_lines(other, 1) == ["True\n"]
        assert state_of(tmp_path / "out") is None
        other.stdin.close()
    assert other.returncode == 0
    assert state_of(tmp_path / "out").present == [(0, 2 * MIB)]


@pytest.mark.parametrize("exists", [True, False])
def test_a_symbolic_link_in_place_of_the_part_file_is_not_followed(tmp_path, exists):
    folder = tmp_path / "folder"
    folder.mkdir()
    planted = part_path_of(folder / "out")
    victim = tmp_path / "victim"
    if exists:
        victim.write_bytes(b"precious")
    planted.symlink_to(victim)
    write_whole(part_file(folder / "out"), b"{}")
    assert (folder / "out").read_bytes() == b"{}"
    assert not (folder / "out").is_symlink()
    assert victim.read_bytes() == b"precious" if exists else not victim.exists()


def test_a_hard_link_in_place_of_the_part_file_is_not_written_to(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    planted = part_path_of(folder / "out")
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    planted.hardlink_to(victim)
    write_whole(part_file(folder / "out"), b"{}")
    assert victim.read_bytes() == b"precious"
    assert names(folder) == ["out"]


def test_a_published_file_of_a_killed_writer_is_not_written_to(tmp_path):
    target = tmp_path / "out"
    part_path = part_path_of(target)
    write_whole(part_file(target), b"{first}")
    part_path.hardlink_to(target)  # as a crash between link(2) and unlink(2) leaves it
    (tmp_path / "copy").hardlink_to(target)
    write_whole(part_file(target, overwrite=True), b"{second}")
    assert target.read_bytes() == b"{second}"
    assert (tmp_path / "copy").read_bytes() == b"{first}"
    assert names(tmp_path) == ["copy", "out"]


@pytest.mark.posix
@pytest.mark.usefixtures("no_descriptor_is_left_open")
@pytest.mark.parametrize("kind", ["folder", "pipe", "foreign"])
def test_other_things_in_place_of_the_part_file_are_left_alone(tmp_path, monkeypatch, kind):
    planted = part_path_of(tmp_path / "out")
    if kind == "folder":
        planted.mkdir()
    elif kind == "pipe":
        os.mkfifo(planted)
    else:
        planted.write_bytes(b"theirs")
        become(os.geteuid() + 1, monkeypatch)
    before = planted.lstat()
    write_whole(part_file(tmp_path / "out"), b"{}")
    assert (tmp_path / "out").read_bytes() == b"{}"
    assert os.path.samestat(planted.lstat(), before)
    assert kind != "foreign" or planted.read_bytes() == b"theirs"


@pytest.fixture
def before_lock(monkeypatch):
    """Run the given actions between open(2) and flock(2), one for each opened part file.

    Another process can do the same at that moment.
    """
    real = fcntl.flock

    def arrange(*actions):
        left = list(actions)

        def flock(fd, operation):
            if left:
                action = left.pop(0)
                with monkeypatch.context() as patch:
                    patch.setattr(fcntl, "flock", real)
                    action()
            real(fd, operation)

        monkeypatch.setattr(fcntl, "flock", flock)

    return arrange


def begin_and_write(part, text):
    part.open()
    part.begin(ObjectVersion(), multipart=False)
    part.write(0, [text])


@pytest.mark.posix
@pytest.mark.usefixtures("no_descriptor_is_left_open")
@pytest.mark.parametrize("overwrite", [True, False])
def test_a_file_published_just_before_its_part_file_is_locked_is_not_written_to(
    tmp_path, before_lock, overwrite
):
    target = tmp_path / "out"
    part_path = part_path_of(target)
    first = part_file(target, overwrite=overwrite)
    begin_and_write(first, b"{first}")
    before_lock(lambda: publish(first, 7))
    second = part_file(target, overwrite=True)
    begin_and_write(second, b"{second}")
    assert target.read_bytes() == b"{first}"
    assert part_path.read_bytes() == b"{second}"
    publish(second, 8)
    assert target.read_bytes() == b"{second}"
    assert names(tmp_path) == ["out"]


@pytest.mark.posix
@pytest.mark.usefixtures("no_descriptor_is_left_open")
@pytest.mark.parametrize("overwrite", [True, False])
def test_a_file_published_while_a_third_writer_begins_is_not_written_to(
    tmp_path, before_lock, overwrite
):
    target = tmp_path / "out"
    part_path = part_path_of(target)
    first, third = part_file(target, overwrite=overwrite), part_file(target, overwrite=True)
    begin_and_write(first, b"{first}")

    def publish_and_begin():
        publish(first, 7)
        begin_and_write(third, b"{third}")

    before_lock(publish_and_begin)
    second = part_file(target, overwrite=True)
    begin_and_write(second, b"{second}")
    assert target.read_bytes() == b"{first}"
    assert part_path.read_bytes() == b"{third}"
    publish(second, 8)
    assert target.read_bytes() == b"{second}"
    publish(third, 7)
    assert target.read_bytes() == b"{third}"
    assert names(tmp_path) == ["out"]


@pytest.mark.posix
@pytest.mark.usefixtures("no_descriptor_is_left_open")
@pytest.mark.parametrize(("removals", "gets_the_name"), [(1, True), (2, True), (3, False)])
def test_after_three_vanished_part_files_another_name_is_used(
    tmp_path, before_lock, removals, gets_the_name
):
    target = tmp_path / "out"
    part_path = part_path_of(target)
    before_lock(*[part_path.unlink] * removals)
    part = part_file(target)
    begin_and_write(part, b"{}")
    assert part_path.exists() == gets_the_name
    publish(part, 2)
    assert names(tmp_path) == ["out"]


@pytest.mark.posix
@pytest.mark.usefixtures("no_descriptor_is_left_open")
def test_a_part_file_with_a_second_name_is_unlinked_and_not_written_to(tmp_path, before_lock):
    """Its writer was killed between link(2) and unlink(2), just before the lock."""
    target = tmp_path / "out"
    part_path = part_path_of(target)
    part_path.write_bytes(b"{first}")
    before_lock(lambda: target.hardlink_to(part_path))
    second = part_file(target, overwrite=True)
    begin_and_write(second, b"{second}")
    assert target.read_bytes() == b"{first}"
    assert part_path.read_bytes() == b"{second}"
    second.close()
    assert names(tmp_path) == ["out"]


@pytest.mark.usefixtures("no_descriptor_is_left_open")
def test_a_part_file_readable_by_others_is_made_private_before_it_is_written(tmp_path):
    part_path = part_path_of(tmp_path / "out")
    part_path.touch(0o644)
    part = begun(tmp_path / "out")
    assert stat.S_IMODE(part_path.stat().st_mode) == 0o600
    part.close()


# --- Several processes, also without working locks -----------------------------------------------


VERSIONS = [(ObjectVersion(3 * MIB, f'"{letter}"'), letter.encode()) for letter in "ab"]


def whole_of(letter):
    return b"{" + letter * (3 * MIB - 2) + b"}"


class Writer:
    """A process that downloads one of two versions to a target, step by step, and may be killed."""

    def __init__(self, target, version, letter):
        self.part = PartFile(target, job_id="job-1", overwrite=True)
        self.version, self.whole = version, whole_of(letter)
        self.left = [0, MIB, 2 * MIB]
        state = self.part.open()
        if state is None or state.version != version:
            self.begin()
        else:
            present = {at for start, stop in state.present for at in range(start, stop, MIB)}
            self.left = [at for at in self.left if at not in present]

    def begin(self):
        self.part.begin(self.version, multipart=True, resumable=True)
        self.left = [0, MIB, 2 * MIB]

    def step(self):
        """Write the next bytes; return the digest if the file has been published."""
        if self.left:
            at = self.left.pop()
            self.part.write(at, [self.whole[at : at + MIB]])
            return None
        digest = publish(self.part, len(self.whole))
        assert digest == hashlib.sha256(self.whole).hexdigest()
        return digest


@settings(max_examples=20)
@given(
    actions=st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from(["step"] * 5 + ["begin", "close", "kill"])),
        min_size=8,
        max_size=40,
    ),
    locks_work=st.booleans(),
)
def test_writers_of_one_target_publish_only_whole_results(actions, locks_work):
    writers, killed = {}, []
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        if not locks_work:
            patch.setattr(fcntl, "flock", lambda _fd, _operation: None)
        target = Path(folder, "out")
        for number, action in actions:
            if number not in writers:
                writers[number] = Writer(target, *VERSIONS[number % 2])
            writer = writers[number]
            if action == "step" and writer.step():
                del writers[number]
            elif action == "begin":
                writer.begin()
            elif action == "close":
                writers.pop(number).part.close()
            elif action == "kill":
                killed.append(writers.pop(number))  # its lock stays, as in a stopped process
            if target.exists():
                assert target.read_bytes() in {whole_of(b"a"), whole_of(b"b")}
        for writer in [*writers.values(), *killed]:
            writer.part.close()


def test_without_locks_a_second_writer_copies_the_bytes_of_the_first(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", lambda _fd, _operation: None)
    first = Writer(tmp_path / "out", *VERSIONS[0])
    first.step()
    second = Writer(tmp_path / "out", *VERSIONS[0])
    assert second.left == [0, MIB]
    for writer in (first, second):
        while not writer.step():
            pass
        assert (tmp_path / "out").read_bytes() == whole_of(b"a")
    assert names(tmp_path) == ["out"]


@pytest.mark.posix
@pytest.mark.usefixtures("no_descriptor_is_left_open")
@pytest.mark.parametrize(("version", "renames"), [(VERSIONS[0], 4), (VERSIONS[1], 5)])
def test_a_name_that_another_process_removes_costs_no_download(
    tmp_path, monkeypatch, version, renames
):
    real, done = os.replace, []

    def replace(source, to):
        done.append(source)
        if len(done) == number:
            Path(source).unlink()  # where locks do not work, it takes the file for a leftover
        real(source, to)

    for number in range(1, renames + 1):
        target = tmp_path / "out"
        first = Writer(target, *VERSIONS[0])
        first.step()
        first.part.close()
        done.clear()
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", replace)
            writer = Writer(target, *version)
            while not writer.step():
                pass
        assert target.read_bytes() == writer.whole
        assert len(done) >= number
        write_whole(part_file(target, overwrite=True), b"{}")
        assert names(tmp_path) == ["out"]


@pytest.mark.posix
def test_a_full_disk_during_the_copy_of_a_leftover_begins_again(tmp_path, fail_os):
    left_behind(tmp_path / "out")
    fail_os("pwrite", errno.ENOSPC)
    assert state_of(tmp_path / "out") is None
    assert names(tmp_path) == []


ORPHAN = ".{}.0123456789ab.0123456789abcdef.part"  # a private part file of a killed process


@pytest.mark.posix
def test_private_part_files_that_killed_writers_have_left_are_removed(tmp_path):
    left_behind(tmp_path / "out")  # this one can be continued
    others = [*names(tmp_path), ".a.part", "a.0123456789ab.0123456789abcdef.part"]
    for name in ("out", "another", "a\nb", *others):
        (tmp_path / (name if name in others else ORPHAN.format(name))).touch()
    used = own_file.OwnFile.create(tmp_path / ORPHAN.format("used"))
    (tmp_path / ORPHAN.format("folder")).mkdir()
    LeftoverRemoval().clean(tmp_path)
    kept = {*others, used.path.name, ORPHAN.format("folder")}
    assert {path.name for path in tmp_path.iterdir()} == kept
    used.close()
    assert open_files_in(tmp_path) == []


def test_each_folder_is_listed_only_once(tmp_path):
    removal = LeftoverRemoval()
    removal.clean(tmp_path)
    orphan = tmp_path / ORPHAN.format("out")
    orphan.touch()
    removal.clean(tmp_path)
    assert orphan.exists()
    for number in range(1_000):
        removal.clean(tmp_path / f"absent-{number}")
    removal.clean(tmp_path)  # it is forgotten after 1,000 other folders
    assert not orphan.exists()


@pytest.mark.posix
def test_what_another_process_removes_at_the_same_time_is_no_error(tmp_path, monkeypatch):
    orphan = tmp_path / ORPHAN.format("out")
    orphan.write_bytes(b"x")
    real = own_file.open_unused

    def open_and_remove(path):
        fd = real(path)
        path.unlink()
        return fd

    monkeypatch.setattr(own_file, "open_unused", open_and_remove)
    LeftoverRemoval().clean(tmp_path)
    assert names(tmp_path) == []


# --- Braces --------------------------------------------------------------------------------------


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
def test_a_result_without_its_last_brace_is_not_published(tmp_path, text, whole, size):
    if size == 7 and len(text) > 1_000:
        text = text[:500] + text[-500:]
    part = begun(tmp_path / "out")
    part.write(0, [text[start : start + size] for start in range(0, len(text), size)])
    if whole:
        publish(part, len(text))
        assert (tmp_path / "out").read_bytes() == text
    else:
        with pytest.raises(ResultTransferError, match="ended within the result") as caught:
            publish(part, len(text))
        assert caught.value.is_object_at_fault
        part.close()
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        (b"{}" + b" " * 200_000, True),
        (b"{}" + b"\n" * 65_536, True),
        (b"{}" + b" " * 200_000 + b"x", False),
        (b'{"a": 1', False),
        (b" " * 200_000, False),
        (b"", False),
    ],
)
@pytest.mark.parametrize("joined", [True, False])
def test_the_last_byte_before_whitespace_must_close_the_result(tmp_path, text, whole, joined):
    part = part_file(tmp_path / "out")
    part.open()
    part.begin(ObjectVersion(len(text), '"one"'), multipart=joined)
    part.write(0, [text])
    part.hash_to(len(text))
    if whole:
        part.publish()
        assert (tmp_path / "out").read_bytes() == text
        return
    with pytest.raises(ResultTransferError, match="ended within the result") as caught:
        part.publish()
    assert caught.value.is_object_at_fault
    part.close()
    assert names(tmp_path) == []


@pytest.mark.posix
@pytest.mark.parametrize("overwrite", [True, False])
def test_a_process_that_is_killed_while_it_publishes_leaves_no_resume_state(
    tmp_path, monkeypatch, overwrite
):
    target = tmp_path / "out"

    class KilledError(BaseException):
        pass

    def kill_after(publish):
        def call(source, into):
            publish(source, into)
            if Path(into) == target:
                raise KilledError

        return call

    for name in ("link", "replace"):
        monkeypatch.setattr(os, name, kill_after(getattr(os, name)))
    part = PartFile(target, job_id="job-1", overwrite=overwrite)
    part.check()
    part.open()
    part.begin(ObjectVersion(MIB + 2, '"one"'), multipart=True, resumable=True)
    part.write(0, [b"{" + b" " * MIB + b"}"])
    part.hash_to(MIB + 2)
    assert len(names(tmp_path)) == 2  # the part file and its resume state
    with pytest.raises(KilledError):
        part.publish()
    os.close(part._own.fd)  # so does the end of the process
    # Without `overwrite`, the part file is linked to the target, and has a private name, too.
    assert len(names(tmp_path)) == 2 - overwrite
    LeftoverRemoval().clean(tmp_path)
    assert names(tmp_path) == ["out"]
    assert target.stat().st_size == MIB + 2
