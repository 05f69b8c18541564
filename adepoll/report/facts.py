"""What a batch comes to: Facts, which is all that the page shows. Imports its neighbours only.

Text in them has gone through `showable`: it may be put on a page.
"""

from collections.abc import Mapping
from enum import StrEnum

from attrs import frozen

from adepoll.report.figures import Bins, Spread
from adepoll.report.grouping import Group


class Ending(StrEnum):
    """What became of a job; every job of a batch is counted under one of these."""

    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    OTHER = "another end"  # a status that this version has not heard of
    MISSED = "result missed"  # completed, but its result could not be brought home
    UNRESOLVED = "unresolved"  # given up before it was seen to end
    FETCHING = "result on its way"
    WAITING = "waiting"

    @property
    def is_open(self) -> bool:
        """Whether there is still something to come."""
        return self in {Ending.FETCHING, Ending.WAITING}


@frozen(kw_only=True)
class SlowJob:
    """One of the jobs that took longest.

    Attributes:
        job_id: The job.
        filename: Name of the document; empty where it is not told.
        ending: What became of it.
        version: The model used; empty where it is not told.
        seconds: How long it took.
        measured: Whether the service told that; else it is from receipt until seen to have ended.
        settled_at: When it was seen to have ended, Unix seconds.
    """

    job_id: str
    filename: str
    ending: Ending
    version: str
    seconds: float
    measured: bool
    settled_at: float


@frozen(kw_only=True)
class OpenJob:
    """A job that is still open.

    Attributes:
        job_id: The job.
        state: The status last seen, or what is still to be done.
        added_at: When it was added, Unix seconds.
    """

    job_id: str
    state: str
    added_at: float


@frozen(kw_only=True)
class Cost:
    """What jobs of one model version cost.

    Attributes:
        version: The model really used; empty for the rest of too many versions.
        jobs: How many jobs told a cost.
        credits: What they cost together.
        fallbacks: How many of them were asked of another version, which failed.
    """

    version: str
    jobs: int
    credits: float
    fallbacks: int


@frozen(kw_only=True)
class Curve:
    """How many jobs had settled by when.

    Attributes:
        start: Where the curve begins, Unix seconds.
        stop: Where it ends.
        counts: Settled jobs at evenly spaced moments, from start to stop.
        later: How many settled only after `stop`, so late that the rest would be squashed.
        last: When the last job settled, Unix seconds.
    """

    start: float
    stop: float
    counts: tuple[int, ...]
    later: int
    last: float


@frozen(kw_only=True)
class Sample:
    """Values of one kind: how they spread, and what a histogram shows. Seconds or bytes."""

    spread: Spread
    bins: Bins


@frozen(kw_only=True)
class Facts:
    """What a batch comes to. Durations are seconds, times Unix seconds, sizes bytes.

    Attributes:
        jobs: How many there are.
        endings: How many of each ending; those that there are.
        settled: How many were seen to have ended.
        undelivered: Outcomes that are written down and were not taken yet.
        first_added: When the first job was added; None for an empty batch.
        first_settled: When the first one settled.
        last_settled: When the last one settled.
        durations: How long jobs took; None where nothing is known.
        measured: How many of these durations the service told; the rest is until seen.
        detection_lag: Seconds from each job's end to its last poll, at most; None if unknown.
        lags_unknown: Settled jobs of which that cannot be told.
        ended_before: Jobs that had ended before they were added; their lag is from then.
        curve: Settled over time; None where nothing is.
        failures: Why jobs failed, most frequent first.
        troubles: Why jobs were given up, most frequent first.
        retryable: Given up jobs that another run tries again.
        violations: How data departs from the schema, most frequent first.
        warnings: Warnings by code, most frequent first.
        warned: Jobs with a warning.
        costs: Credits by model version, dearest first.
        slowest: The jobs that took longest, slowest first.
        open_states: Open jobs by the status last seen.
        open_jobs: The first of the open jobs.
        files: How many results are on disk.
        bytes: Their size.
        inline: Completed jobs whose result is in no file: none was wanted.
        sizes: How the sizes spread; None where there are none.
    """

    jobs: int
    endings: Mapping[Ending, int]
    settled: int
    undelivered: int
    first_added: float | None
    first_settled: float | None
    last_settled: float | None
    durations: Sample | None
    measured: int
    detection_lag: Sample | None
    lags_unknown: int
    ended_before: int
    curve: Curve | None
    failures: tuple[Group, ...]
    troubles: tuple[Group, ...]
    retryable: int
    violations: tuple[Group, ...]
    warnings: tuple[Group, ...]
    warned: int
    costs: tuple[Cost, ...]
    slowest: tuple[SlowJob, ...]
    open_states: tuple[Group, ...]
    open_jobs: tuple[OpenJob, ...]
    files: int
    bytes: int
    inline: int
    sizes: Spread | None

    def count(self, *endings: Ending) -> int:
        """Give how many jobs are of one of these endings."""
        return sum(self.endings.get(ending, 0) for ending in endings)

    @property
    def open(self) -> int:
        """How many jobs have no outcome yet."""
        return self.count(Ending.FETCHING, Ending.WAITING)

    @property
    def credits(self) -> float:
        """What all jobs cost together."""
        return sum(cost.credits for cost in self.costs)
