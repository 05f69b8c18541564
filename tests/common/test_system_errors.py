"""Texts of errors of the system, with advice if a limit is exhausted."""

import errno
import os
import resource

import pytest

from adepoll.common import system_errors
from adepoll.common.system_errors import (
    NO_MEMORY,
    is_exhausted,
    reason_of,
    too_few_files_left,
    too_large_error,
    unwritable_error,
)

pytestmark = pytest.mark.posix
ADVICE = "raise the limit of this process (ulimit -n), or lower the concurrency"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(errno.ENOENT, "No such file", "/secret"), "No such file"),
        (OSError("no number"), "OSError"),
        (ConnectionError(), "ConnectionError"),
        (
            OSError(errno.EMFILE, "Too many open files"),
            f"Too many open files; {ADVICE}",
        ),
    ],
)
def test_a_reason_has_no_path_and_advice_for_limits(error, text):
    assert reason_of(error) == text
    assert NO_MEMORY.startswith("out of memory; free some memory")


@pytest.mark.parametrize(
    ("number", "exhausted"),
    [
        *((getattr(errno, name), True) for name in ("EMFILE", "ENFILE", "EFBIG", "ENOMEM")),
        (errno.EAGAIN, True),
        (errno.EACCES, False),
        (None, False),
    ],
)
def test_limits_are_recognised_by_their_number(number, exhausted):
    assert is_exhausted(OSError(number, "x") if number else OSError("x")) is exhausted


@pytest.mark.parametrize("left", [0, 3, 4])
def test_four_files_must_be_left_for_sqlite(monkeypatch, left):
    opened = []

    def open_file(*_args):
        if len(opened) == left:
            raise OSError(errno.EMFILE, "Too many open files", os.devnull)
        opened.append(1)
        return 7_000 + len(opened)

    monkeypatch.setattr(system_errors.os, "open", open_file)
    closed = []
    monkeypatch.setattr(system_errors.os, "close", closed.append)
    error = too_few_files_left()
    assert closed == [7_000 + number for number in range(left, 0, -1)]
    if left == 4:
        assert error is None
        assert too_few_files_left(0) is None
        opened.clear()
        assert too_few_files_left(5).errno == errno.EMFILE
    else:
        assert (error.errno, error.filename) == (errno.EMFILE, None)


def test_another_error_says_nothing_about_the_number_of_files(monkeypatch):
    def open_file(*_args):
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(system_errors.os, "open", open_file)
    assert too_few_files_left() is None


@pytest.mark.parametrize(
    ("size", "room", "fits"), [(90, 10, True), (90, 11, False), (0, 100, True)]
)
def test_a_file_may_grow_up_to_the_limit(monkeypatch, tmp_path, size, room, fits):
    file = tmp_path / "file"
    file.write_bytes(b"x" * size)
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (100, resource.RLIM_INFINITY))
    error = too_large_error([tmp_path / "missing", file], room)
    assert error is None if fits else error.errno == errno.EFBIG
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (resource.RLIM_INFINITY, 100))
    assert too_large_error([file], 10**9) is None


def test_without_files_no_error_is_made(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (1, 1))
    assert too_large_error([], 10) is None


def test_a_folder_with_no_room_for_a_file_is_found(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, hard))
    try:
        assert unwritable_error(tmp_path, 1_000) is None
        assert unwritable_error(tmp_path, 1_001).errno == errno.EFBIG
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert unwritable_error(tmp_path / "missing", 1).errno == errno.ENOENT
    assert not [*tmp_path.iterdir()]


def test_a_file_system_that_reports_its_errors_late_is_asked_to_sync(tmp_path, monkeypatch):
    def fsync(_fd):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(os, "fsync", fsync)
    assert unwritable_error(tmp_path, 1).errno == errno.EDQUOT
