"""Folders and digests, as tests compare them."""

import hashlib
from pathlib import Path


def names(folder):
    """Return the names of the entries in a folder, sorted."""
    return sorted(entry.name for entry in Path(folder).iterdir())


def sha256(data):
    """Return the SHA-256 of bytes as lower-case hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()
