"""Errors that concern a whole batch: of its journal, or of the disk for its results."""

import os
from collections.abc import Sequence

from adepoll.common.redaction import redact_text, showable
from adepoll.errors._base import AdePollError
from adepoll.errors._results import StorageError


class JournalError(AdePollError):
    """The journal of a batch could not be opened, read or written.

    Attributes:
        path: Path of the file; None for a journal in memory.
    """

    def __init__(self, message: str, *, path: str | None) -> None:
        subject = "the journal" if path is None else f"the journal {showable(path)}"
        super().__init__(f"{subject} {message}")
        self.path = path


class JournalNotFoundError(JournalError, FileNotFoundError):
    """The journal does not exist, and the call does not create a new one."""

    def __init__(self, *, path: str) -> None:
        super().__init__("does not exist; check the path, or start a batch with it", path=path)


class JournalBusyError(JournalError):
    """The journal is open already, in another process or in this one.

    Attributes:
        pid: Process that has the journal open; None if it is unknown.
    """

    def __init__(self, *, path: str, pid: int | None) -> None:
        if pid == os.getpid():
            problem = (
                "is open already in this process, by another Batch or Journal; close that one with "
                "`await batch.aclose()` (with adepoll.sync: `batch.close()`), or use it. In a "
                "notebook, an earlier cell has opened it"
            )
        else:
            holder = "another program, such as a sqlite3 shell" if pid is None else f"process {pid}"
            problem = (
                f"is in use by {holder}; wait until that process ends, or stop it, then try again"
            )
        super().__init__(problem, path=path)
        self.pid = pid


class JournalEndpointError(JournalError):
    """The journal contains jobs of another service: of another region, host, scheme or port.

    Attributes:
        theirs: Base URL of the API for the jobs of the journal.
        ours: Base URL of the API that the caller uses now.
        api: "v1" if the base URLs for v1 jobs differ, "v2" if those for v2 jobs differ.
    """

    def __init__(self, *, path: str, theirs: str, ours: str, api: str = "v1") -> None:
        jobs, url = ("v2 jobs", "base URL for v2 jobs") if api == "v2" else ("jobs", "base URL")
        super().__init__(
            f"has {jobs} of {showable(theirs)}, but the {url} is {showable(ours)}; set the region "
            f"or {url} with which the journal was created, or use another journal",
            path=path,
        )
        self.theirs = theirs
        self.ours = ours
        self.api = api


class JournalFormatError(JournalError):
    """A newer version of adepoll wrote the journal.

    Attributes:
        found: Number of the format of the journal.
        known: Number of the newest format that this version of adepoll reads.
    """

    def __init__(self, *, path: str, found: int, known: int) -> None:
        super().__init__(
            f"has format {found}, but this version of adepoll reads formats up to {known}; upgrade "
            "adepoll",
            path=path,
        )
        self.found = found
        self.known = known


class NotAJournalError(JournalError):
    """The file is not a journal. It was not changed.

    Attributes:
        reason: What the file is instead.
    """

    def __init__(self, *, path: str, reason: str) -> None:
        super().__init__(f"cannot be opened: {reason}; use another path", path=path)
        self.reason = reason


class JournalDamagedError(JournalError):
    """The file is a damaged journal. It was not changed.

    Attributes:
        problems: Descriptions of the damage, without contents of the file.
    """

    def __init__(self, problems: Sequence[str], *, path: str | None) -> None:
        shown = "; ".join(showable(problem, 120) for problem in problems[:3])
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""  # noqa: PLR2004 - the message names three problems
        super().__init__(
            f"is damaged: {shown}{more}; copy the file and its -wal file elsewhere, then recover "
            'what can be read: sqlite3 COPY ".recover" | sqlite3 RESCUED; or start again with '
            "another journal",
            path=path,
        )
        self.problems = tuple([redact_text(problem) for problem in problems])


class JournalAccessError(JournalError):
    """The file of the journal cannot be opened or read.

    Examples: its folder does not exist, a permission is missing, or the disk fails.

    Attributes:
        errno: Error number of the operating system; None if SQLite does not report one.
    """

    def __init__(self, reason: str, *, path: str | None, errno: int | None) -> None:
        super().__init__(f"cannot be used: {reason}", path=path)
        self.errno = errno


class JournalWriteError(JournalError):
    """A write to the journal failed, most often because the disk is full.

    The journal is unchanged, and a later write can succeed.

    Attributes:
        code: SQLite's name of the error, such as ``SQLITE_FULL``.
        errno: Number of the corresponding error of the operating system; None if unknown.
    """

    def __init__(self, reason: str, *, path: str | None, code: str, errno: int | None) -> None:
        super().__init__(
            f"cannot be written: {reason}, then run the batch again; it continues where it stopped",
            path=path,
        )
        self.code = code
        self.errno = errno


class JournalMovedError(JournalError):
    """A file of the journal was removed, renamed or replaced while the journal was open.

    A renamed journal contains everything that was recorded, as soon as the program has closed it. A
    removed journal is lost. Its result files are complete, and stay where they are.

    Attributes:
        file: Path of the file: the journal, or its -wal file.
        replaced: True if another file is at this path now.
    """

    def __init__(self, *, path: str, file: str, replaced: bool) -> None:
        what = "another file has replaced" if replaced else "somebody has removed or renamed"
        advice = (
            "If the journal was renamed, give it its name back: it contains all outcomes. If it "
            "was removed, the outcomes that it contained are lost; then run the batch again with "
            "all its ids. Result files that are complete are kept"
            if file == path
            else "When the journal is closed, it contains all outcomes; then run the batch again"
        )
        super().__init__(
            f"was changed while it was open: {what} {showable(file)}. {advice}", path=path
        )
        self.file = file
        self.replaced = replaced


class BatchStoppedError(AdePollError):
    """A batch has stopped because results cannot be written: the disk is full or read-only.

    If the journal is a file, the next run continues where this run stopped. If the journal is in
    memory, the next run finds the result files that are complete. The `__cause__` is the
    `StorageError` with the details.

    Attributes:
        path: Result file that could not be written.
        errno: Error number of the operating system.
    """

    def __init__(self, cause: StorageError) -> None:
        super().__init__(
            f"{cause}; the batch has stopped: solve this problem, then run the batch again"
        )
        self.path = cause.path
        self.errno = cause.errno
