"""Replaces a whole file: a table or a report appears complete or not at all.

Blocking code; call it from threads.
"""

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from adepoll.common import file_system
from adepoll.common.own_file import OwnFile, remove_unused

_NAME: Final = re.compile(r"\.adepoll-[0-9a-f]{16}\.part")
_MAX_TRIES: Final = 3  # attempts to rename the file while other processes remove it


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a temporary file that replaces `path` at the end of the block, if no error is raised.

    The mode of the temporary file is 0600. Temporary files that killed processes have left in the
    same folder are removed. If `path` exists and is not a regular file, such as ``/dev/stdout``,
    yield that file itself.

    Raises:
        OSError: The file cannot be written; the temporary file is removed. Or another user, who is
            not root, has put a link, a pipe or a device in the place of `path`.
    """
    file_system.check_owner_of_link(path)
    # The unresolved path is opened: if /dev/stdout is a pipe, it resolves to a path like
    # "/proc/123/fd/pipe:[456]", which does not exist.
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            yield file
        return
    # If `path` is a symbolic link, the file that it points to is replaced. Before Python 3.13,
    # `Path.resolve` raises RuntimeError for a link that leads to itself.
    path = Path(os.path.realpath(path))
    _remove_unused(path.parent)
    own = OwnFile.create(_random_path(path.parent))
    try:
        with os.fdopen(own.fd, "wb", closefd=False) as file:
            yield file
        os.fsync(own.fd)
        own = _renamed(own, path)
    except BaseException:
        own.remove()
        raise
    own.close()


def _renamed(own: OwnFile, path: Path) -> OwnFile:
    """Rename a file to `path`; return it with its new path."""
    for left in reversed(range(_MAX_TRIES)):
        try:
            file_system.rename_open(own.fd, own.path, path)
        except FileNotFoundError:
            # Locks do not work here, and another process has removed the file.
            if not left:
                raise
            own = own.moved_to_copy(_random_path(path.parent))
        else:
            break
    return OwnFile(own.fd, path)


def _random_path(folder: Path) -> Path:
    return folder / f".adepoll-{secrets.token_hex(8)}.part"


def _remove_unused(folder: Path) -> None:
    """Remove the temporary files that ended processes of this user have left in a folder."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if _NAME.fullmatch(entry.name)]
    except OSError:
        return  # a folder can be writable but not readable
    for name in names:
        remove_unused(folder / name)
