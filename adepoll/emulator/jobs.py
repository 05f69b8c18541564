"""One job: the plan of what happens to the job, and its state at any time. Does no I/O."""

import math
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Final, Self

from attrs import Factory, define, field, frozen
from attrs.validators import optional

from adepoll.api.models import JobStatus, Json
from adepoll.common.safe_repr import SafeRepr
from adepoll.emulator import validators
from adepoll.emulator.odd_values import OddValue
from adepoll.emulator.results import ResultBody


class Outcome(Enum):
    """How a job ends.

    `PARTIAL` means that the job completes with a partial result. For an extract job, the result
    violates the caller's schema. For a parse job, some pages failed. The answer to a poll of a v1
    job then has the status 206.
    """

    COMPLETED = "completed"
    PARTIAL = "partial"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def status(self) -> JobStatus:
        """The status that the API reports for this outcome."""
        return _STATUS[self]

    @property
    def has_result(self) -> bool:
        """True if a job with this outcome has a result."""
        return self.status is JobStatus.COMPLETED


# Seconds of processing after which `share_done` of an endless job is 0.5.
_HALF_OF_ENDLESS: Final = 60.0
_DEFAULT_FAILURE: Final = "The document could not be processed."
_STATUS: Final = {
    Outcome.COMPLETED: JobStatus.COMPLETED,
    Outcome.PARTIAL: JobStatus.COMPLETED,
    Outcome.FAILED: JobStatus.FAILED,
    Outcome.CANCELLED: JobStatus.CANCELLED,
}


def set_of_odd_values(values: Iterable[OddValue | str]) -> frozenset[OddValue]:
    """Return the set of these `OddValue` members; a text is the value of a member."""
    return frozenset(map(OddValue, values))


@frozen(kw_only=True)
class JobPlan(SafeRepr):
    """What happens to one job.

    Attributes:
        queue_time: Seconds from arrival to the start of processing.
        processing_time: Seconds of processing; ``math.inf`` for a job that never ends.
        outcome: How the job ends.
        result_bytes: Size of the JSON of the result, in bytes. If the value is too small, the
            result gets its smallest possible size. On v1, a result above 1,000,000 bytes is behind
            `output_url`; on v2, a result of any size is part of the answer.
        pages: Number of pages of the document, or of sheets of the spreadsheet.
        failed_pages: Numbers of the failed pages, from 1, in a partial result of a parse or
            workflow job. If it is empty, only the last page has failed.
        failure_reason: Reason in the answers about a failed job; None for a standard sentence.
        error_code: `error.code` of a failed v2 job.
        zero_data_retention: True if the service does not keep the result. Polls of the completed
            job then get neither a result nor `output_url`.
        result_reads: Number of polls that get the result; later polls get the completed job without
            a result. None for no limit.
        retention: Seconds from the end of the job until the service deletes the job. After that,
            polls answer 404.
        partial_status: HTTP status of a partial result; None for 206 on v1 and 200 on v2.
        odd_values: Unusual forms of values in the answers about the job and in its result, such as
            times in milliseconds; see `OddValue`.
    """

    queue_time: float = field(default=0.0, validator=validators.NOT_NEGATIVE)
    processing_time: float = field(default=0.0, validator=validators.NOT_NEGATIVE)
    outcome: Outcome = Outcome.COMPLETED
    result_bytes: int = field(default=4_000, validator=validators.NOT_NEGATIVE)
    pages: int = field(default=3, validator=validators.AT_LEAST_ONE)
    failed_pages: tuple[int, ...] = field(default=(), converter=tuple)
    failure_reason: str | None = None
    error_code: str = "internal_error"
    zero_data_retention: bool = False
    result_reads: int | None = field(default=None, validator=optional(validators.NOT_NEGATIVE))
    retention: float = field(default=math.inf, validator=validators.NOT_NEGATIVE)
    partial_status: int | None = None
    odd_values: frozenset[OddValue] = field(default=frozenset(), converter=set_of_odd_values)

    def __attrs_post_init__(self) -> None:
        """Raise `ValueError` if `failed_pages` has a number below 1 or above `pages`."""
        if not all(1 <= page <= self.pages for page in self.failed_pages):
            raise ValueError(
                f"failed_pages must be between 1 and {self.pages}: {self.failed_pages!r}"
            )

    @property
    def pages_that_failed(self) -> tuple[int, ...]:
        """Numbers of the failed pages, from 1; empty unless the result is partial."""
        if self.outcome is not Outcome.PARTIAL:
            return ()
        return self.failed_pages or (self.pages,)


@define(kw_only=True, eq=False)
class Job:
    """One job: its plan, and what the world records about it.

    Attributes:
        job_id: Id of the job.
        kind: Name of the kind, such as ``v1-extract``.
        received_at: Time of arrival, in Unix seconds. Before that time, the API does not know the
            job.
        number: Number of the job in the order of submission, from 0. It determines the order of
            listed jobs that arrived at the same time.
        plan: What happens to the job.
        version: Version of the model, as in the answers.
        filename: Name of the document.
        tier: `service_tier` of a v2 job; None for other jobs.
        schema: JSON schema from the request that created the job; None for no schema.
        markdown: Markdown from the request that created a v2 extract job, which the result repeats;
            None for no Markdown.
        options: Other fields of the request that created the job on which the result depends, by
            name.
        output_save_url: URL to which the result is saved; None if the service keeps the result.
        polls: Number of polls of the job (GETs by id).
        result_polls: Number of polls whose answer contained the result or its URL.
        result_requests: Number of requests for the result at the storage.
        save_status: HTTP status of the PUT to `output_save_url`; 0 if the PUT got no answer, None
            before the PUT.
        result_version: Number of times that the result was replaced.
        result: Cached result; None for a small result, which is made again for each request.
    """

    job_id: str
    kind: str
    received_at: float
    number: int
    plan: JobPlan
    version: str
    filename: str
    tier: str | None = None
    schema: Json = None
    markdown: str | None = field(default=None, repr=False)
    options: Mapping[str, Json] = Factory(dict)
    output_save_url: str | None = field(default=None, repr=False)
    polls: int = 0
    result_polls: int = 0
    result_requests: int = 0
    save_status: int | None = None
    result_version: int = 0
    result: ResultBody | None = None

    @property
    def started_at(self) -> float:
        """Start of processing, in Unix seconds."""
        return self.received_at + self.plan.queue_time

    @property
    def finished_at(self) -> float:
        """End of the job, in Unix seconds; ``math.inf`` if it never ends."""
        return self.started_at + self.plan.processing_time

    @property
    def duration_ms(self) -> int:
        """Time of processing, in milliseconds; 0 if the job never ends."""
        seconds = self.plan.processing_time
        return round(seconds * 1_000) if seconds < math.inf else 0

    @property
    def has_result(self) -> bool:
        """True if a poll of the completed job gets the result or its URL.

        False with zero data retention, and after `result_reads` such polls.
        """
        plan = self.plan
        read = plan.result_reads is not None and self.result_polls >= plan.result_reads
        return not (plan.zero_data_retention or read)

    def share_done(self, now: float) -> float:
        """Return the share of the processing that is done at `now`, from 0 to 1.

        For a job that never ends, the share grows more and more slowly, and stays below 1.
        """
        elapsed = max(now - self.started_at, 0.0)
        if self.plan.processing_time == math.inf:
            return elapsed / (elapsed + _HALF_OF_ENDLESS)
        return min(elapsed / self.plan.processing_time, 1.0) if self.plan.processing_time else 1.0

    def status_at(self, now: float) -> JobStatus | None:
        """Return the status at `now`; None before the job arrives."""
        if now < self.received_at:
            return None
        if now < self.started_at:
            return JobStatus.PENDING
        if now < self.finished_at:
            return JobStatus.PROCESSING
        return self.plan.outcome.status

    def failure_reason_at(self, now: float) -> str | None:
        """Return the reason of the failure; None if the job has not failed at `now`."""
        if self.status_at(now) is not JobStatus.FAILED:
            return None
        return _DEFAULT_FAILURE if self.plan.failure_reason is None else self.plan.failure_reason

    def next_change(self, now: float) -> float:
        """Return the time of the first status change after `now`, in Unix seconds.

        Return ``math.inf`` if the status does not change any more.
        """
        changes = (self.received_at, self.started_at, self.finished_at)
        return next((change for change in changes if change > now), math.inf)


@frozen(kw_only=True)
class JobTruth(SafeRepr):
    """The facts about one job, to compare with what a client found out.

    Attributes:
        job_id: Id of the job.
        kind: Name of the kind, such as ``v1-extract``.
        tier: `service_tier` of a v2 job; None for other jobs.
        received_at: Time of arrival, in Unix seconds, with the fraction that the v1 API omits.
        finished_at: End of the job, in Unix seconds; ``math.inf`` if it never ends.
        outcome: How the job ends.
        result_bytes: Size of the JSON of the result, in bytes; 0 if there is no result.
        result_sha256: SHA-256 of the JSON of the result, in hex; None if there is no result, or if
            digests were not requested.
        polls: Number of polls of the job (GETs by id).
        result_polls: Number of polls whose answer contained the result or its URL.
        result_requests: Number of requests for the result at the storage.
        save_status: HTTP status of the PUT to `output_save_url`; 0 if the PUT got no answer, None
            before the PUT.
    """

    job_id: str
    kind: str
    tier: str | None
    received_at: float
    finished_at: float
    outcome: Outcome
    result_bytes: int
    result_sha256: str | None
    polls: int
    result_polls: int = 0
    result_requests: int = 0
    save_status: int | None = None

    @classmethod
    def of(cls, job: Job, result: ResultBody | None, *, digest: bool) -> Self:
        """Return the facts about a job.

        Args:
            job: The job.
            result: Result of the job; None if the job does not complete.
            digest: True to compute the SHA-256 of the result, which reads the whole result.
        """
        return cls(
            job_id=job.job_id,
            kind=job.kind,
            tier=job.tier,
            received_at=job.received_at,
            finished_at=job.finished_at,
            outcome=job.plan.outcome,
            result_bytes=0 if result is None else result.size,
            result_sha256=result.sha256() if result is not None and digest else None,
            polls=job.polls,
            result_polls=job.result_polls,
            result_requests=job.result_requests,
            save_status=job.save_status,
        )
