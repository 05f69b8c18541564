"""Compares the job list with polls, to find out how late and how complete the list is.

The list is late if it still shows a settled job as active, or does not show a new job yet. The list
*drops* a job when it no longer shows the job as active. Imports nothing of adepoll. Times are
seconds of one monotonic clock.
"""

import math
from typing import Final

from attrs import define, field


@define(eq=False)
class Score:
    """Counts jobs for which the list was late or in time; older jobs count less."""

    late: float = 0.0
    in_time: float = 0.0

    def count(self, *, late: bool) -> None:
        """Count one more job.

        Args:
            late: True if the list was late for this job.
        """
        self.late = self.late * _FADING + late
        self.in_time = self.in_time * _FADING + (not late)

    @property
    def is_suspicious(self) -> bool:
        """True if the list was late for more than 15% of the jobs; one late job can be enough."""
        return self.late > _MAX_LATE_SHARE * (self.late + self.in_time)

    @property
    def is_bad(self) -> bool:
        """True if the list was late for more than 15% of the jobs, and for at least two jobs."""
        return self.is_suspicious and self.late > _MIN_LATE


@define(eq=False)
class KeptShare:
    """Estimates which share of the settled jobs the list goes on showing as active forever.

    The estimate comes from polls of jobs that the list shows as active.

    Attributes:
        found: Number of settled jobs that such polls have found, and that the list still shows.
        expected: Number of settled jobs that such polls would have found if the list showed all
            settled jobs forever. In both numbers, older polls count less.
    """

    found: float = 0.0
    expected: float = 0.0

    @property
    def value(self) -> float:
        """Estimated share, 0 to 1, of the settled jobs that the list shows as active forever.

        It is 0 if recent polls found no such job.
        """
        return min(self.found / max(self.expected, 1.0), 1.0) if self.found >= _MIN_FOUND else 0.0

    @property
    def is_large(self) -> bool:
        """True if the list goes on showing so many settled jobs that sweeps save few requests."""
        return self.value > _MAX_KEPT_SHARE

    def record_poll(self, chance: float) -> None:
        """Count a poll of a listed job in `expected`, and reduce the weight of older polls.

        Args:
            chance: Probability that a job of this age settles between its last poll and this poll.
        """
        fading = 1 - chance / _KEPT_MEMORY
        self.found *= fading
        self.expected = self.expected * fading + chance


@define(eq=False, kw_only=True)
class ListAccuracy:
    """Finds out whether the list can replace polls, by comparing the list with polls.

    Attributes:
        limit: Largest lag of the list, in seconds, at which the list is useful.
        ends: Counts settled jobs. The list was late for a job if it still showed the job as active
            `limit` seconds after a poll had found the job settled.
        arrivals: Counts new jobs. The list was late for a job if it did not show the job `limit`
            seconds after the service had received the job.
        kept: Share of the settled jobs that the list goes on showing as active.
        dropped: Number of jobs that were missing from the list, and that a poll then found settled.
        compare_at: Latest time at which the next sweep should start, because it can show whether
            the list is late, or that further jobs have settled. Infinity if there is no such
            reason.
        no_drop_since: Start of the last sweep in which watched jobs were missing from the list. If
            no job was missing in later sweeps, but polls have shown that no job had to be missing,
            because jobs take longer than expected: the start of such a later sweep.
    """

    limit: float
    ends: Score = field(factory=Score, init=False)
    arrivals: Score = field(factory=Score, init=False)
    kept: KeptShare = field(factory=KeptShare, init=False)
    dropped: int = field(default=0, init=False)
    compare_at: float = field(default=math.inf, init=False)
    no_drop_since: float = field(default=-math.inf, init=False)
    # Expected number of settled jobs that polls of listed jobs would have found if the lag of the
    # list were `limit`, minus the number of settled jobs that these polls have found.
    _expected: float = field(default=0.0, init=False)
    # Recently settled jobs, by id. The times are those of the poll that found the job settled, and
    # of the last poll that found the job active. The bool is True if `kept` includes the poll.
    _settled: dict[str, tuple[float, float, bool]] = field(factory=dict, init=False)
    # Jobs that count in `kept.found`, by id, until the list drops them: the time of the poll.
    _kept: dict[str, float] = field(factory=dict, init=False)
    # True if the last sweep still showed a recently settled job as active.
    _shows_settled: bool = field(default=False, init=False)
    # Ids of jobs in `_settled` and `_kept` that the present sweep still shows as active.
    _shown: set[str] = field(factory=set, init=False)
    # Expected number of jobs that have settled since `no_drop_since`.
    _without_drop: float = field(default=0.0, init=False)
    # Number of jobs that should have settled since `no_drop_since`, but that polls found active:
    # the sum of their chances.
    _explained: float = field(default=0.0, init=False)
    # Fraction of a poll that was left when `samples` rounded a number of polls down. The next call
    # of `samples` adds this fraction.
    _fraction: float = field(default=0.0, init=False)

    @property
    def is_bad(self) -> bool:
        """True if the list was late for too many jobs, or goes on showing too many settled jobs."""
        too_many = self.kept.is_large and self.kept.found > _MIN_LATE
        return self.ends.is_bad or self.arrivals.is_bad or too_many

    @property
    def is_proven(self) -> bool:
        """True if polls have shown that the list drops settled jobs, and drops them in time."""
        drops = self.ends.in_time >= _MIN_IN_TIME or self.dropped >= _MIN_IN_TIME
        return drops and self._is_in_time and not self._is_doubted

    @property
    def _is_doubted(self) -> bool:
        """True if the list still shows every watched job, although some should have settled."""
        return self._without_drop >= _DOUBT

    @property
    def _is_in_time(self) -> bool:
        """True if polls show that the list adds new jobs and drops settled ones in time."""
        if self.ends.is_suspicious or self.arrivals.is_suspicious or self.kept.is_large:
            return False
        if max(self.ends.in_time, self.arrivals.in_time) >= _MIN_IN_TIME:
            return True
        # Sweeps must first show whether the list drops the jobs in `_settled` in time.
        return self._expected >= _PROOF and not self._settled

    def restart(self) -> None:
        """Set all scores and counts to zero, but keep the jobs that settled recently."""
        self.ends, self.arrivals, self.kept = Score(), Score(), KeptShare()
        self._kept.clear()
        self._expected = self._without_drop = self._explained = 0.0
        self.dropped = 0

    def sweep_started(self) -> None:
        """Forget what the pages of an earlier sweep that was not complete have shown."""
        self._shown.clear()

    def record_active(self, received_at: float, missing_at: float) -> bool:
        """Record that a job was missing from the list, but a poll has found it active.

        Args:
            received_at: Time at which the service received the job.
            missing_at: Time of the list request that did not show the job.

        Returns:
            True if the list was late for this job. False if that is not known, because the job was
            so new that it did not have to be in the list yet.
        """
        # From this time on, a list that is in time shows the job.
        shown_from = received_at + self.limit + _RECEIVED_AT_ERROR
        if missing_at <= shown_from:
            if not self.is_proven:
                self.compare_at = min(self.compare_at, shown_from)
            return False
        self.arrivals.count(late=True)
        return True

    def record_settled(
        self,
        job_id: str,
        now: float,
        *,
        active_at: float,
        sweep_now: bool = False,
        is_check: bool = False,
    ) -> None:
        """Record that a poll found a job settled; later sweeps show when the list drops it.

        Args:
            job_id: Id of the job.
            now: The present time.
            active_at: Time at which a poll last found the job active; if no poll has, the time at
                which the service received the job.
            sweep_now: True to sweep immediately, because other listed jobs may have settled, too.
            is_check: True if the list showed the job as active, and enough jobs have settled to
                know how long jobs take. Only such polls count in `ListAccuracy.kept`.
        """
        self._explained = 0.0
        self._expected -= is_check
        settled = self._settled
        settled[job_id] = now, active_at, is_check
        if sweep_now:
            self.compare_at = min(self.compare_at, now)
        elif not self.is_proven:
            self.compare_at = min(self.compare_at, now + self.limit)
        if len(settled) > _KEPT:
            del settled[next(iter(settled))]

    def record_expected(self, chance: float) -> None:
        """Count a poll of a listed job that can show whether the list is late.

        Args:
            chance: Probability that the poll finds the job settled, if the list still shows each
                job for `limit` seconds after the job has settled.
        """
        self._expected += chance

    def record_still_active(self, chance: float) -> None:
        """Record that a poll found a listed job active, although it could have settled.

        Args:
            chance: Probability that a job of this age settles between the time `no_drop_since` and
                this poll.
        """
        self._explained += chance

    def record_drops(self, missing: int, started: float, *, expected: float) -> None:
        """Compare how many jobs a sweep did not show with how many should have settled.

        If jobs should have settled, but the list shows all of them, `is_proven` becomes False. It
        can become True again when polls find that the jobs take longer than expected.

        Args:
            missing: Number of watched jobs that a complete sweep did not show.
            started: Start of the sweep.
            expected: Expected number of jobs that settled between the previous sweep and this one.
        """
        if missing and self._is_doubted:
            self._expected = self.ends.in_time = 0.0
            self.dropped = 0
        self._without_drop += expected
        if missing or self._explained >= _PROOF:
            self._without_drop = self._explained = 0.0
            self.no_drop_since = started

    def record_listed(self, job_id: str, requested_at: float) -> None:
        """Record that the list shows a job as active that is no longer watched.

        If a poll had found the job settled before, the list is late for it, or never drops it.

        Args:
            job_id: Id of the job.
            requested_at: Time at which the page was requested.
        """
        if job_id in self._kept:
            self._shown.add(job_id)
        if (settled := self._settled.get(job_id)) is None:
            return
        settled_at, _, is_check = settled
        if requested_at < settled_at + self.limit:
            self._shown.add(job_id)
            return
        del self._settled[job_id]
        if is_check:
            self.kept.found += 1
            self._kept[job_id] = settled_at
            self._shown.add(job_id)
        else:
            self.ends.count(late=True)

    def record_sweep(self, started: float) -> None:
        """Record the end of a complete sweep: find the settled jobs that the list has dropped.

        These are jobs that a poll found settled before the sweep, and that no page of the sweep
        showed as active.

        Args:
            started: Time at which the sweep began.
        """
        if started >= self.compare_at:
            self.compare_at = math.inf
        dropped = [
            (job_id, active_at)
            for job_id, (settled_at, active_at, _) in self._settled.items()
            if settled_at <= started and job_id not in self._shown
        ]
        self._record_kept(started)
        self._shown.clear()
        for job_id, active_at in dropped:
            del self._settled[job_id]
            # The job can have settled as early as `active_at`. Long after that time, even a late
            # list has dropped the job, so only an early sweep proves that the list is in time.
            if started < active_at + self.limit + _SLACK:
                self.ends.count(late=False)
        times = [settled_at for settled_at, _, _ in self._settled.values()]
        earliest = min(times, default=math.inf)
        self._shows_settled = earliest <= started
        if not self.is_proven:
            self.compare_at = min(self.compare_at, earliest + self.limit)

    def _record_kept(self, started: float) -> None:
        """Correct the counts for jobs that the list seemed to show as active forever.

        If the list has dropped such a job after all, the list was only late for it.

        Args:
            started: Time at which the sweep began.
        """
        for job_id, settled_at in [*self._kept.items()]:
            if job_id not in self._shown:
                self.kept.found = max(self.kept.found - 1, 0.0)
                self.ends.count(late=True)
            if job_id not in self._shown or started > settled_at + _KEPT_FOR:
                del self._kept[job_id]

    def samples(self, listed: int, *, age: float, settled: int, chance: float = 0.0) -> int:
        """Return the number of watched jobs to poll after a sweep, only to check the list.

        Args:
            listed: Number of watched jobs.
            age: Age of a typical watched job, in seconds.
            settled: Number of jobs that polls have found settled since the last call.
            chance: Probability that a typical watched job has settled since a poll last found it
                active, if nothing is known from the list.
        """
        wanted = self._fraction
        late = self.ends.is_suspicious or self.kept.is_large
        late = late or (self._shows_settled and not self.is_proven)
        if late and len(self._settled) < _ENOUGH:
            # Poll more jobs, to find settled jobs that the list still shows as active. When a later
            # sweep no longer shows these jobs, adepoll knows how late the list is.
            wanted += min(listed, _MAX_SUSPICIOUS_SAMPLE)
        elif self.is_proven:
            few = self.kept.expected < _EXPECTED
            per_sweep, per_settled = _FIRST_SAMPLES if few else _SAMPLES
            size = per_settled * settled
            enough = min(_EXPECTED_SOON, _EXPECTED_SHARE * listed)
            if self.kept.expected < enough and chance >= _MIN_CHANCE:
                # Many listed jobs would have settled unnoticed by now if the list kept showing
                # them. So find out soon whether it does.
                size = max(size, min(_PER_SWEEP / chance, _MAX_SAMPLE))
            wanted += per_sweep + size
        else:
            # The sample is smaller if the jobs are very young, because few of them have settled, or
            # very old, because few of them will settle soon. It is also smaller the more jobs the
            # list has dropped in time.
            size = _CUBE_ROOTS * math.cbrt(listed)
            size *= min(1.0, (age / _YOUNG) ** 2, math.sqrt(_OLD / max(age, 1.0)))
            if self._is_doubted:
                size *= _SUSPICION  # listed jobs should have settled
            elif self._is_in_time:
                size /= 1 + self.dropped
            wanted += min(max(_MIN_SAMPLE, size), _MAX_SAMPLE)
        count = int(wanted)
        self._fraction = wanted - count
        return count


_MIN_LATE: Final = 1.5  # late jobs; less than 2, because older jobs count less
_MAX_LATE_SHARE: Final = 0.15  # share of the compared jobs; if the list is late for more, it is bad
_FADING: Final = 0.99  # factor by which older jobs count less at each further job
_KEPT: Final = 64  # settled jobs that are compared with the list
# Number of jobs. If 3 jobs are expected and none is found, this is chance in only 5% of the cases.
_PROOF: Final = 3.0
_MIN_IN_TIME: Final = 2.5  # jobs that are enough to judge the list; not 3, as older jobs count less
# Number of jobs. If 4.6 jobs are expected and none is found, this is chance in only 1% of cases.
# The limit is stricter than `_PROOF`, because every sweep checks it.
_DOUBT: Final = 4.6
_MIN_FOUND: Final = 0.5  # jobs; less than 1, because older jobs count less
# If the list shows a larger share of the settled jobs as active, it is bad: the jobs that it shows
# would then need more than half of the polls that they need without a list.
_MAX_KEPT_SHARE: Final = 0.3
_KEPT_MEMORY: Final = 200.0  # expected jobs after which a poll counts only 1/e, or 37%, in `kept`
# Seconds after the poll that found a job settled. If the list drops the job later, the job still
# counts as kept.
_KEPT_FOR: Final = 60.0
# Maximum seconds by which `received_at` is too early: `learning` adds 0.5 s to the whole seconds
# that the service sends, and 0.1 s are for the clocks.
_RECEIVED_AT_ERROR: Final = 0.6
# Minimum and maximum number of polls after a sweep that only check the list.
_MIN_SAMPLE: Final = 1.0
_MAX_SAMPLE: Final = 32.0
_MAX_SUSPICIOUS_SAMPLE: Final = 128.0  # maximum of these polls if the list is probably late
# Seconds, added to `limit`. The sum is the time for which a sweep counts as early after a job was
# seen active. Only an early sweep that no longer shows the job proves that the list is in time.
_SLACK: Final = 1.0
_CUBE_ROOTS: Final = 1.5  # size of a sample, divided by the cube root of the number of jobs
_SUSPICION: Final = 3.0  # factor by which a sample is larger if listed jobs should have settled
_ENOUGH: Final = 4  # settled jobs that are enough to find out how late the list is
_YOUNG: Final = 16.0  # seconds; the sample is smaller if jobs are younger, as few have settled
_OLD: Final = 60.0  # seconds; the sample is smaller if jobs are older, as few will settle soon
# Once the list is proven: polls that only check the list, for each sweep and for each settled job.
# `_FIRST_SAMPLES` is used until `KeptShare.expected` is `_EXPECTED`. So many polls are enough to
# find out whether the list shows 5% of the settled jobs as active.
_SAMPLES: Final = 0.1, 0.03
_FIRST_SAMPLES: Final = 0.25, 0.15
_EXPECTED: Final = 30.0
# The polls after each sweep would find `_PER_SWEEP` jobs if the list showed all settled jobs, until
# `KeptShare.expected` is `_EXPECTED_SOON`, or a share of the listed jobs if these are few. If the
# list shows 20% of the settled jobs, one job is found in the end.
_EXPECTED_SOON: Final = 6.0
_EXPECTED_SHARE: Final = 0.05
_PER_SWEEP: Final = 2.0
_MIN_CHANCE: Final = 0.1  # chance that a job has settled, below which a poll would show too little
