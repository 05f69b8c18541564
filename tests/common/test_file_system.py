"""Files are replaced also where the system cannot rename open files."""

import errno
from pathlib import Path

import pytest

from adepoll.common import file_system


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
    with file_system.replacing(target) as file:
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
