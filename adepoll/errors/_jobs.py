"""Errors of jobs that did not complete, or whose outcome is not known."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Self

from adepoll.common.redaction import redact_text, showable
from adepoll.errors._base import AdePollError


class JobFailedError(AdePollError):
    """The job has failed.

    Attributes:
        job_id: The job.
        failure_reason: The reason that the service sent, without possible secrets; None if it sent
            no reason. The snapshot of the job has the unchanged reason.
    """

    def __init__(self, *, job_id: str, failure_reason: str | None) -> None:
        reason = "no reason given" if not failure_reason else showable(failure_reason)
        super().__init__(f"job {showable(job_id, 80)} failed: {reason}")
        self.job_id = job_id
        self.failure_reason = None if failure_reason is None else redact_text(failure_reason)


class JobCancelledError(AdePollError):
    """The job was cancelled.

    Attributes:
        job_id: The job.
    """

    def __init__(self, *, job_id: str) -> None:
        super().__init__(f"job {showable(job_id, 80)} was cancelled")
        self.job_id = job_id


class JobTimeoutError(AdePollError, TimeoutError):
    """The job did not settle within the caller's `timeout`. It may still be running.

    Attributes:
        job_id: The job.
        timeout: The caller's timeout, in seconds.
        last_status: The status text of the last successful poll; None if no poll succeeded.
        last_error: Error of the last poll of the job; None if that poll was successful. If no poll
            of the job has finished, this is the last error of a poll of any job, or None.
        polls: Number of polls of the job. Failed polls before the last successful poll do not
            count.
    """

    def __init__(
        self,
        *,
        job_id: str,
        timeout: float,
        last_status: str | None,
        last_error: AdePollError | None = None,
        polls: int = 0,
    ) -> None:
        seen = "status unknown" if last_status is None else f"last seen {showable(last_status, 40)}"
        number = f"{polls} poll{'s' * (polls != 1)}"
        failed = "" if last_error is None else f"; the last error: {last_error}"
        super().__init__(
            f"job {showable(job_id, 80)} did not settle in {timeout:g} s ({seen}; {number}{failed})"
        )
        self.job_id = job_id
        self.timeout = timeout
        self.last_status = None if last_status is None else redact_text(last_status)
        self.last_error = last_error
        self.polls = polls


class JobIdsCancelledError(AdePollError):
    """The iterable of job ids ended early, because a task for which it waited was cancelled.

    Neither the consumer nor adepoll has cancelled that task. Pass a new iterable to continue.
    """

    def __init__(self) -> None:
        super().__init__("the iterable of job ids ended: a task for which it waited was cancelled")


class UnresolvedJobsError(ExceptionGroup[AdePollError], AdePollError):
    """Some jobs are unresolved. This error is raised after all other jobs were yielded.

    It is an `ExceptionGroup` of the causes, so that ``except*`` can handle each cause.

    Attributes:
        causes: The error of each unresolved job, in the order in which the jobs were given up. The
            key is the job id. If the id alone would mean another kind of job, the key is kind and
            id, such as ``v1-parse/cmg4x0q5``.
    """

    causes: Mapping[str, AdePollError]

    def __new__(cls, causes: Mapping[str, AdePollError]) -> Self:
        """Create the group from `causes`, which must not be empty."""
        kinds = Counter(type(cause).__name__ for cause in causes.values())
        counts = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(5))
        jobs = "job" if len(causes) == 1 else "jobs"
        message = f"{len(causes)} {jobs} unresolved: {counts}"
        group = super().__new__(cls, message, [*causes.values()])
        group.causes = causes
        return group

    def __init__(self, causes: Mapping[str, AdePollError]) -> None:
        """Do nothing, because `__new__` has already stored `causes`."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Return how pickle creates a copy: from `causes`, and attributes such as `__notes__`."""
        return type(self), (dict(self.causes),), {**vars(self), "causes": dict(self.causes)}

    def derive(self, excs: Sequence[AdePollError], /) -> "UnresolvedJobsError":  # type: ignore[override]  # split() passes only causes of this group
        """Return a group of some of the causes. Python calls this for ``except*`` and `split`."""
        members = {id(exc) for exc in excs}
        return UnresolvedJobsError(
            {job_id: cause for job_id, cause in self.causes.items() if id(cause) in members}
        )
