"""Errors of jobs that did not complete, or whose outcome could not be found out."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Self

from adepoll.common.redaction import showable
from adepoll.errors._base import AdePollError


class JobFailedError(AdePollError):
    """The job has failed.

    Attributes:
        job_id: The job.
        failure_reason: The reason that the service gives, unchanged; can be None.
    """

    def __init__(self, *, job_id: str, failure_reason: str | None) -> None:
        reason = "no reason given" if not failure_reason else showable(failure_reason)
        super().__init__(f"job {showable(job_id, 80)} failed: {reason}")
        self.job_id = job_id
        self.failure_reason = failure_reason


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
        timeout: That timeout, in seconds.
        last_status: The status text of the last successful poll; None if no poll succeeded.
        last_error: The last error since then, of a poll of the job, or of the service if no poll
            of the job has finished; None if there was none.
        polls: Number of finished polls of the job. Failed polls count since the last successful
            one.
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
        seen = "never seen" if last_status is None else f"last seen {showable(last_status, 40)}"
        number = f"{polls} poll{'s' * (polls != 1)}"
        failed = "" if last_error is None else f"; the last error: {last_error}"
        super().__init__(
            f"job {showable(job_id, 80)} did not settle in {timeout:g} s ({seen}; {number}{failed})"
        )
        self.job_id = job_id
        self.timeout = timeout
        self.last_status = last_status
        self.last_error = last_error
        self.polls = polls


class JobIdsCancelledError(AdePollError):
    """The iterable of job ids ended because something that it waited for was cancelled.

    Neither the caller nor adepoll cancelled it. Iterate over new ids to continue.
    """

    def __init__(self) -> None:
        super().__init__("the iterable of job ids ended: something it waited for was cancelled")


class UnresolvedJobsError(ExceptionGroup[AdePollError], AdePollError):
    """The outcome of some jobs could not be found out. Raised after all other jobs were yielded.

    An `ExceptionGroup` of the causes, so that ``except*`` works with it.

    Attributes:
        causes: The error of each unresolved job, by job id, in the order of giving up. A job of
            another kind than the watcher's own has its kind before the id: ``v1-parse/cmg4x0q5``.
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
        """Do nothing: `__new__` has used `causes`."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Rebuild the group from its causes, and keep its notes."""
        return type(self), (dict(self.causes),), {**vars(self), "causes": dict(self.causes)}

    def derive(self, excs: Sequence[AdePollError], /) -> "UnresolvedJobsError":  # type: ignore[override]  # split() passes some of our own causes
        """Return the group of some of the causes, for ``except*`` and `split`."""
        members = {id(exc) for exc in excs}
        return UnresolvedJobsError(
            {job_id: cause for job_id, cause in self.causes.items() if id(cause) in members}
        )
