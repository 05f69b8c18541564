"""Files of tables: they appear complete or not at all, readable for their owner only."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a file that replaces `path` when the block ends without an error.

    Something other than a regular file, such as ``/dev/stdout``, is written to directly.

    Raises:
        OSError: The file cannot be written; the temporary file is removed.
    """
    path = path.resolve()  # keeps a symbolic link, and replaces its target
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            yield file
        return
    fd, name = tempfile.mkstemp(prefix=".adepoll-table-", suffix=".part", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(fd, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
