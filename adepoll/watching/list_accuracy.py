"""How late and how complete the job list is, measured with jobs that are known otherwise.

Imports nothing of adepoll. Times are seconds of one monotonic clock.
"""

import math
from typing import Final

from attrs import define, field


@define(eq=False)
class Score:
    """Jobs for which the list was late, and in time; older ones count less."""

    late: float = 0.0
    in_time: float = 0.0

    def count(self, *, late: bool) -> None:
        """Count one more job."""
        self.late = self.late * _FADING + late
        self.in_time = self.in_time * _FADING + (not late)

    @property
    def is_suspicious(self) -> bool:
        """True if the list was late for more than 15% of the jobs, even if that is one job."""
        return self.late > _MAX_LATE_SHARE * (self.late + self.in_time)

    @property
    def is_bad(self) -> bool:
        """True if the list was late for more than 15% of the jobs, and for at least two jobs."""
        return self.is_suspicious and self.late > _MIN_LATE


@define(eq=False, kw_only=True)
class ListAccuracy:
    """Compares the list with polls.

    Attributes:
        limit: Largest lag, in seconds, at which the list is useful.
        ends: Jobs that a poll found settled, and whether the list still showed them as active
            `limit` seconds later.
        arrivals: New jobs that a poll found active, and whether the list showed them `limit`
            seconds after the service had received them.
        dropped: Jobs that were missing from the list, and that a poll then found settled.
        compare_at: Time of the next list request that can tell whether the list is late; infinity
            if there is none, or enough is known.
        no_drop_since: Start of the last sweep since which the list has dropped no job.
    """

    limit: float
    ends: Score = field(factory=Score, init=False)
    arrivals: Score = field(factory=Score, init=False)
    dropped: int = field(default=0, init=False)
    compare_at: float = field(default=math.inf, init=False)
    no_drop_since: float = field(default=-math.inf, init=False)
    _expected: float = field(default=0.0, init=False)
    # By id, when a poll found that, and when a poll last found the job active.
    _settled: dict[str, tuple[float, float]] = field(factory=dict, init=False)
    _shown: set[str] = field(factory=set, init=False)  # those that the present sweep shows
    _without_drop: float = field(default=0.0, init=False)  # jobs expected since `no_drop_since`
    _explained: float = field(default=0.0, init=False)  # of these, as far as polls can tell
    _credit: float = field(default=0.0, init=False)  # polls that may be spent on samples

    @property
    def is_bad(self) -> bool:
        """True if the list is too late, or wrong for too many jobs."""
        return self.ends.is_bad or self.arrivals.is_bad

    @property
    def is_proven(self) -> bool:
        """True if there is evidence that the list drops settled jobs, and drops them in time."""
        drops = self.ends.in_time >= _MIN_IN_TIME or self.dropped >= _MIN_IN_TIME
        return drops and self._is_in_time and not self._is_doubted

    @property
    def _is_doubted(self) -> bool:
        """True if the list has shown all jobs for so long that some should have settled."""
        return self._without_drop >= _MIN_IN_TIME

    @property
    def _is_in_time(self) -> bool:
        """True if polls show that the list adds new jobs and drops settled ones in time."""
        if self.ends.is_suspicious or self.arrivals.is_suspicious:
            return False
        enough = max(self.ends.in_time, self.arrivals.in_time) >= _MIN_IN_TIME
        return enough or self._expected >= _PROOF

    def restart(self) -> None:
        """Forget the scores, but not which jobs have settled recently."""
        self.ends, self.arrivals = Score(), Score()
        self._expected = self._without_drop = self._explained = 0.0
        self.dropped = 0

    def record_active(self, received_at: float, missing_at: float) -> bool:
        """Record that a poll found a job active that was missing from the list.

        Returns:
            True if that shows that the list is late.
        """
        informative = received_at + self.limit + _TRUNCATED
        if missing_at <= informative:
            if not self.is_proven:
                self.compare_at = min(self.compare_at, informative)
            return False
        self.arrivals.count(late=True)
        return True

    def record_settled(self, job_id: str, now: float, *, active_at: float) -> None:
        """Record that a poll found a job settled that was not missing from the list.

        Args:
            job_id: Id of the job.
            now: The time.
            active_at: Time at which a poll last found the job active, or at which it began.
        """
        self._explained = 0.0
        settled = self._settled
        settled[job_id] = now, active_at
        if not self.is_proven:
            self.compare_at = min(self.compare_at, now + self.limit)
        if len(settled) > _KEPT:
            del settled[next(iter(settled))]

    def record_expected(self, chance: float) -> None:
        """Record a poll of a listed job.

        Args:
            chance: Probability that the job would have settled without the list showing it, if the
                list had a lag of `limit`.
        """
        self._expected += chance

    def record_still_active(self, chance: float) -> None:
        """Record that a poll found a listed job active.

        Args:
            chance: Probability that the job would have settled after `no_drop_since`.
        """
        self._explained += chance

    def record_drops(self, missing: int, started: float, *, expected: float) -> None:
        """Record how many jobs a sweep did not show, and how many should have settled before it.

        A list that shows all jobs although some should have settled is not proven any more. It is
        proven again if polls find that the jobs take longer than expected.
        """
        if missing and self._is_doubted:
            self._expected = self.ends.in_time = 0.0
            self.dropped = 0
        self._without_drop += expected
        if missing or self._explained >= _PROOF:
            self._without_drop = self._explained = 0.0
            self.no_drop_since = started

    def record_listed(self, job_id: str, requested_at: float) -> None:
        """Record that a page requested at `requested_at` shows a job as active."""
        settled = self._settled.get(job_id)
        if settled is None:
            return
        if requested_at < settled[0] + self.limit:
            self._shown.add(job_id)
        else:
            del self._settled[job_id]
            self.ends.count(late=True)

    def record_sweep(self, started: float) -> None:
        """Record that a complete sweep, begun at `started`, showed no other settled job."""
        if started >= self.compare_at:
            self.compare_at = math.inf
        dropped = [
            (job_id, active_at)
            for job_id, (settled_at, active_at) in self._settled.items()
            if settled_at <= started and job_id not in self._shown
        ]
        self._shown.clear()
        for job_id, active_at in dropped:
            del self._settled[job_id]
            # The job can have settled at any time since then, and a late list have dropped it, too.
            if started < active_at + self.limit + _SLACK:
                self.ends.count(late=False)

    def samples(self, listed: int, *, age: float, settled: int) -> int:
        """Return how many of the listed jobs to poll after a sweep, to check the list.

        Args:
            listed: Number of listed jobs that are watched.
            age: Age of a typical job.
            settled: Jobs that were found settled since the last call.
        """
        if self.is_proven:
            self._credit += _SAMPLES_PER_SWEEP + _SAMPLES_PER_JOB * settled
        else:
            # Few of the youngest jobs have settled, and few of the old ones are likely to do so
            # soon. The more jobs the list has dropped in time, the fewer samples are needed.
            wanted = math.sqrt(listed) * min(1.0, (age / _YOUNG) ** 2, _OLD / max(age, 1.0))
            if self._is_in_time and not self._is_doubted:
                wanted /= 1 + self.dropped
            if self._settled or self._is_doubted:
                wanted *= _SUSPICION  # listed jobs have settled, or should have
            most = _MAX_SAMPLE
            if self.ends.is_suspicious:  # it has shown a settled job for too long
                wanted, most = listed, _MAX_SUSPICIOUS_SAMPLE
            self._credit += min(max(_MIN_SAMPLE, wanted), most)
        count = int(self._credit)
        self._credit -= count
        return count


_MIN_LATE: Final = 1.5  # jobs
_MAX_LATE_SHARE: Final = 0.15
_FADING: Final = 0.99  # per job
_KEPT: Final = 64  # settled jobs
_PROOF: Final = 3.0  # jobs: by chance, none of them is found in 5% of the cases
_MIN_IN_TIME: Final = 2.5  # jobs
_TRUNCATED: Final = 0.6  # seconds by which `received_at` may be too early
_MIN_SAMPLE: Final = 1.0
_MAX_SAMPLE: Final = 32.0
_MAX_SUSPICIOUS_SAMPLE: Final = 128.0
_SLACK: Final = 1.0  # seconds
_SUSPICION: Final = 3.0
_YOUNG: Final = 16.0  # seconds
_OLD: Final = 60.0  # seconds
_SAMPLES_PER_SWEEP: Final = 0.25
_SAMPLES_PER_JOB: Final = 0.03
