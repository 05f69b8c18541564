"""ResultFolder: which files are in use, and which are left by processes that have ended."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest
from files import names

from adepoll.api.result_folder import ResultFolder, remove_unused
from adepoll.common import file_system

TOKEN = "0123456789abcdef"
LEFT = [f".adepoll-{TOKEN}-0.result", f".adepoll-{TOKEN}-17.result", f".adepoll-{TOKEN}.lock"]

needs_locks = pytest.mark.skipif(not file_system.HAS_FLOCK, reason="the system has no flock")


def leave(folder, found=LEFT):
    for name in found:
        (folder / name).write_bytes(b"left")


@pytest.mark.parametrize("found", [LEFT, LEFT[:2], LEFT[2:]])
def test_the_files_of_an_ended_process_are_removed(tmp_path, found):
    leave(tmp_path, found)
    remove_unused(tmp_path)
    assert names(tmp_path) == []


def test_the_first_file_removes_what_an_ended_process_has_left(tmp_path):
    leave(tmp_path)
    kept = ResultFolder(tmp_path).create()
    assert len(names(tmp_path)) == 2
    assert kept.path.read_bytes() == b""
    assert kept.path.stat().st_mode & 0o777 == 0o600


def test_files_are_in_use_until_the_last_one_is_deleted(tmp_path):
    folder = ResultFolder(tmp_path)
    first, second = folder.create(), folder.create()
    del folder
    before = names(tmp_path)
    assert len(before) == 3  # with the lock
    leave(tmp_path)
    remove_unused(tmp_path)
    assert names(tmp_path) == before
    ResultFolder(tmp_path).create().delete()
    assert names(tmp_path) == before
    first.delete()
    assert len(names(tmp_path)) == 2
    del second
    gc.collect()
    assert names(tmp_path) == []


def test_a_folder_can_be_used_again_after_its_last_file_was_deleted(tmp_path):
    folder = ResultFolder(tmp_path)
    for _ in range(2):
        kept = folder.create()
        assert len(names(tmp_path)) == 2
        kept.delete()
    assert names(tmp_path) == []


@needs_locks
def test_a_killed_process_leaves_files_that_the_next_one_removes(tmp_path):
    program = (
        "import os, pathlib, sys; from adepoll.api.result_folder import ResultFolder;"
        "kept = ResultFolder(pathlib.Path(sys.argv[1])).create(); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", program, tmp_path], check=False)
    assert len(names(tmp_path)) == 2
    remove_unused(tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "name",
    [
        ".adepoll-0123456789ABCDEF.lock",
        ".adepoll-0123456789abcdef-x.result",
        f".adepoll-{TOKEN}-1.result.json",
        f"adepoll-{TOKEN}-1.result",
        ".adepoll-report-a.part",
    ],
)
def test_other_files_stay(tmp_path, name):
    leave(tmp_path, [*LEFT, name])
    remove_unused(tmp_path)
    assert names(tmp_path) == [name]


def test_a_link_and_a_folder_with_such_a_name_stay(tmp_path):
    target = tmp_path / "precious.json"
    target.touch()
    (tmp_path / LEFT[0]).symlink_to(target)
    (tmp_path / LEFT[1]).mkdir()
    remove_unused(tmp_path)
    assert names(tmp_path) == sorted([*LEFT[:2], "precious.json"])


def test_a_folder_between_the_files_of_an_ended_process_stays(tmp_path):
    leave(tmp_path)
    (tmp_path / f".adepoll-{TOKEN}-99.result").mkdir()
    remove_unused(tmp_path)
    assert names(tmp_path) == [f".adepoll-{TOKEN}-99.result"]


@needs_locks
def test_without_locks_nothing_is_removed(tmp_path, monkeypatch):
    def no_locks(_fd):
        raise OSError(os.strerror(37))

    monkeypatch.setattr(file_system, "lock", no_locks)
    leave(tmp_path)
    kept = ResultFolder(tmp_path).create()
    remove_unused(tmp_path)
    assert len(names(tmp_path)) == 5
    kept.delete()
    assert names(tmp_path) == LEFT


@needs_locks
def test_the_files_of_another_user_stay(tmp_path, monkeypatch):
    leave(tmp_path)
    another_user = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: another_user)
    remove_unused(tmp_path)
    assert names(tmp_path) == LEFT


def test_a_folder_that_does_not_exist_is_clean(tmp_path):
    remove_unused(tmp_path / "absent")


def test_a_file_is_found_after_the_program_has_changed_its_folder(tmp_path, monkeypatch):
    (tmp_path / "large").mkdir()
    monkeypatch.chdir(tmp_path)
    kept = ResultFolder(Path("large")).create()
    monkeypatch.chdir("large")
    assert kept.path.exists()
    kept.delete()
    assert not kept.path.exists()
