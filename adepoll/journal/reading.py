"""JournalReader: reads a journal beside the batch that writes it. Imports opening and below.

It takes no lock, and writes nothing into the folder where that can be avoided.
"""

import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from adepoll.errors import ClosedError, JournalDamagedError, JournalNotFoundError, NotAJournalError
from adepoll.journal.failing import not_opened
from adepoll.journal.lock import holder_of
from adepoll.journal.opening import check_kind, connect_to_read, examine, has_wal, resolve
from adepoll.journal.outcomes import Counts, Record
from adepoll.journal.rows import RECORD_COLUMNS, Failure, count, failures, record_of, span

_T = TypeVar("_T")

_PAGE: Final = 200  # rows of one look
_RECORDS: Final = f"SELECT {RECORD_COLUMNS} FROM jobs WHERE number > ? ORDER BY number LIMIT ?"  # noqa: S608 - of constants


class JournalReader:
    """Reads a journal, also one that a batch is writing, and also in a folder without write access.

    Use it as ``with JournalReader(path) as journal``, in one thread. Each call sees the journal as
    it is at that moment.

    Attributes:
        path: The file, absolute, links followed.
        endpoint: The address of the API whose jobs these are.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open the journal.

        Raises:
            JournalNotFoundError: There is none.
            NotAJournalError: The file is something else.
            JournalFormatError: A newer version wrote it.
            JournalDamagedError: It is damaged, as far as that shows; it is not searched for damage.
            JournalAccessError: It cannot be read.
            JournalBusyError: Another program has it locked.
        """
        self.path: Final = resolve(path)
        if examine(self.path) is None:
            raise JournalNotFoundError(path=str(self.path))
        self._connection: sqlite3.Connection | None = None
        self._closed = False
        self._seen: object = None
        try:
            found = self.notes().get("endpoint")
        except BaseException:
            self.close()
            raise
        if found is None:
            self.close()
            raise JournalDamagedError(
                ["it does not say of which service it is"], path=str(self.path)
            )
        self.endpoint: Final = found

    def __enter__(self) -> Self:
        """Give the reader, which is open."""
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Close the file; may be repeated."""
        self._closed = True
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @property
    def holder(self) -> int | None:
        """The process that has the journal open to write it; None where none has."""
        return holder_of(self.path)

    def counts(self) -> Counts:
        """Count the jobs."""
        return self._read(count)

    def notes(self) -> Mapping[str, str]:
        """Give all notes: "endpoint", and what a batch keeps for its next run."""
        return self._read(
            lambda connection: dict(connection.execute("SELECT key, value FROM notes").fetchall())
        )

    def records(self) -> Iterator[Record]:
        """Walk through all jobs by number, without inline results; a few at a time are held.

        Raises:
            JournalDamagedError: One cannot be read.
        """
        after = 0
        while True:
            rows = self._read(partial(_rows_after, after))
            if not rows:
                return
            for row in rows:
                yield record_of(row, None, self.path)
            after = rows[-1][0]

    def span(self) -> tuple[float | None, float | None]:
        """Give when the first job was added, and when the last outcome was written down.

        Both are Unix seconds, and None where there is none yet.
        """
        return self._read(span)

    def failures(self, *, most: int = 100) -> list[Failure]:
        """Group what went wrong by how, the most frequent first; at most so many groups."""
        return self._read(lambda connection: failures(connection, most))

    def _read(self, query: Callable[[sqlite3.Connection], _T]) -> _T:
        """Read; again, if the file was written while nothing was locked."""
        if self._closed:
            raise ClosedError("the journal's reader is closed")
        while True:
            try:
                before = self._state()
                result = query(self._connected(before))
            except sqlite3.Error as exc:
                if self._state() == before:
                    raise not_opened(exc, self.path) from exc
            else:
                if before == self._state():
                    return result

    def _connected(self, state: object) -> sqlite3.Connection:
        """Give a connection that was made in that state of the file."""
        if self._connection is not None and state == self._seen:
            return self._connection
        if self._connection is not None:
            self._connection.close()
        self._connection, self._seen = connect_to_read(self.path), state
        if not check_kind(self._connection, self.path):
            raise NotAJournalError(path=str(self.path), reason="it is empty")
        return self._connection

    def _state(self) -> object:
        """Tell whether there is a WAL; if not, in which state the file is that nobody writes."""
        if has_wal(self.path):
            return True
        found = examine(self.path)
        if found is None:
            raise JournalNotFoundError(path=str(self.path))
        return found.st_ino, found.st_size, found.st_mtime_ns


def _rows_after(number: int, connection: sqlite3.Connection) -> list[tuple[Any, ...]]:
    return connection.execute(_RECORDS, (number, _PAGE)).fetchall()
