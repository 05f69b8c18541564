"""Spool: a temporary file that keeps rows until their columns are known.

The first pass over the rows finds the columns, and the second pass writes the tables. Each result
is read once, so a batch that is still running cannot change a row between the two passes.
"""

import pickle
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from adepoll.common.closing import Closeable
from adepoll.tables.job_rows import Row

_ROWS = 1_000  # maximum number of rows in a block
_BLOCK = 2**20  # length of results, in characters or bytes, after which a block ends


def in_blocks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Yield rows in blocks that fit into memory."""
    block: list[Row] = []
    size = 0
    for row in rows:
        block.append(row)
        size += row.size
        if len(block) >= _ROWS or size >= _BLOCK:
            yield block
            block, size = [], 0
    if block:
        yield block


class Spool(Closeable):
    """Rows on disk, in blocks that fit into memory. A context manager; the file has no name."""

    def __init__(self, folder: Path) -> None:
        """Create the file in a folder that has room for the extracted data of all results."""
        self._folder = folder
        with self._naming_folder():
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by `close`

    def close(self) -> None:
        """Remove the file."""
        self._file.close()

    def append(self, block: Sequence[Row]) -> None:
        """Add a block of rows."""
        with self._naming_folder():
            pickle.dump(block, self._file, pickle.HIGHEST_PROTOCOL)
            self._file.flush()

    def blocks(self) -> Iterator[Sequence[Row]]:
        """Yield all blocks in the order in which they were added."""
        self._file.seek(0)
        while True:
            try:
                yield pickle.load(self._file)  # noqa: S301 - no other user can write a file without a name
            except EOFError:
                return

    @contextmanager
    def _naming_folder(self) -> Iterator[None]:
        """If the ``with`` block raises an `OSError`, add the folder, as the file has no name."""
        try:
            yield
        except OSError as error:
            error.filename = str(self._folder)
            raise
