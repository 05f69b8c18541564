"""All exit codes of the command, and where each is decided. `adepoll --help` lists the codes.

Two rules apply to every command; `run.run` and `run.run_sync` apply them:

- An error ends the command: `exit_code_of_error`, below.
- A signal ends the command: `exit_code_of_signal`, below.

A command that ends without an error returns its own code:

- `get` uses `exit_code_of_job`, below
- `watch` and `resume` use `exit_code_of_batch`, below
- `resume` returns UNRESOLVED if the journal may lack ids
- `export` returns UNRESOLVED if results are missing or unreadable, and IO_ERROR if it cannot write
- `report` returns IO_ERROR if it cannot write the report
- `emulate` returns USAGE if it cannot listen at its port
- `demo` returns FAILED_OR_CANCELLED if adepoll and the records of the emulator differ
- in all other cases, a command returns COMPLETED

Two functions exit before a command runs:

- `cli.main` exits with 0 after ``--help`` or ``--version``, and with USAGE after a usage error of
  click, which a command can raise, too. After `click.Abort`, it exits with INTERRUPTED. If it
  cannot print the help, `exit_code_of_error` decides.
- `__main__.main` exits with IO_ERROR if there is not enough memory to import the modules, with
  USAGE if a dependency is missing, and with INTERRUPTED after Ctrl-C during the imports.
"""

from enum import IntEnum
from typing import Final

import adepoll
from adepoll import (
    AdePollError,
    AuthenticationError,
    BatchStoppedError,
    ConfigurationError,
    InvalidJobIdError,
    JobCancelledError,
    JobFailedError,
    JobSnapshot,
    JobStatus,
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

# As in a shell, the exit code after a signal is 128 plus the number of the signal.
_SIGNAL_BASE: Final = 128


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


# The first entry with the class of the error, or with a base class, decides. Therefore a subclass
# comes before its base class.
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
    (MemoryError, ExitCode.IO_ERROR),
)


def exit_code_of_job(job: JobSnapshot) -> ExitCode:
    """Return FAILED_OR_CANCELLED for a failed or cancelled job, else COMPLETED."""
    if job.status in {JobStatus.FAILED, JobStatus.CANCELLED}:
        return ExitCode.FAILED_OR_CANCELLED
    return ExitCode.COMPLETED


def exit_code_of_batch(progress: "adepoll.BatchProgress", *, strict: bool = False) -> ExitCode:
    """Return the exit code for a batch that was not interrupted.

    Args:
        progress: Progress of the batch at its end.
        strict: True to return PARTIAL if all jobs completed but some results are partial.
    """
    if progress.unresolved or progress.missed or not progress.complete:
        return ExitCode.UNRESOLVED
    if progress.settled.get(JobStatus.FAILED) or progress.settled.get(JobStatus.CANCELLED):
        return ExitCode.FAILED_OR_CANCELLED
    return ExitCode.PARTIAL if strict and progress.partial else ExitCode.COMPLETED


def exit_code_of_error(error: Exception) -> ExitCode:
    """Return the exit code for an error that ended a command; BUG for an unexpected class."""
    if isinstance(error, ConfigurationError) and isinstance(error.__cause__, OSError):
        return ExitCode.IO_ERROR  # for example, a folder cannot be created
    for cls, code in _CODES:
        if isinstance(error, cls):
            return code
    return ExitCode.BUG


def exit_code_of_signal(number: int) -> ExitCode:
    """Return the exit code after a signal, given by its number: SIGHUP, SIGINT or SIGTERM."""
    return ExitCode(_SIGNAL_BASE + number)
