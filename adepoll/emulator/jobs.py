"""One job: its plan, which is fixed when it is submitted, and its state at any time. Pure."""

import math
import random
from enum import Enum
from typing import Final

from attrs import define, field, frozen

from adepoll.api.models import JobStatus, Json
from adepoll.emulator import validators
from adepoll.emulator.results import ResultBody


class Outcome(Enum):
    """How a job ends.

    `NONCONFORMANT` is a completed job whose data violates the caller's schema: the service answers
    206 and gives the reason in ``metadata.schema_violation_error``.
    """

    COMPLETED = "completed"
    NONCONFORMANT = "nonconformant"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def status(self) -> JobStatus:
        """The status that the API reports for this outcome."""
        return _STATUS[self]

    @property
    def has_result(self) -> bool:
        """True if there is a result to fetch."""
        return self.status is JobStatus.COMPLETED


_DEFAULT_FAILURE: Final = "The document could not be processed."
_STATUS: Final = {
    Outcome.COMPLETED: JobStatus.COMPLETED,
    Outcome.NONCONFORMANT: JobStatus.COMPLETED,
    Outcome.FAILED: JobStatus.FAILED,
    Outcome.CANCELLED: JobStatus.CANCELLED,
}


@frozen(kw_only=True)
class JobPlan:
    """What happens to one job.

    Attributes:
        queue_time: Seconds from arrival to the start of processing.
        processing_time: Seconds of processing; ``math.inf`` for a job that never ends.
        outcome: How the job ends.
        result_bytes: Size of the JSON of `data`, in bytes. A smaller value than the smallest
            possible result gives the smallest result. Above 1,000,000 bytes, the result is behind
            `output_url`.
        failure_reason: `failure_reason` of a failed job; None for a general sentence.
        zero_data_retention: True if the service does not keep the result: the completed job then
            has neither `data` nor `output_url`.
    """

    queue_time: float = field(default=0.0, validator=validators.NOT_NEGATIVE)
    processing_time: float = field(default=0.0, validator=validators.NOT_NEGATIVE)
    outcome: Outcome = Outcome.COMPLETED
    result_bytes: int = field(default=4_000, validator=validators.NOT_NEGATIVE)
    failure_reason: str | None = None
    zero_data_retention: bool = False


@frozen(kw_only=True)
class Profile:
    """The distribution from which the plans of jobs without a plan are drawn.

    Attributes:
        median: Median time from arrival to end, in seconds; the time is log-normal.
        sigma: Standard deviation of the logarithm of that time.
        queue_share: Share of that time that a job is pending.
        failed: Share of jobs that fail.
        cancelled: Share of jobs that are cancelled.
        nonconformant: Share of jobs that complete without conforming to the schema.
        large: Share of results behind `output_url`.
        large_bytes: Smallest and largest size of these results, in bytes; log-uniform.
        small_bytes: Smallest and largest size of the other results, in bytes; log-uniform.
        zero_data_retention: True for an organisation with zero data retention; see `JobPlan`.
    """

    median: float = field(default=8.0, validator=validators.FINITE)
    sigma: float = field(default=0.5, validator=validators.FINITE)
    queue_share: float = field(default=0.2, validator=validators.SHARE)
    failed: float = field(default=0.03, validator=validators.SHARE)
    cancelled: float = field(default=0.01, validator=validators.SHARE)
    nonconformant: float = field(default=0.01, validator=validators.SHARE)
    large: float = field(default=0.05, validator=validators.SHARE)
    large_bytes: tuple[int, int] = field(
        default=(2_000_000, 20_000_000), validator=validators.size_range
    )
    small_bytes: tuple[int, int] = field(default=(2_000, 100_000), validator=validators.size_range)
    zero_data_retention: bool = False

    def __attrs_post_init__(self) -> None:
        """Raise `ValueError` if the shares exceed all jobs."""
        if self.failed + self.cancelled + self.nonconformant > 1:
            raise ValueError("the sum of failed, cancelled and nonconformant must be <= 1")

    def draw(self, rng: random.Random) -> JobPlan:
        """Draw the plan of one job. Every plan takes the same number of random numbers."""
        total = self.median * math.exp(rng.gauss(0.0, self.sigma))
        outcome = self._outcome(rng.random())
        low, high = self.large_bytes if rng.random() < self.large else self.small_bytes
        return JobPlan(
            queue_time=total * self.queue_share,
            processing_time=total * (1 - self.queue_share),
            outcome=outcome,
            result_bytes=round(low * (high / low) ** rng.random()),
            zero_data_retention=self.zero_data_retention,
        )

    def _outcome(self, draw: float) -> Outcome:
        for outcome, share in (
            (Outcome.FAILED, self.failed),
            (Outcome.CANCELLED, self.cancelled),
            (Outcome.NONCONFORMANT, self.nonconformant),
        ):
            if draw < share:
                return outcome
            draw -= share
        return Outcome.COMPLETED


@define(kw_only=True, eq=False)
class Job:
    """One job: its plan, and what the world records about it.

    Attributes:
        job_id: Its id.
        received_at: Arrival, in Unix seconds; the API does not know the job before.
        number: Its number in the order of submission; the tiebreaker of the list.
        plan: What happens to it.
        version: Model version that the answers name.
        filename: Name of the document.
        schema: JSON schema from the submission; None without a schema.
        output_save_url: URL to which the result is saved; None if it is not saved by URL.
        gets: Polls of the job, that is GETs by id.
        result_requests: Requests for the result at the storage.
        save_status: HTTP status of the PUT to `output_save_url`; None before the PUT.
        result_version: Number of times that the result was replaced.
        result: Cached result; only large ones, which are read in many ranges, are cached.
    """

    job_id: str
    received_at: float
    number: int
    plan: JobPlan
    version: str
    filename: str
    schema: Json = None
    output_save_url: str | None = field(default=None, repr=False)
    gets: int = 0
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
        """Return when the status at `now` ends, in Unix seconds; ``math.inf`` if it never ends."""
        changes = (self.received_at, self.started_at, self.finished_at)
        return next((change for change in changes if change > now), math.inf)


@frozen(kw_only=True)
class JobTruth:
    """The facts about one job, to compare with what a client found out.

    Attributes:
        job_id: The job.
        received_at: Arrival, in Unix seconds, with the fraction that the API omits.
        finished_at: End of the job, in Unix seconds; ``math.inf`` if it never ends.
        outcome: How the job ends.
        result_bytes: Size of the JSON of `data`, in bytes; 0 without a result.
        result_sha256: SHA-256 of these bytes, in hex; None without a result, or if digests were
            not requested.
        gets: Polls of the job, that is GETs by id.
        result_requests: Requests for its result at the storage.
        save_status: HTTP status of the PUT to its `output_save_url`; 0 if the PUT got no answer,
            None before the PUT.
    """

    job_id: str
    received_at: float
    finished_at: float
    outcome: Outcome
    result_bytes: int
    result_sha256: str | None
    gets: int
    result_requests: int = 0
    save_status: int | None = None
