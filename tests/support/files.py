"""Folders and digests, as tests compare them."""

import hashlib
import os
import shutil
import stat
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest

from adepoll.common import file_system


def names(folder):
    """Return the names of the entries in a folder, sorted."""
    return sorted(entry.name for entry in Path(folder).iterdir())


def sha256(data):
    """Return the SHA-256 of bytes as lower-case hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def become(user, monkeypatch):
    """Make this process seem to belong to another user.

    Then the folders of the tests belong to somebody else, too, so they are not checked.
    """
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setattr(file_system, "check_owners_of_folders", lambda _path: None)


def mode_of_new_files(folder):
    """Return the permissions of a file that is created in this folder without asking for any.

    Without owners, as on Windows, adepoll sets no permissions: a result has those of a part file.
    """
    if not file_system.HAS_UIDS:
        return 0o600
    probe = folder / "probe"
    probe.touch()
    mode = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    return mode


@contextmanager
def small_file_system(folder, size):
    """Mount a file system of a size such as "30m" at a new folder; skip the test if not root."""
    folder.mkdir()
    mount = shutil.which("mount")
    options = ["-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder]
    if (
        mount is None
        or subprocess.run([mount, *options], capture_output=True, check=False).returncode
    ):
        pytest.skip("a file system can be mounted by root only")
    yield folder
    subprocess.run([shutil.which("umount"), "-l", folder], check=True)
