"""The lock of a journal: only one process at a time can open the journal for writing."""

from pathlib import Path
from typing import Protocol

from adepoll.common import file_system
from adepoll.journal import database_lock, file_lock


class JournalLock(Protocol):
    """The lock of one journal. It is held until `release`, or until the process ends."""

    def release(self) -> None:
        """Release the lock. A second call does nothing."""


def take_lock(journal: Path) -> JournalLock:
    """Acquire the lock of a journal.

    Raises:
        JournalBusyError: Another process, or another `Journal` of this process, has the lock.
        JournalAccessError: The lock file cannot be created.
    """
    if file_system.HAS_FLOCK:
        return file_lock.FileLock.take(journal)
    return database_lock.DatabaseLock.take(journal)


def holder_of(journal: Path) -> int | None:
    """Return the pid of the process that has the journal open; None if no process has."""
    if file_system.HAS_FLOCK:
        return file_lock.holder_of(journal)
    return database_lock.holder_of(journal)
