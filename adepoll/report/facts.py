"""ReportFacts: everything that the report shows about a batch.

The function `showable` has redacted and escaped all texts in these classes.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum

from attrs import frozen

from adepoll.common.html_tables import HtmlTable
from adepoll.report.chart_numbers import Bins, Summary
from adepoll.report.message_groups import Group


class OutcomeKind(StrEnum):
    """Outcome or stage of a job. Every job of a batch has exactly one."""

    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    OTHER = "other status"  # settled with a status that this version does not know
    NOT_FETCHED = "result not fetched"  # completed, but its result could not be fetched
    UNRESOLVED = "unresolved"  # given up before it settled
    FETCHING = "fetching result"
    WAITING = "waiting"

    @property
    def is_open(self) -> bool:
        """True for FETCHING and WAITING: the batch is still working on such jobs."""
        return self in {OutcomeKind.FETCHING, OutcomeKind.WAITING}


@frozen(kw_only=True)
class SlowJob:
    """One of the slowest jobs.

    Attributes:
        job_id: Id of the job.
        document: Label of the job, or name of its document; empty if unknown.
        outcome: Outcome of the job.
        version: Version of the model used; empty if unknown.
        seconds: Duration of the job.
        measured: True if the duration comes from the service. False if it is the time from the
            receipt of the job to the poll that observed its end.
        settled_at: Unix time of the poll that observed the end.
    """

    job_id: str
    document: str
    outcome: OutcomeKind
    version: str
    seconds: float
    measured: bool
    settled_at: float


@frozen(kw_only=True)
class OpenJob:
    """A job without an outcome.

    Attributes:
        job_id: Id of the job.
        label: Label of the job; empty if the job has no label.
        state: Last known status of the job, "not polled yet", or "completed, fetching result".
        added_at: Unix time at which the job was added to the batch.
    """

    job_id: str
    label: str
    state: str
    added_at: float


@frozen(kw_only=True)
class KindSummary:
    """The jobs of one kind.

    Attributes:
        kind: Name of the kind.
        jobs: Number of jobs.
        completed: Jobs that completed.
        partial: Completed jobs with a partial result.
        failed: Jobs that failed or were cancelled.
        given_up: Jobs that are unresolved, or whose result was not fetched.
        open: Jobs without an outcome.
        pages: Sum of the page counts that the service states for the jobs.
        credits: Sum of the credits that the service states for the jobs.
        median: Median duration in seconds; None if no job has settled.
    """

    kind: str
    jobs: int
    completed: int
    partial: int
    failed: int
    given_up: int
    open: int
    pages: int
    credits: float
    median: float | None


@frozen(kw_only=True)
class Cost:
    """Cost of the jobs of one model version.

    Attributes:
        version: Version of the model used; empty for all versions beyond the first 50, which are
            counted together.
        jobs: Number of jobs with metadata of this version.
        credits: Sum of the credits that the service states for these jobs.
        fallbacks: Number of these jobs that requested another version and fell back to this one.
    """

    version: str
    jobs: int
    credits: float
    fallbacks: int


@frozen(kw_only=True)
class Curve:
    """Number of settled jobs over time.

    Attributes:
        start: Unix time of the first point.
        stop: Unix time of the last point.
        counts: Numbers of settled jobs at evenly spaced times from `start` to `stop`.
        later: Number of jobs that settled after `stop`; the curve does not show them.
        last: Unix time at which the last job settled.
    """

    start: float
    stop: float
    counts: tuple[int, ...]
    later: int
    last: float


@frozen(kw_only=True)
class Sample:
    """Durations in seconds: their summary and their histogram."""

    summary: Summary
    bins: Bins


@frozen(kw_only=True)
class ReportFacts(HtmlTable):
    """All facts about a batch. Durations are in seconds, times are Unix times, sizes are in bytes.

    Attributes:
        jobs: Number of jobs.
        outcomes: Number of jobs by outcome; an outcome without jobs is left out.
        settled: Number of settled jobs.
        unacknowledged: Recorded outcomes that were not acknowledged: their lines were not printed.
        first_added: Time at which the first job was added; None for an empty batch.
        first_settled: Time at which the first job settled; None if no job has settled.
        last_settled: Time at which the last job settled; None if no job has settled.
        durations: Durations of the settled jobs; None if no job has settled.
        measured: Number of durations that come from the service. The other durations are counted
            from the receipt of a job to the poll that observed its end.
        detection_lag: Detection lags; a lag of a v1 job is an upper bound. None if all are unknown.
        lag_unknown: Settled jobs whose detection lag is unknown.
        settled_before_added: Jobs that had settled before they were added to the batch.
        curve: Settled jobs over time; None if no job has settled.
        failures: Reasons of failed jobs, the most frequent first.
        errors: Errors of jobs that were given up, the most frequent first.
        retryable: Jobs that were given up and that another run tries again.
        violations: Schema violations, the most frequent first.
        incomplete: Completed jobs whose result lacks pages that could not be parsed.
        warnings: Warnings by code, the most frequent first.
        warned: Jobs with at least one warning.
        kinds: Jobs by kind, the most frequent kind first.
        costs: Credits by model version, the version with the most credits first.
        slowest: The 20 slowest jobs, the slowest first.
        open_states: Open jobs by state, the most frequent first; see `OpenJob.state`.
        open_jobs: The first 20 open jobs.
        files: Number of result files.
        bytes: Total size of the result files.
        without_file: Completed jobs without a result file, because no folder for results was named.
        sizes: Summary of the file sizes; None if there are no files.
    """

    jobs: int
    outcomes: Mapping[OutcomeKind, int]
    settled: int
    unacknowledged: int
    first_added: float | None
    first_settled: float | None
    last_settled: float | None
    durations: Sample | None
    measured: int
    detection_lag: Sample | None
    lag_unknown: int
    settled_before_added: int
    curve: Curve | None
    failures: tuple[Group, ...]
    errors: tuple[Group, ...]
    retryable: int
    violations: tuple[Group, ...]
    incomplete: int
    warnings: tuple[Group, ...]
    warned: int
    kinds: tuple[KindSummary, ...]
    costs: tuple[Cost, ...]
    slowest: tuple[SlowJob, ...]
    open_states: tuple[Group, ...]
    open_jobs: tuple[OpenJob, ...]
    files: int
    bytes: int
    without_file: int
    sizes: Summary | None

    def _html_rows(self) -> Iterable[tuple[str, object]]:
        """Yield the main numbers; the HTML report shows all of them."""
        yield "jobs", self.jobs
        yield "outcomes", {kind: number for kind, number in self.outcomes.items() if number}
        for name, sample in (("duration", self.durations), ("detection lag", self.detection_lag)):
            if sample is not None:
                found = sample.summary
                yield name, f"median {found.median:.1f} s, 95% within {found.p95:.1f} s"
        yield "credits", self.credits or None
        yield "result files", self.files or None

    def count(self, *outcomes: OutcomeKind) -> int:
        """Return the number of jobs with one of these outcomes."""
        return sum(self.outcomes.get(outcome, 0) for outcome in outcomes)

    @property
    def open(self) -> int:
        """Number of jobs without an outcome."""
        return self.count(OutcomeKind.FETCHING, OutcomeKind.WAITING)

    @property
    def credits(self) -> float:
        """Sum of the credits of all jobs."""
        return sum(cost.credits for cost in self.costs)
