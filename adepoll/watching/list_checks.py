"""Compares the job list with polls, and chooses the polls that only check the list. Without I/O.

`list_accuracy` concludes from the polls how late and how complete the list is. Times are seconds of
one monotonic clock, passed in as `now`.
"""

import math
from collections.abc import Mapping
from itertools import islice
from typing import Final

from attrs import define, field

from adepoll.scheduling.distribution import EDGES
from adepoll.watching.job_state import JobState
from adepoll.watching.list_accuracy import ListAccuracy
from adepoll.watching.listing import ListTrust
from adepoll.watching.poll_queue import PollQueue
from adepoll.watching.schedule_calls import ScheduleCalls


@define(eq=False)
class ListChecks:
    """Compares the list with the polls of the watched jobs.

    Attributes:
        states: The watched jobs, by id.
        schedule_calls: Calls the schedule.
        list_trust: Decides for how long the list replaces the polls of a job.
        poll_queue: The jobs that are due now or later.
        accuracy: Judges by polls how late and how complete the list is.
        poll_wait: Mean number of seconds from the end of a sweep until a job that the sweep did not
            show has been polled.
    """

    states: Mapping[str, JobState]
    schedule_calls: ScheduleCalls
    list_trust: ListTrust
    poll_queue: PollQueue
    accuracy: ListAccuracy = field(init=False)
    poll_wait: float = field(default=0.0, init=False)
    # Number of jobs that polls have found settled since the last sample was taken.
    _settled: int = field(default=0, init=False)
    # Listed jobs that `take_sample` chose last: their polls only check the list.
    _sample: list[JobState] = field(factory=list, init=False)
    # Jobs that were polled early, and were still active then (`ScheduleCalls.polls_early`).
    _early: list[JobState] = field(factory=list, init=False)
    # Start of the last complete sweep; infinity if no sweep was complete.
    _swept_at: float = field(default=math.inf, init=False)

    @accuracy.default
    def _make_accuracy(self) -> ListAccuracy:
        """Return a `ListAccuracy` for a list about which nothing is known yet."""
        return ListAccuracy(limit=self.useful_lag(None))

    def restart(self) -> None:
        """Record that list sweeps begin, and forget the last sweep and sample before them."""
        self._swept_at = math.inf
        self._sample = []  # perhaps all jobs were forgotten, so that these are never polled
        self._early = []

    def useful_lag(self, rate: float | None) -> float:
        """Return the largest lag of the list, in seconds, at which the list is useful.

        If the request budget is short, a larger lag is useful, too. The reason: without the list,
        each job would wait until all other jobs have been polled.

        Args:
            rate: Polls per second that the request budget allows; None if the budget is not short.
        """
        lag = _LIMIT * self.schedule_calls.target_lag_or_default
        if rate is None:
            return lag
        # Without sweeps, polls could use the request budget that sweeps use now.
        rate = max(rate, self.list_trust.sweep_rate or 0.0)
        return max(lag, _ROUND_SHARE * len(self.states) / rate)

    def unseen_chance(self, state: JobState, now: float) -> float:
        """Return the chance that a job has settled since a poll last found the job active."""
        seen = max(state.found_active_at - state.received_at, 0.0)
        distribution = self.schedule_calls.learning.durations.distribution
        return distribution.ends_between(seen, max(now - state.received_at, seen))

    def record_poll(self, state: JobState, now: float, *, settled: bool) -> None:
        """Compare a successful poll with the list. Call this before the poll changes `state`."""
        accuracy = self.accuracy
        self.list_trust.record_request()
        self._settled += settled
        active_at = state.received_at + state.last_active_age  # last time the job was seen active
        durations = self.schedule_calls.learning.durations
        replaced = self.list_trust.sweeping and not state.awaited  # sweeps replace such polls
        is_surprise = durations.ended < _FEW_ENDED or durations.is_drifting
        is_short = now < state.added_at + _SHORT and is_surprise
        if settled and replaced and is_short and accuracy.arrivals.in_time:
            # Other jobs have probably settled, too, since jobs are shorter than was known.
            accuracy.compare_at = min(accuracy.compare_at, now)
        if replaced and not settled and state.polled_early and state.polls == 1:
            self._early.append(state)
            self.plan_early_sweep(now)
        if state.missing_at < math.inf:
            self._record_poll_of_missing(state, now, active_at=active_at, settled=settled)
            return
        listed = replaced and state.last_listed_at > -math.inf
        # If fewer jobs have ended, the chance that the job has settled would be a guess.
        is_check = listed and durations.ended >= _MIN_ENDED
        if settled:
            doubtful = listed and not accuracy.is_proven
            accuracy.record_settled(
                state.job_id, now, active_at=active_at, sweep_now=doubtful, is_check=is_check
            )
        if is_check:
            accuracy.kept.record_poll(self.unseen_chance(state, now))
            age = now - state.received_at
            seen = max(state.last_listed_at - accuracy.limit - state.received_at, 0.0)
            accuracy.record_expected(durations.distribution.ends_between(seen, age))
            if not settled:
                seen = max(accuracy.no_drop_since - state.received_at, 0.0)
                accuracy.record_still_active(durations.distribution.ends_between(seen, age))

    def plan_early_sweep(self, now: float) -> None:
        """Start the next sweep early while it is not known whether jobs take only seconds.

        The first sweep shows a new job as active. If the job takes only seconds, it would have
        settled long before the second sweep. Only the jobs that were polled early, and that the
        list has shown, decide: if the list does not show a job yet, an early sweep is useless.
        """
        self._early = [
            state
            for state in self._early
            if self.states.get(state.job_id) is state
            and self.schedule_calls.is_uncertain(state, now)
        ]
        listed = [state for state in self._early if state.last_listed_at > -math.inf]
        if listed:
            watched_for = now - max(state.added_at for state in listed)
            pause = max(_EARLY_SWEEP * self.schedule_calls.target_lag_or_default, watched_for / 2)
            self.accuracy.compare_at = min(self.accuracy.compare_at, now + pause)

    def _record_poll_of_missing(
        self, state: JobState, now: float, *, active_at: float, settled: bool
    ) -> None:
        """Compare the list with the poll of a job that was missing from the list.

        `active_at` is the time at which the job was last seen active, before this poll.
        """
        if self.list_trust.sweeping:
            wait = now - state.due
            self.poll_wait += (wait - self.poll_wait) / _MEAN_OF  # a running mean
        if settled:
            self._record_drop(active_at, state.missing_at)
        elif not state.is_compared:
            # The job is active. So the list is late, or the job is too new to be in the list.
            state.is_compared = self.accuracy.record_active(state.received_at, state.missing_at)

    def _record_drop(self, active_at: float, missing_at: float) -> None:
        """Record that the list stopped showing a job, and that a poll then found the job settled.

        Args:
            active_at: Time at which the job was last seen active.
            missing_at: Time of the list request that did not show the job.
        """
        self.accuracy.dropped += 1
        if self.list_trust.sweeping:
            return  # `active_at` can be from the list itself, which cannot prove that it is right
        # The job ended after `active_at`, and the list showed this at `missing_at`. So the lag of
        # the list is at most `longest_lag`. It is often much shorter, because polls by schedule are
        # seconds apart. So the limit is doubled: otherwise the list would hardly ever count as in
        # time.
        longest_lag = missing_at - active_at
        if longest_lag <= 2 * self.accuracy.limit:
            self.accuracy.ends.count(late=False)

    def record_drops(self, missing: int, requested_at: float) -> None:
        """Compare how many jobs a sweep did not show with how many should have settled.

        Args:
            missing: Number of watched jobs that are missing from the list.
            requested_at: Start of the sweep.
        """
        durations, before = self.schedule_calls.learning.durations, self._swept_at
        self._swept_at = requested_at
        expected = 0.0
        if durations.ended >= _MIN_ENDED:
            known = EDGES[durations.distribution.known]
            step = -(-len(self.states) // _DROPS_SAMPLED) or 1
            for state in islice(self.states.values(), 0, None, step):
                age = requested_at - state.received_at
                seen = max(before - state.received_at, 0.0)
                if age > seen:
                    chance = durations.distribution.ends_between(seen, age)
                    expected += step * chance * (1.0 if age <= known else _GUESS)
        self.accuracy.record_drops(missing, requested_at, expected=expected)

    def take_sample(
        self, states: list[JobState], requested_at: float, now: float, *, waits_replaced: bool
    ) -> None:
        """Make a few listed jobs due, to check by polls whether listed jobs are really active.

        Do nothing while jobs of the previous sample still wait for their polls.

        Args:
            states: The watched jobs.
            requested_at: Start of the sweep.
            now: The present time.
            waits_replaced: True if sweeps replace the polls of jobs that somebody waits for,
                because the request budget was short a moment ago.
        """
        if any(state.ticket and state.ignore_list for state in self._sample):
            return
        age = now - states[len(states) // 2].received_at if states else 0.0
        chance = 0.0
        if self.schedule_calls.learning.durations.ended >= _MIN_ENDED:
            some = self.schedule_calls.rng.sample(states, min(_CHANCES_SAMPLED, len(states)))
            chance = sum(self.unseen_chance(state, now) for state in some) / max(len(some), 1)
        count = self.accuracy.samples(len(states), age=age, settled=self._settled, chance=chance)
        self._settled = 0
        is_short = self.schedule_calls.throughput.is_short or waits_replaced
        count = int(min(count, self.list_trust.checks_allowed(is_short=is_short)))
        drawn = [
            state
            for state in self.schedule_calls.rng.sample(states, min(_DRAWN * count, len(states)))
            if state.ticket and state.last_listed_at >= requested_at and not state.ignore_list
        ]
        drawn.sort(key=lambda state: self.unseen_chance(state, now), reverse=True)
        self._sample = drawn[:count]
        for state in self._sample:
            self.list_trust.may_check(is_short=is_short)
            self.list_trust.confirm_when_due(state)
            self.poll_queue.put(state, min(now, state.due))


_MEAN_OF: Final = 16  # recent polls that make up most of `poll_wait`
_DROPS_SAMPLED: Final = 32  # watched jobs whose ages `record_drops` uses
_EARLY_SWEEP: Final = 0.6  # fewest target lags from an early poll or sweep to an early sweep
_SHORT: Final = 3.0  # seconds; if a job was shorter than this, the next sweep should start now
_FEW_ENDED: Final = 50  # jobs; if more have ended, it is known how long jobs take
_MIN_ENDED: Final = 10  # settled jobs without which no chance of having settled is calculated
_LIMIT: Final = 1.6  # largest useful lag of the list, as a multiple of the target lag
_DRAWN: Final = 4  # jobs drawn for each job of a sample; the jobs with the largest chance are taken
_CHANCES_SAMPLED: Final = 8  # watched jobs whose chances `take_sample` averages
# At an age at which no job was seen to settle, the chance that a job has settled is a guess. It is
# multiplied by this weight.
_GUESS: Final = 0.2
# Largest useful lag of the list while the request budget is short, as a share of the time that one
# poll of every job takes.
_ROUND_SHARE: Final = 0.25
