"""A resume state is used if it is of this job and machine run, complete and plausible."""

import json
import os
import stat
from binascii import crc32
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adepoll.fetcher import resume_state
from adepoll.fetcher.resume_state import ResumeState, ResumeStateFile, merged
from adepoll.fetcher.storage_rules import ObjectVersion

SURE = ObjectVersion(size=100, etag='"one"')
DONE = [(0, 10), (20, 30)]


@pytest.fixture
def part(tmp_path):
    path = tmp_path / ".out.0.part"
    path.write_bytes(b"x" * 50)
    return path


@pytest.fixture
def state_path(part):
    return part.with_name(f"{part.name}.json")


def write(part, state, *, job_id="job-1"):
    with part.open("rb") as file, closing(ResumeStateFile(part)) as state_file:
        state_file.write(file.fileno(), job_id, state)


def read(part, length=50):
    inode = part.stat().st_ino if part.exists() else 0
    return ResumeStateFile(part).read("job-1", length, inode)


@pytest.fixture
def document(part, state_path):
    """Return the JSON of a valid resume state."""
    write(part, ResumeState(SURE, DONE))
    return resume_state._unseal(state_path.read_bytes())


def seal(document):
    return resume_state._seal(json.dumps(document))


def test_empty_ranges_are_left_out_and_neighbours_are_joined():
    ranges = [(7, 6), (5, 5), (2, 3), (0, 2), (5, 8), (6, 7), (9, 10), (20, 30), (20, 25)]
    assert merged(ranges) == [(0, 3), (5, 8), (9, 10), (20, 30)]
    assert merged([]) == []


def test_a_written_state_is_read_again(part):
    write(part, ResumeState(SURE, DONE))
    assert read(part) == ResumeState(SURE, DONE)


def test_the_state_of_another_file_with_the_same_name_is_ignored(part, tmp_path):
    write(part, ResumeState(SURE, DONE))
    (tmp_path / "other").write_bytes(b"x" * 50)
    (tmp_path / "other").replace(part)
    assert read(part) is None


@pytest.mark.posix  # Windows has no users with numbers
def test_the_state_that_another_user_has_written_is_ignored(part, monkeypatch):
    write(part, ResumeState(SURE, DONE))
    another_user = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: another_user)
    assert read(part) is None


def test_each_state_replaces_the_one_before(part, tmp_path):
    write(part, ResumeState(SURE, [(0, 10)]))
    write(part, ResumeState(SURE, [(0, 40)]))
    assert read(part).present == [(0, 40)]
    assert len([*tmp_path.iterdir()]) == 2


def test_states_are_overwritten_in_place(part, state_path, tmp_path):
    state_file = ResumeStateFile(part)
    inodes = set()
    with part.open("rb") as file:
        for done in ([(0, 10)], [(0, 10), (20, 30), (40, 50)], [(0, 30)], [(0, 31)]):
            state_file.write(file.fileno(), "job-1", ResumeState(SURE, done))
            assert read(part).present == done
            inodes.add(state_path.stat().st_ino)
    assert len(inodes) == 1
    state_file.close()
    state_file.close()
    assert read(part).present == [(0, 31)]
    assert {path.name for path in tmp_path.iterdir()} == {part.name, state_path.name}


def test_a_half_written_state_is_ignored(part, state_path):
    write(part, ResumeState(SURE, [(0, 19)]))
    before = state_path.read_bytes()
    write(part, ResumeState(SURE, [(0, 20)]))
    after = state_path.read_bytes()
    assert len(before) == len(after)
    for cut in range(len(after)):
        torn = after[:cut] + before[cut:]
        state_path.write_bytes(torn)
        state = read(part)
        assert state is None or torn in (before, after)


@pytest.mark.posix
@pytest.mark.parametrize("how", ["some of it", "an error"])
def test_a_partial_write_keeps_the_last_state(part, monkeypatch, how):
    real = os.pwrite

    def pwrite(fd, document, at):
        if b"[20, 33]" not in document:
            return real(fd, document, at)
        written = real(fd, document[:70], at)
        if how == "an error":
            raise OSError(28, "No space left on device")
        return written

    monkeypatch.setattr(os, "pwrite", pwrite)
    with part.open("rb") as file, closing(ResumeStateFile(part)) as state_file:
        state_file.write(file.fileno(), "job-1", ResumeState(SURE, [(0, 10)]))
        with pytest.raises(OSError, match="No space left"):
            state_file.write(file.fileno(), "job-1", ResumeState(SURE, [(0, 10), (20, 33)]))
        assert read(part).present == [(0, 10)]
        state_file.write(file.fileno(), "job-1", ResumeState(SURE, [(0, 40)]))
    assert read(part).present == [(0, 40)]


def test_only_the_owner_may_read_it(part, state_path):
    before = os.umask(0)
    try:
        write(part, ResumeState(SURE, DONE))
    finally:
        os.umask(before)
    assert stat.S_IMODE(state_path.stat().st_mode) == 0o600


def test_the_file_contains_no_url(document):
    assert set(document) == {"format", "job_id", "size", "etag", "boot", "inode", "done"}


def test_removing_may_be_repeated(part, tmp_path):
    write(part, ResumeState(SURE, DONE))
    for _ in range(2):
        ResumeStateFile(part).remove()
        assert [*tmp_path.iterdir()] == [part]
    assert read(part) is None


def test_a_state_of_another_job_is_ignored(part):
    write(part, ResumeState(SURE, DONE), job_id="job-2")
    assert read(part) is None


def test_a_state_from_before_a_reboot_is_ignored(part, monkeypatch):
    write(part, ResumeState(SURE, DONE))
    monkeypatch.setattr(resume_state, "_boot_id", lambda: "another")
    assert read(part) is None


def test_without_a_boot_id_bytes_are_synced_before_each_update(part, monkeypatch):
    events = []
    monkeypatch.setattr(resume_state, "_boot_id", lambda: None)
    monkeypatch.setattr(os, "fsync", lambda _fd: events.append(read(part)))
    write(part, ResumeState(SURE, [(0, 10)]))
    write(part, ResumeState(SURE, [(0, 20)]))
    assert events == [None, ResumeState(SURE, [(0, 10)])]  # the state at the time of each sync
    assert read(part) == ResumeState(SURE, [(0, 20)])


def test_with_a_boot_id_nothing_is_synced(part, monkeypatch):
    def fsync(_fd):
        raise AssertionError("synced")

    monkeypatch.setattr(resume_state, "_boot_id", lambda: "this one")
    monkeypatch.setattr(os, "fsync", fsync)
    write(part, ResumeState(SURE, DONE))


@pytest.mark.parametrize("length", [0, 10, 29])
def test_a_state_with_bytes_beyond_the_end_of_the_file_is_ignored(part, length):
    write(part, ResumeState(SURE, DONE))
    assert read(part, length) is None
    assert read(part, 30) is not None


@pytest.mark.parametrize(
    "version",
    [
        ObjectVersion(None, '"one"'),
        ObjectVersion(100, None),
        ObjectVersion(100, 'W/"one"'),
        ObjectVersion(100, ""),
    ],
    ids=["no size", "no tag", "a weak tag", "an empty tag"],
)
def test_a_state_without_size_or_strong_etag_is_ignored(part, version):
    write(part, ResumeState(version, DONE))
    assert read(part) is None


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"7",
        b'"text"',
        b"\x00" * 100,
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b" " * 2**21,
        b"1" * 5_000,
        b"NaN",
    ],
    ids=lambda garbage: repr(garbage[:8]),
)
def test_garbage_is_ignored(part, state_path, garbage):
    for whole in (garbage, b"%08x %b\n" % (crc32(garbage), garbage)):
        state_path.write_bytes(whole)
        assert read(part) is None


@pytest.mark.parametrize("cut", [1, 10, 60, -2])
def test_a_cut_state_is_ignored(part, document, state_path, cut):
    state_path.write_bytes(seal(document)[:cut])
    assert read(part) is None


def test_a_huge_state_is_not_read_completely(part, document, state_path):
    state_path.write_bytes(seal(document | {"filler": "x" * 2**21}))
    assert read(part) is None


@pytest.mark.parametrize("field", ["format", "job_id", "size", "etag", "boot", "done"])
@pytest.mark.parametrize("value", [..., None, -1, 0, 1.5, "text", [], {}, [[]], 2**70])
def test_a_state_with_a_missing_or_wrong_field_is_ignored(part, document, state_path, field, value):
    if value is ...:
        del document[field]
    else:
        document[field] = value
    state_path.write_bytes(seal(document))
    state = read(part)
    if field == "done" and value == []:
        assert state is None or state.present == []
    elif field == "etag" and value == "text":
        assert state == ResumeState(
            ObjectVersion(100, "text"), DONE
        )  # some storages omit the quotes
    elif field == "size" and value == 2**70:
        assert state.version.size == 2**70
    else:
        assert state is None


@pytest.mark.parametrize(
    "done",
    [
        [[10, 0]],
        [[5, 5]],
        [[-1, 5]],
        [[0, 51]],
        [[0, 101]],
        [[0, 2**70]],
        [[0]],
        [[0, 1, 2]],
        [["0", "1"]],
        [[0.0, 1.0]],
        [[None, 1]],
        [0, 1],
        ["01"],
        [{"start": 0, "stop": 1}],
        [[0, 10], [20, 10]],
    ],
)
def test_a_state_with_an_invalid_span_is_ignored(part, document, state_path, done):
    state_path.write_bytes(seal(document | {"done": done}))
    assert read(part) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
)


@given(value=JSON)
def test_any_json_is_read_without_an_unexpected_error(tmp_path_factory, value):
    part = tmp_path_factory.mktemp("state_file") / ".out.0.part"
    path = part.with_name(f"{part.name}.json")
    path.write_bytes(seal(value))
    assert read(part) is None
    about = {"format": 2, "job_id": "job-1", "size": 100, "etag": '"a"'}
    path.write_bytes(seal(about | {"boot": resume_state._boot_id(), "done": value}))
    state = read(part)
    assert state is None or all(0 <= start < stop <= 50 for start, stop in state.present)


# --- Other things in place of the file ----------------------------------------------------------


@pytest.mark.posix
@pytest.mark.parametrize("kind", ["folder", "pipe", "link to nowhere"])
def test_something_other_than_a_file_is_ignored_without_waiting(part, state_path, kind):
    if kind == "folder":
        state_path.mkdir()
    elif kind == "pipe":
        os.mkfifo(state_path)  # opening it could wait for a writer
    else:
        state_path.symlink_to("nowhere")
    assert read(part) is None


@pytest.mark.parametrize("link", [os.symlink, os.link], ids=["symbolic", "hard"])
@pytest.mark.parametrize("suffix", ["", ".new"])
def test_a_link_in_place_of_the_file_is_replaced_without_changing_its_target(
    part, state_path, tmp_path, link, suffix
):
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    link(victim, f"{state_path}{suffix}")
    write(part, ResumeState(SURE, DONE))
    assert victim.read_bytes() == b"precious"
    assert read(part) == ResumeState(SURE, DONE)


def test_a_pipe_in_place_of_the_file_does_not_block(part, state_path):
    os.mkfifo(f"{state_path}.new")  # opening it could wait for a reader
    write(part, ResumeState(SURE, DONE))
    assert read(part) == ResumeState(SURE, DONE)


@pytest.mark.posix
def test_a_failed_write_keeps_the_last_state(part, monkeypatch):
    write(part, ResumeState(SURE, DONE))

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space"):
        write(part, ResumeState(SURE, [(0, 40)]))
    assert read(part) == ResumeState(SURE, DONE)
