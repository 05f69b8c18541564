"""Errors of a batch as a whole: its journal, and the disk that it writes to."""

from collections.abc import Sequence

from adepoll.errors._base import AdePollError
from adepoll.errors._results import StorageError
from adepoll.redaction import showable


class JournalError(AdePollError):
    """The journal of a batch could not be opened, read or written.

    Attributes:
        path: The file; None for a journal in memory.
    """

    def __init__(self, message: str, *, path: str | None) -> None:
        subject = "the journal" if path is None else f"the journal {showable(path)}"
        super().__init__(f"{subject} {message}")
        self.path = path


class JournalNotFoundError(JournalError, FileNotFoundError):
    """The journal does not exist, and should not be created."""

    def __init__(self, *, path: str) -> None:
        super().__init__("does not exist; check the path, or start a batch with it", path=path)


class JournalBusyError(JournalError):
    """Another process has opened the journal.

    Attributes:
        pid: Id of that process; None if it is not known.
    """

    def __init__(self, *, path: str, pid: int | None) -> None:
        who = "another program, such as a sqlite3 shell" if pid is None else f"process {pid}"
        super().__init__(
            f"is in use by {who}; wait for its end, or stop it, and run the same command again",
            path=path,
        )
        self.pid = pid


class JournalEndpointError(JournalError):
    """The journal contains jobs of another service: another region, host, scheme or port.

    Attributes:
        theirs: Address of the API for which the journal was created.
        ours: Address of the API with which it was opened now.
    """

    def __init__(self, *, path: str, theirs: str, ours: str) -> None:
        super().__init__(
            f"contains jobs of {showable(theirs)}, but the API is {showable(ours)} now; pass the "
            "region or base URL of the journal, or another journal",
            path=path,
        )
        self.theirs = theirs
        self.ours = ours


class JournalFormatError(JournalError):
    """A newer version of adepoll wrote the journal.

    Attributes:
        found: Format of the journal.
        known: Newest format that this version reads.
    """

    def __init__(self, *, path: str, found: int, known: int) -> None:
        super().__init__(
            f"has format {found}, and this version of adepoll reads up to {known}; upgrade adepoll",
            path=path,
        )
        self.found = found
        self.known = known


class NotAJournalError(JournalError):
    """The file is not a journal. It was not changed.

    Attributes:
        reason: What it is instead.
    """

    def __init__(self, *, path: str, reason: str) -> None:
        super().__init__(f"is not a journal: {reason}; pass another path", path=path)
        self.reason = reason


class JournalDamagedError(JournalError):
    """The file is a journal with inconsistent contents. It was not changed.

    Attributes:
        problems: What is wrong; never a part of the contents.
    """

    def __init__(self, problems: Sequence[str], *, path: str | None) -> None:
        shown = "; ".join(showable(problem, 120) for problem in problems[:3])
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""  # noqa: PLR2004 - three are shown
        super().__init__(
            f"is damaged: {shown}{more}; copy it together with its -wal file, then recover what is "
            'readable: sqlite3 COPY ".recover" | sqlite3 RECOVERED; or start with another journal',
            path=path,
        )
        self.problems = tuple(problems)


class JournalAccessError(JournalError):
    """The file cannot be opened or read: no such folder, no permission, a failing disk.

    Attributes:
        errno: Number of the `OSError`; None if SQLite does not say.
    """

    def __init__(self, reason: str, *, path: str | None, errno: int | None) -> None:
        super().__init__(f"cannot be used: {reason}", path=path)
        self.errno = errno


class JournalWriteError(JournalError):
    """A write failed completely, most often because the disk is full.

    The journal is unchanged, and a later write can succeed.

    Attributes:
        code: SQLite's name of the error, such as ``SQLITE_FULL``.
        errno: Number of the `OSError`; None if there is none.
    """

    def __init__(self, reason: str, *, path: str | None, code: str, errno: int | None) -> None:
        super().__init__(
            f"cannot be written: {reason}; after that is fixed, the same command goes on", path=path
        )
        self.code = code
        self.errno = errno


class BatchStoppedError(AdePollError):
    """A batch has stopped because nothing can be written: no space, a read-only disk.

    Outcomes that were delivered are saved. The same batch continues where it stopped. The
    `__cause__` is the `StorageError`.

    Attributes:
        path: The file that could not be written.
        errno: Number of the `OSError` behind it.
    """

    def __init__(self, cause: StorageError) -> None:
        super().__init__(
            f"{cause}; the batch has stopped: fix that, and run the same batch to continue"
        )
        self.path = cause.path
        self.errno = cause.errno
