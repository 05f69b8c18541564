"""Asks the schedule (`scheduling.schedules`), which decides when a job is polled next.

Imports learning, job_state, statistics and scheduling. Times are seconds of one monotonic clock,
passed in as `now`.
"""

import math
from collections.abc import Collection
from itertools import islice
from random import Random
from typing import Final

from attrs import define, field

from adepoll.scheduling.distribution import EDGES
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
    """Calls the schedule with what is known of a job.

    Attributes:
        schedule: Chooses the delay of each poll.
        rng: Source of jitter.
        learning: Knows the ages of jobs, and how long jobs take.
        throughput: How fast jobs can be polled.
        mean_delay: Mean of about the last 32 delays, in seconds; None before the first.
    """

    schedule: Schedule
    rng: Random
    learning: Learning = field(factory=Learning)
    throughput: Throughput = field(factory=Throughput)
    mean_delay: float | None = field(default=None, init=False)
    # Found once: isinstance with a protocol is slow.
    _first_poll_schedule: FirstPollSchedule | None = field(init=False)

    @_first_poll_schedule.default
    def _find_first_poll_schedule(self) -> FirstPollSchedule | None:
        return self.schedule if isinstance(self.schedule, FirstPollSchedule) else None

    @property
    def target_lag(self) -> float | None:
        """Mean detection lag to aim at, in seconds; None if the schedule has no target."""
        return self.schedule.target_lag if isinstance(self.schedule, LagSchedule) else None

    @property
    def aim(self) -> float | None:
        """As `target_lag`, but shorter if the jobs known so far are short; see `Adaptive.aim`."""
        if isinstance(self.schedule, Adaptive):
            return self.schedule.aim(self.learning.durations.distribution)
        return self.target_lag

    def delay(self, state: JobState, now: float) -> float:
        """Return the seconds until the next poll of a job."""
        # Failed polls count too, so that polls become rarer during an outage.
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
        )
        delay = self.schedule.delay(context, self.rng)
        if not delay >= 0:
            raise self._error(delay)
        before = delay if self.mean_delay is None else self.mean_delay
        self.mean_delay = before + (delay - before) / _MEAN_OF
        return delay

    def first_delay(self) -> float:
        """Return the seconds until the first poll of a job that seems to be new; 0 for now.

        A few jobs are polled immediately, to find out whether jobs are new.
        """
        if self.rng.random() < _PROBED or self._first_poll_schedule is None:
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
        if not delay >= 0:
            raise self._error(delay)
        return delay

    def expected_end(self, state: JobState, progress: float | None, now: float) -> float:
        """Return the seconds until a job ends if its progress continues; infinity if unknown.

        Progress is a hint: it is used while it moves, and only for an earlier poll.
        """
        if progress is None or not 0 < progress < _DONE:
            return math.inf
        before, state.progress = state.progress, (progress, now)
        if before is None:
            return math.inf
        gained, seconds = progress - before[0], now - before[1]
        if not (gained > _MIN_GAIN and seconds > 0):
            return math.inf
        lag = self.target_lag or _MEAN_LAG
        return max((1 - progress) * seconds / gained + lag / 2, lag)

    def time_left(self, states: Collection[JobState], now: float) -> float | None:
        """Return the seconds until all jobs are expected to have settled; None if unknown.

        Return the larger of two estimates. The estimate by the durations is the time after which
        half a job is expected to be active, from a sample of the ages. The estimate by the request
        budget applies if polls are held up. It is the time that one more poll of each job takes, or
        two polls where few of them find a settled job.

        The durations give no estimate while few jobs have settled, or if the time depends on ages
        far beyond those at which jobs settled. Then the result is the estimate by the budget if
        most polls find a settled job; otherwise the time is unknown.
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
        durations = self.learning.durations
        if durations.ended < _MIN_SETTLED:
            return None
        step = -(-len(states) // _SAMPLE)
        ages = [self.learning.age(state, now) for state in islice(states, 0, None, step)]
        distribution = durations.distribution
        time = distribution.time_until(ages, 0.5 * len(ages) / len(states))
        return time if max(ages) + time <= _FAR * EDGES[distribution.known] else None

    def _error(self, delay: float) -> ValueError:
        return ValueError(f"{self.schedule!r} returned {delay} as the delay of a poll")


_MEAN_OF: Final = 32  # delays
_DONE: Final = 0.98  # progress at which it can stand for a long time
_MIN_GAIN: Final = 0.01
_MEAN_LAG: Final = 2.0  # seconds, if the schedule has no target
_PROBED: Final = 0.05  # share of the seemingly new jobs that are polled immediately
_SAMPLE: Final = 64  # jobs
_MIN_SETTLED: Final = 20  # jobs
_MIN_SHARE: Final = 0.5  # of polls that find a settled job
_FAR: Final = 2.0  # times the known ages
