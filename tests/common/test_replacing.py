"""A file is replaced when its new contents are complete; a killed process leaves no file behind."""

import os
import sys
from pathlib import Path

import pytest
from files import names

from adepoll.common import file_system
from adepoll.common.own_file import OwnFile
from adepoll.common.replacing import replacing

LEFT = ".adepoll-0123456789abcdef.part"


def write(target):
    with replacing(target) as file:
        file.write(b"new")


def test_a_link_that_leads_to_itself_is_replaced(tmp_path):
    target = tmp_path / "out"
    target.symlink_to("out")
    write(target)
    assert target.read_bytes() == b"new"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no /dev")
def test_a_pipe_that_is_named_by_its_descriptor_is_written_to():
    reading, writing = os.pipe()
    try:
        write(Path(f"/dev/fd/{writing}"))
        assert os.read(reading, 10) == b"new"
    finally:
        os.close(reading)
        os.close(writing)


def test_a_file_is_synced_before_it_replaces_another(monkeypatch, tmp_path):
    target, synced = tmp_path / "out", []
    target.write_bytes(b"old")

    def fsync(fd):
        (part,) = tmp_path.glob(".adepoll-*.part")
        assert os.path.samestat(os.fstat(fd), part.stat())
        synced.append((part.read_bytes(), target.read_bytes()))

    monkeypatch.setattr(os, "fsync", fsync)
    write(target)
    assert synced == [(b"new", b"old")]
    assert target.read_bytes() == b"new"


def test_what_a_killed_process_has_left_is_removed(tmp_path):
    """The system releases the lock of a killed process. The target of its file does not matter."""
    os.close(OwnFile.create(tmp_path / LEFT).fd)
    write(tmp_path / "out")
    assert names(tmp_path) == ["out"]


def test_the_file_of_a_running_process_is_kept(tmp_path):
    target = tmp_path / "out"
    with replacing(target) as first:
        write(target)
        assert len(names(tmp_path)) == 2
        first.write(b"first")
    assert target.read_bytes() == b"first"
    assert names(tmp_path) == ["out"]


OTHER_FILES = [
    ".adepoll-0123456789abcdef.part.json",
    ".adepoll-0123456789ABCDEF.part",
    ".adepoll-report.part",
    ".out.csv.0123456789ab.0123456789abcdef.part",
]


def test_files_with_other_names_are_kept(tmp_path):
    for name in OTHER_FILES:
        (tmp_path / name).touch()
    write(tmp_path / "out")
    assert names(tmp_path) == sorted([*OTHER_FILES, "out"])


def test_a_folder_and_a_link_with_the_name_of_a_temporary_file_are_kept(tmp_path):
    (tmp_path / LEFT).mkdir()
    link = tmp_path / LEFT.replace("0", "1")
    link.symlink_to(tmp_path / "other")
    (tmp_path / "other").write_bytes(b"other")
    write(tmp_path / "out")
    assert names(tmp_path) == sorted([LEFT, link.name, "other", "out"])


def test_a_folder_that_cannot_be_listed_gets_the_file(tmp_path, monkeypatch):
    def scandir(_folder):
        raise PermissionError

    monkeypatch.setattr(os, "scandir", scandir)
    write(tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"new"


def test_a_file_is_complete_where_locks_do_not_work(tmp_path, monkeypatch):
    """There, another process can remove the temporary file, because it seems to be unused."""
    monkeypatch.setattr(file_system, "lock", lambda _fd: None)
    target = tmp_path / "out"
    with replacing(target) as first:
        first.write(b"first")
        write(tmp_path / "other")
        assert names(tmp_path) == ["other"]
    assert target.read_bytes() == b"first"
    assert names(tmp_path) == ["other", "out"]


def test_a_file_that_is_removed_again_and_again_is_an_error(tmp_path, monkeypatch):
    rename, removed = file_system.rename_open, []

    def remove_first(fd, source, target):
        source.unlink()
        removed.append(source)
        rename(fd, source, target)

    monkeypatch.setattr(file_system, "rename_open", remove_first)
    with pytest.raises(FileNotFoundError):
        write(tmp_path / "out")
    assert len(set(removed)) == 3
    assert names(tmp_path) == []
