"""The exit code of each error, signal, job and batch."""

import signal

import pytest
from journalling import snapshot

from adepoll import BatchProgress, JobStatus, errors
from adepoll.cli.exit_codes import (
    ExitCode,
    exit_code_of_batch,
    exit_code_of_error,
    exit_code_of_job,
    exit_code_of_signal,
)

DISK = errors.StorageError(job_id="a", path="a.json", cause=OSError(28, "full"))


def caused(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.AuthenticationError(status=401), 4),
        (errors.PermissionDeniedError(status=403), 4),
        (errors.PaymentRequiredError(status=402), 4),
        (errors.ConfigurationError("x"), 2),
        (caused(errors.ConfigurationError("x"), OSError("full")), 74),
        (caused(errors.ConfigurationError("x"), ValueError("x")), 2),
        (caused(errors.JobNotFoundError(status=404, job_id="a"), OSError("full")), 3),
        (errors.InvalidJobIdError(job_id="a b", reason="blank"), 2),
        (errors.TargetExistsError(job_id="a", path="a.json"), 2),
        (errors.JournalNotFoundError(path="a.db"), 2),
        (errors.JournalBusyError(path="a.db", pid=1), 2),
        (errors.JournalEndpointError(path="a.db", theirs="https://a", ours="https://b"), 2),
        (errors.JournalFormatError(path="a.db", found=9, known=1), 2),
        (errors.NotAJournalError(path="a.db", reason="a picture"), 2),
        (errors.JournalDamagedError(["x"], path="a.db"), 74),
        (errors.JournalMovedError(path="a.db", file="a.db", replaced=False), 74),
        (errors.JournalWriteError("full", path="a.db", code="SQLITE_FULL", errno=28), 74),
        (errors.JournalAccessError("full", path="a.db", errno=28), 74),
        (errors.BatchStoppedError(DISK), 74),
        (DISK, 74),
        (errors.JobFailedError(job_id="a", failure_reason="blurred"), 1),
        (errors.JobCancelledError(job_id="a"), 1),
        (errors.JobNotFoundError(status=404, job_id="a"), 3),
        (errors.ServerError(status=500), 3),
        (errors.ResultUnavailableError(job_id="a"), 3),
        (BrokenPipeError(), 141),
        (OSError("full"), 74),
        (MemoryError(), 74),
        (ValueError("x"), 70),
        (errors.ClosedError("x"), 70),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_error_has_its_exit_code(error, code):
    assert exit_code_of_error(error) == code


def test_a_signal_has_the_exit_code_of_a_shell():
    assert exit_code_of_signal(signal.SIGINT) is ExitCode.INTERRUPTED
    assert exit_code_of_signal(signal.SIGTERM) is ExitCode.TERMINATED
    assert exit_code_of_signal(1) is ExitCode.HUNG_UP


@pytest.mark.parametrize(
    ("status", "code"), [("completed", 0), ("failed", 1), ("cancelled", 1), ("processing", 0)]
)
def test_a_job_that_failed_or_was_cancelled_has_its_exit_code(status, code):
    assert exit_code_of_job(snapshot("a", status)) == code


COMPLETED = {JobStatus.COMPLETED: 2}


@pytest.mark.parametrize(
    ("fields", "code", "strict_code"),
    [
        ({"settled": COMPLETED}, 0, 0),
        ({"settled": COMPLETED, "partial": 1}, 0, 5),
        ({"settled": COMPLETED, "complete": False}, 3, 3),
        ({"settled": COMPLETED, "unresolved": 1}, 3, 3),
        ({"settled": COMPLETED, "missed": 1}, 3, 3),
        ({"settled": COMPLETED | {JobStatus.FAILED: 1}}, 1, 1),
        ({"settled": COMPLETED | {JobStatus.FAILED: 1}, "partial": 1}, 1, 1),
        ({"settled": COMPLETED | {JobStatus.CANCELLED: 1}}, 1, 1),
        ({"settled": {JobStatus.FAILED: 1}, "unresolved": 1}, 3, 3),
    ],
)
def test_the_exit_code_of_a_batch_is_that_of_its_worst_job(fields, code, strict_code):
    progress = BatchProgress(**({"complete": True} | fields))
    assert exit_code_of_batch(progress) == code
    assert exit_code_of_batch(progress, strict=True) == strict_code
