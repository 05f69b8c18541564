"""Which exit code a command ends with. `adepoll --help` lists the codes.

The functions decide for jobs, batches, errors and signals. `export`, `report`, `emulate` and
`demo_run` return an `ExitCode` of their own for what only they can find.
"""

from enum import IntEnum
from typing import Final

import adepoll
from adepoll.api.models import JobSnapshot, JobStatus
from adepoll.errors import (
    AdePollError,
    AuthenticationError,
    BatchStoppedError,
    ConfigurationError,
    InvalidJobIdError,
    JobCancelledError,
    JobFailedError,
    JournalBusyError,
    JournalEndpointError,
    JournalError,
    JournalFormatError,
    JournalNotFoundError,
    NotAJournalError,
    PaymentRequiredError,
    PermissionDeniedError,
    StorageError,
    TargetExistsError,
)

_SIGNAL_BASE: Final = 128  # shells add the signal's number to this


class ExitCode(IntEnum):
    """The exit codes of the command."""

    COMPLETED = 0
    FAILED_OR_CANCELLED = 1
    USAGE = 2
    UNRESOLVED = 3
    KEY_REFUSED = 4
    PARTIAL = 5
    BUG = 70
    IO_ERROR = 74
    HUNG_UP = 129
    INTERRUPTED = 130
    BROKEN_PIPE = 141
    TERMINATED = 143


# The first class that an error is an instance of decides; any other `AdePollError` is UNRESOLVED.
_CODES: Final[tuple[tuple[type[Exception], ExitCode], ...]] = (
    (AuthenticationError, ExitCode.KEY_REFUSED),
    (PermissionDeniedError, ExitCode.KEY_REFUSED),
    (PaymentRequiredError, ExitCode.KEY_REFUSED),
    (ConfigurationError, ExitCode.USAGE),
    (InvalidJobIdError, ExitCode.USAGE),
    (TargetExistsError, ExitCode.USAGE),
    (JournalNotFoundError, ExitCode.USAGE),
    (JournalBusyError, ExitCode.USAGE),
    (JournalEndpointError, ExitCode.USAGE),
    (JournalFormatError, ExitCode.USAGE),
    (NotAJournalError, ExitCode.USAGE),
    (JournalError, ExitCode.IO_ERROR),
    (BatchStoppedError, ExitCode.IO_ERROR),
    (StorageError, ExitCode.IO_ERROR),
    (JobFailedError, ExitCode.FAILED_OR_CANCELLED),
    (JobCancelledError, ExitCode.FAILED_OR_CANCELLED),
    (AdePollError, ExitCode.UNRESOLVED),
    (BrokenPipeError, ExitCode.BROKEN_PIPE),
    (OSError, ExitCode.IO_ERROR),
)


def exit_code_of_job(job: JobSnapshot) -> ExitCode:
    """Return the exit code for the status of one job."""
    if job.status in {JobStatus.FAILED, JobStatus.CANCELLED}:
        return ExitCode.FAILED_OR_CANCELLED
    return ExitCode.COMPLETED


def exit_code_of_batch(progress: "adepoll.BatchProgress", *, strict: bool = False) -> ExitCode:
    """Return the exit code for a batch that was not interrupted.

    Args:
        progress: The batch.
        strict: True if partial results have their own exit code.
    """
    if progress.unresolved or progress.missed or not progress.complete:
        return ExitCode.UNRESOLVED
    if progress.settled.get(JobStatus.FAILED) or progress.settled.get(JobStatus.CANCELLED):
        return ExitCode.FAILED_OR_CANCELLED
    return ExitCode.PARTIAL if strict and progress.partial else ExitCode.COMPLETED


def exit_code_of_error(error: Exception) -> ExitCode:
    """Return the exit code for an error that ended a command."""
    if isinstance(error, ConfigurationError) and isinstance(error.__cause__, OSError):
        return ExitCode.IO_ERROR  # a folder cannot be created
    for cls, code in _CODES:
        if isinstance(error, cls):
            return code
    return ExitCode.BUG


def exit_code_of_signal(number: int) -> ExitCode:
    """Return the exit code for SIGHUP, SIGINT or SIGTERM."""
    return ExitCode(_SIGNAL_BASE + number)
