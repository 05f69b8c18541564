"""Asks the schedule (`scheduling.schedules`) for the delay until the next poll of a job.

Other modules can change the delay; `scheduling.schedules` lists them. Times are seconds of one
monotonic clock, passed in as `now`.
"""

import math
from collections.abc import Collection
from itertools import islice
from random import Random
from typing import Final

from attrs import define, field

from adepoll.scheduling.distribution import EDGES, bin_index
from adepoll.scheduling.schedules import (
    Adaptive,
    FirstPollSchedule,
    LagSchedule,
    PollContext,
    Schedule,
)
from adepoll.watching.job_state import JobState
from adepoll.watching.learning import Learning
from adepoll.watching.statistics import Throughput


@define(eq=False, kw_only=True)
class ScheduleCalls:
    """Calls the schedule with a `PollContext` that describes the job.

    Attributes:
        schedule: Chooses the delay of each poll.
        rng: Source of jitter.
        learning: Knows the ages of jobs, and how long jobs take.
        throughput: Measures how many polls per second are possible.
        long_delay: A delay above this number of seconds is checked again before it ends. It is
            infinity for a schedule other than `Adaptive`.
        mean_delay: Mean of about the last 32 delays, in seconds; None before the first delay.
    """

    schedule: Schedule
    rng: Random
    learning: Learning = field(factory=Learning)
    throughput: Throughput = field(factory=Throughput)
    long_delay: float = field(init=False)
    mean_delay: float | None = field(default=None, init=False)
    # Recent polls that were earlier than planned, because jobs may take only seconds.
    _early_polls: float = field(default=0.0, init=False)
    # Number of new jobs that may be polled early (`polls_early`), the time of the last new job, and
    # the last time at which jobs may have been polled early because no new job had come for a
    # minute.
    _early_jobs: float = field(default=12.0, init=False)
    _new_at: float = field(default=math.inf, init=False)
    _after_break_at: float = field(default=-math.inf, init=False)
    # `schedule`, if it has `first_delay`. Checked once, because isinstance is slow for a protocol.
    _first_poll_schedule: FirstPollSchedule | None = field(init=False)

    @long_delay.default
    def _find_long_delay(self) -> float:
        """Return the longest delay of `Adaptive` at ages that are not quiet."""
        return self.schedule.longest if isinstance(self.schedule, Adaptive) else math.inf

    @_first_poll_schedule.default
    def _find_first_poll_schedule(self) -> FirstPollSchedule | None:
        """Return `schedule` if it also chooses when a new job is first polled; None if not."""
        return self.schedule if isinstance(self.schedule, FirstPollSchedule) else None

    @property
    def target_lag(self) -> float | None:
        """Mean detection lag to aim at, in seconds; None if the schedule has no target."""
        return self.schedule.target_lag if isinstance(self.schedule, LagSchedule) else None

    @property
    def target_lag_or_default(self) -> float:
        """Mean detection lag to aim at, in seconds; 2.0 if the schedule has no target."""
        return self.target_lag or _DEFAULT_LAG

    @property
    def aim(self) -> float | None:
        """Mean detection lag to aim at, in seconds; shorter than `target_lag` for short jobs.

        `Adaptive.aim` chooses it from what is known of the durations. None if the schedule has no
        target.
        """
        if isinstance(self.schedule, Adaptive):
            return self.schedule.aim(self.learning.durations.distribution)
        return self.target_lag

    @property
    def minimum(self) -> float:
        """Minimum seconds between two polls of a job; 0.0 if the schedule has no minimum."""
        return self.schedule.minimum if isinstance(self.schedule, Adaptive) else 0.0

    def delay(self, state: JobState, now: float) -> float:
        """Return the seconds between the last poll of a job and its next poll."""
        # Failed polls are counted, too, so that polls become rarer during an outage.
        failures = 0 if state.failures is None else state.failures.polls
        learning = self.learning
        context = PollContext(
            polls=state.polls + failures,
            watched_for=now - state.added_at,
            age=learning.age(state, now),
            failures=failures,
            awaited_for=now - state.awaited_since if state.awaited else None,
            distribution=learning.durations.distribution,
            lag_ratio=learning.lag_ratio.value,
            quiet_delay=learning.durations.quiet_delay,
        )
        delay = self.schedule.delay(context, self.rng)
        if not 0 <= delay < math.inf:
            raise self._error(delay)
        before = delay if self.mean_delay is None else self.mean_delay
        self.mean_delay = before + (delay - before) / _MEAN_OF
        return delay

    def longest_delay(self, state: JobState) -> float:
        """Return the longest delay that the schedule allows between a job's last and next poll.

        The schedule may have learnt something since the last poll, so this delay can be shorter
        than the delay that it chose then. For a schedule other than `Adaptive`, it is infinity.
        """
        if not isinstance(self.schedule, Adaptive):
            return math.inf
        learning, age = self.learning, state.last_active_age
        durations = learning.durations
        plan = self.schedule.plan(durations.distribution, lag_ratio=learning.lag_ratio.value)
        return plan.bound(age, bin_index(age), durations.quiet_delay)

    def first_delay(self) -> float:
        """Return the seconds until the first poll of a job that is probably new; 0 to poll it now.

        Of these jobs, 5% are polled at a random earlier time. Their polls show whether jobs are
        really new, and at which ages the first jobs end: if each job had settled at its first poll,
        it would not be known when.
        """
        if self._first_poll_schedule is None:
            return 0.0
        learning = self.learning
        context = PollContext(
            polls=0,
            watched_for=0.0,
            age=0.0,
            distribution=learning.durations.distribution,
            lag_ratio=learning.lag_ratio.value,
        )
        old_share = learning.durations.arrivals.old_share
        delay = self._first_poll_schedule.first_delay(context, self.rng, old_share=old_share)
        if not 0 <= delay < math.inf:
            raise self._error(delay)
        return delay * self.rng.random() if self.rng.random() < _EARLIER else delay

    def polls_early(self, now: float) -> bool:
        """Return True if the first polls of a new job are to be early; count this job.

        Early polls show whether jobs are much shorter than was learnt from earlier jobs, or had
        settled already when the watcher got them. Without early polls, many polls would be late
        before this is noticed. The first twelve new jobs are polled early, and later one new job
        for every five minutes. After a minute without a new job, the next eight new jobs are polled
        early, because they may belong to another batch; but at most once in five minutes. Only
        `Adaptive` polls early.
        """
        if now > self._new_at:
            more = (now - self._new_at) / _EARLY_JOB_EVERY
            self._early_jobs = min(self._early_jobs + more, _MAX_EARLY_JOBS)
            if now > max(self._new_at + _BREAK, self._after_break_at + _EARLY_JOB_EVERY):
                self._early_jobs = max(self._early_jobs, _EARLY_JOBS_AFTER_BREAK)
                self._after_break_at = now
        self._new_at = now
        if self._early_jobs < 1 or self.long_delay == math.inf:  # infinity: another schedule
            return False
        self._early_jobs -= 1
        return True

    def is_uncertain(self, state: JobState, now: float) -> bool:
        """Return True if an early poll of a job can show whether jobs take only seconds.

        This is so if the job is young, nobody waits for it, no poll of it has failed, and one of
        these is true:

        - `polls_early` has chosen the job.
        - Fewer than eight jobs were seen to end at the job's present age or later.

        Only `Adaptive` needs to know this.
        """
        if not self._may_be_short(state, now):
            return False
        proven = EDGES[self.learning.durations.distribution.proven]
        return state.polled_early or self.learning.age(state, now) >= proven

    def is_new(self, state: JobState, now: float) -> bool:
        """Return True if `_may_be_short` returns True, and jobs are expected to be new.

        Only `Adaptive` needs to know this: its next poll can become earlier if jobs become shorter.
        """
        return self.learning.durations.arrivals.trusted and self._may_be_short(state, now)

    def _may_be_short(self, state: JobState, now: float) -> bool:
        """Return True if a job is young, and its polls can become early.

        This is so if the schedule is `Adaptive`, nobody waits for the job, and no poll of it has
        failed since its last successful poll.
        """
        if not isinstance(self.schedule, Adaptive) or state.awaited or state.failures is not None:
            return False
        return self.is_young(state, now)

    def is_young(self, state: JobState, now: float) -> bool:
        """Return True if the age of a job is at most three target lags."""
        return self.learning.age(state, now) <= _YOUNG * self.target_lag_or_default

    def early_delay(self, state: JobState, now: float) -> float:
        """Return the maximum seconds until the next poll while jobs may take only seconds.

        The caller calls this only while `is_uncertain` is True. The maximum is half of the target
        lag (1 s by default), plus half of the time for which the job was watched; but at least
        `minimum`. A poll with this maximum is called early. If several early polls find a short job
        active before one finds it settled, it is known quite exactly how long the job took.

        Until four jobs have settled, only some polls are early: about the first dozen, and then one
        of eight. For any other poll, the result is infinity: no maximum.
        """
        if self.learning.durations.ended < FEW_ENDED:
            self._early_polls = max(self._early_polls - _EARLY_SHARE, 0.0)
            if self._early_polls > _MAX_EARLY - 1:
                return math.inf
            self._early_polls += 1
        early = (self.target_lag_or_default + now - state.added_at) / 2
        return max(early, self.minimum)

    def expected_end(self, state: JobState, progress: float | None, now: float) -> float:
        """Record the progress of a job; return the seconds until it has probably settled.

        The progress is assumed to grow as fast as since it was last recorded. Half of the target
        lag is added, and the result is at least the target lag, and at least `minimum`. It is
        infinity if the progress is unknown, 0, at least 0.98, or has hardly changed.

        Args:
            state: The job.
            progress: Progress that the service has reported, 0 to 1; None if unknown.
            now: The present time.
        """
        if progress is None or not 0 < progress < _DONE:
            return math.inf
        before, state.progress = state.progress, (progress, now)
        if before is None:
            return math.inf
        gained, seconds = progress - before[0], now - before[1]
        if not (gained > _MIN_GAIN and seconds > 0):
            return math.inf
        lag = self.target_lag_or_default
        return max((1 - progress) * seconds / gained + lag / 2, lag, self.minimum)

    def time_left(self, states: Collection[JobState], now: float) -> float | None:
        """Return the seconds until all jobs are expected to have settled; None if unknown.

        There are two estimates, and the result is the larger one:

        - From the durations: the time after which half a job is expected to be still active. There
          is no such estimate if fewer than 20 jobs have settled, or if one of the jobs would then
          be more than four times as old as the oldest settled jobs.
        - From the request budget, if most polls are late: the time for one poll of each job if
          every late poll finds a settled job, and for up to two polls of each job if fewer do.

        Without the first estimate, the second one is returned if most late polls find a settled
        job; in any other case, None is returned.
        """
        if not states:
            return None
        rate, share = self.throughput.rate(now), self.throughput.settled_share
        by_budget = len(states) / (rate * max(share, _MIN_SHARE)) if rate else 0.0
        by_durations = self._time_left_by_durations(states, now)
        if by_durations is not None:
            return max(by_durations, by_budget)
        return by_budget if by_budget and share > _MIN_SHARE else None

    def _time_left_by_durations(self, states: Collection[JobState], now: float) -> float | None:
        """Estimate the seconds from the durations, as `time_left` describes; None if unknown."""
        durations = self.learning.durations
        if durations.ended < _MIN_SETTLED:
            return None
        step = math.ceil(len(states) / _SAMPLE)  # every `step`-th job is in the sample
        ages = [self.learning.age(state, now) for state in islice(states, 0, None, step)]
        distribution = durations.distribution
        left = 0.5 * len(ages) / len(states)  # half a job of all jobs, as a part of the sample
        time = distribution.time_until(ages, left)
        return time if max(ages) + time <= _FAR * EDGES[distribution.known] else None

    def _error(self, delay: float) -> ValueError:
        """Return the error for a schedule that has returned an impossible delay."""
        return ValueError(f"{self.schedule!r} returned {delay} as the delay of a poll")


_MEAN_OF: Final = 32  # delays that make up most of `mean_delay`
_DONE: Final = 0.98  # progress at which a job can stay for a long time
_MIN_GAIN: Final = 0.01  # smallest change of the progress by which the end of a job is estimated
_DEFAULT_LAG: Final = 2.0  # seconds; the default of `Adaptive.target_lag`
_EARLIER: Final = 0.05  # share of the apparently new jobs that are polled earlier than planned
_MAX_EARLY_JOBS: Final = 12.0  # largest value of `_early_jobs`
_EARLY_JOB_EVERY: Final = 300.0  # seconds after which one more new job may be polled early
_BREAK: Final = 60.0  # seconds without a new job, after which several new jobs are polled early
_EARLY_JOBS_AFTER_BREAK: Final = 8.0  # number of these jobs
FEW_ENDED: Final = 4
"""Number of settled jobs that show whether jobs take only seconds."""

_YOUNG: Final = 3.0  # age of a young job: at most this number of target lags
_EARLY_SHARE: Final = 0.125  # share of polls that may be early, after the first ones
_MAX_EARLY: Final = 12.0  # largest value of `_early_polls`
_SAMPLE: Final = 64  # jobs whose ages `time_left` uses
_MIN_SETTLED: Final = 20  # settled jobs without which `time_left` does not use the durations
# If fewer than this share of the late polls find a settled job, `time_left` assumes this share.
_MIN_SHARE: Final = 0.5
# `time_left` does not use the durations for ages above this multiple of the known ages.
_FAR: Final = 4.0
