"""What happens to one job, decided when it is submitted: outcome, times, size. No I/O, no clock.

Imports models, and results for the type alone.
"""

import math
import random
from enum import Enum
from typing import Final

from attrs import define, field, frozen

from adepoll.api.models import JobStatus, Json
from adepoll.emulator import checks
from adepoll.emulator.results import ResultBody


class Outcome(Enum):
    """How a job ends.

    `NONCONFORMANT` is a completed job whose data does not fully conform to the caller's schema:
    the service answers 206 and says why in ``metadata.schema_violation_error``.
    """

    COMPLETED = "completed"
    NONCONFORMANT = "nonconformant"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def status(self) -> JobStatus:
        """The status that the API shows for it."""
        return _STATUS[self]

    @property
    def has_result(self) -> bool:
        """Whether there is a result to fetch."""
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
    """What will happen to one job.

    Attributes:
        queue_time: Seconds from arrival to processing.
        processing_time: Seconds from there to the end; ``math.inf`` for a job that never ends.
        outcome: How it ends.
        result_bytes: Size of the JSON of `data`, in bytes. A result cannot be smaller than its
            required fields, so less than that gives the smallest one. Above 1,000,000 it is
            behind `output_url`.
        failure_reason: What a failed job says; None for a general sentence.
        zero_data_retention: Whether the service keeps nothing of the result: a completed job has
            neither `data` nor `output_url` then.
    """

    queue_time: float = field(default=0.0, validator=checks.not_negative)
    processing_time: float = field(default=0.0, validator=checks.not_negative)
    outcome: Outcome = Outcome.COMPLETED
    result_bytes: int = field(default=4_000, validator=checks.not_negative)
    failure_reason: str | None = None
    zero_data_retention: bool = False


@frozen(kw_only=True)
class Profile:
    """How jobs without a plan of their own are drawn.

    Attributes:
        median: Median of the log-normal time from arrival to end, in seconds.
        sigma: Standard deviation of the logarithm of that time.
        queue_share: How much of that time is spent pending.
        failed: Share of jobs that fail.
        cancelled: Share of jobs that are cancelled.
        nonconformant: Share of jobs that complete without conforming to the schema.
        large: Share of results behind `output_url`.
        large_bytes: Smallest and largest of these, in bytes; log-uniform between.
        small_bytes: Smallest and largest of the others, in bytes; log-uniform between.
        zero_data_retention: Whether the organisation has it; see `JobPlan`.
    """

    median: float = field(default=8.0, validator=checks.finite)
    sigma: float = field(default=0.5, validator=checks.finite)
    queue_share: float = field(default=0.2, validator=checks.share)
    failed: float = field(default=0.03, validator=checks.share)
    cancelled: float = field(default=0.01, validator=checks.share)
    nonconformant: float = field(default=0.01, validator=checks.share)
    large: float = field(default=0.05, validator=checks.share)
    large_bytes: tuple[int, int] = field(
        default=(2_000_000, 20_000_000), validator=checks.size_range
    )
    small_bytes: tuple[int, int] = field(default=(2_000, 100_000), validator=checks.size_range)
    zero_data_retention: bool = False

    def __attrs_post_init__(self) -> None:
        """Refuse shares that are more than all jobs together."""
        if self.failed + self.cancelled + self.nonconformant > 1:
            raise ValueError("failed, cancelled and nonconformant must not exceed 1 together")

    def draw(self, rng: random.Random) -> JobPlan:
        """Draw the plan of one job. Each takes the same number of random numbers."""
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

    def _outcome(self, lot: float) -> Outcome:
        for outcome, share in (
            (Outcome.FAILED, self.failed),
            (Outcome.CANCELLED, self.cancelled),
            (Outcome.NONCONFORMANT, self.nonconformant),
        ):
            if lot < share:
                return outcome
            lot -= share
        return Outcome.COMPLETED


@define(kw_only=True, eq=False)
class Job:
    """One job: its plan, and what the world remembers of it.

    Attributes:
        job_id: Its id.
        received_at: When it arrives, in Unix seconds; before that, nobody knows it.
        number: Its place among those submitted; a tiebreaker.
        plan: What will happen to it.
        version: The model snapshot that it will say was used.
        filename: The document's name.
        schema: The JSON schema it was created with; None for none.
        output_save_url: Where its result goes; None for the answer or the origin of the results.
        gets: How often it was looked at.
        result_requests: How often its result was asked for.
        save_status: HTTP status of the PUT to `output_save_url`; None before it was tried.
        version_of_result: How often its result was replaced by another.
        result: Its result, kept where building it again at every range request would cost.
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
    version_of_result: int = 0
    result: ResultBody | None = None

    @property
    def started_at(self) -> float:
        """When processing begins, in Unix seconds."""
        return self.received_at + self.plan.queue_time

    @property
    def finished_at(self) -> float:
        """When it ends, in Unix seconds; ``math.inf`` for never."""
        return self.started_at + self.plan.processing_time

    def status_at(self, now: float) -> JobStatus | None:
        """Where it stands; None before it arrives."""
        if now < self.received_at:
            return None
        if now < self.started_at:
            return JobStatus.PENDING
        if now < self.finished_at:
            return JobStatus.PROCESSING
        return self.plan.outcome.status

    def failure_reason_at(self, now: float) -> str | None:
        """Why it has failed; None while or where it has not."""
        if self.status_at(now) is not JobStatus.FAILED:
            return None
        return _DEFAULT_FAILURE if self.plan.failure_reason is None else self.plan.failure_reason

    def summary_at(self, now: float) -> dict[str, Json]:
        """Give its item in a list, once it has arrived."""
        if (status := self.status_at(now)) is None:
            raise AssertionError("a job that is listed has arrived")
        received_at = int(self.received_at)
        return {
            "job_id": self.job_id,
            "status": status.value,
            "received_at": received_at,
            "progress": 1.0 if status is JobStatus.COMPLETED else 0.0,
            "created_at": received_at,
            "failure_reason": self.failure_reason_at(now),
        }

    def next_change(self, now: float) -> float:
        """When that status ends, in Unix seconds; ``math.inf`` for never."""
        changes = (self.received_at, self.started_at, self.finished_at)
        return next((change for change in changes if change > now), math.inf)
