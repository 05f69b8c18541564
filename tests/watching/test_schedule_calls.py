"""What the schedule gets to know of a job, and the estimates that follow from its delays."""

import math
from itertools import pairwise
from random import Random

import pytest
from attrs import define, field

from adepoll.scheduling.distribution import EDGES
from adepoll.scheduling.durations import Durations
from adepoll.scheduling.schedules import Adaptive, Fixed, PollContext
from adepoll.watching.job_state import JobState, PollFailures
from adepoll.watching.learning import LagRatio, Learning
from adepoll.watching.schedule_calls import ScheduleCalls


@define
class Recording:
    """A schedule that remembers the contexts."""

    delays: list[float] = field(factory=lambda: [4.0])
    contexts: list[PollContext] = field(factory=list)
    old_shares: list[float] = field(factory=list)

    def delay(self, job, _rng):
        self.contexts.append(job)
        return self.delays.pop(0) if len(self.delays) > 1 else self.delays[0]

    def first_delay(self, job, rng, *, old_share):
        self.old_shares.append(old_share)
        return self.delay(job, rng)


class Draw(Random):
    """A source of randomness that always returns the same number between 0 and 1."""

    def __init__(self, number):
        super().__init__(0)
        self.number = number

    def random(self):
        return self.number


class Waits:
    """A subscriber of which only matters that it waits."""

    awaits = True


def calls_of(schedule, *, rng=None, **learning):
    return ScheduleCalls(schedule=schedule, rng=rng or Random(0), learning=Learning(**learning))


def state_of(added_at=100.0, received_at=90.0, **more):
    return JobState("a", "a", (), added_at=added_at, received_at=received_at, **more)


def test_the_schedule_gets_what_is_known_of_the_job():
    schedule = Recording()
    calls = calls_of(schedule, lag_ratio=LagRatio(value=1.25))
    calls.delay(state_of(polls=3), 107.0)
    failing = state_of(polls=3, failures=PollFailures(last_at=0.0, polls=2))
    calls.delay(failing, 107.0)
    awaited = state_of(awaited_since=104.0)
    awaited.subscribers = (Waits(),)
    calls.delay(awaited, 107.0)
    facts = [
        (job.polls, job.failures, job.watched_for, job.age, job.awaited_for, job.lag_ratio)
        for job in schedule.contexts
    ]
    assert facts == [
        (3, 0, 7.0, 17.0, None, 1.25),
        (5, 2, 7.0, 17.0, None, 1.25),
        (0, 0, 7.0, 17.0, 3.0, 1.25),
    ]
    assert schedule.contexts[0].distribution is calls.learning.durations.distribution


def test_the_mean_delay_follows_the_delays_slowly():
    calls = calls_of(Recording([4.0, 36.0, 4.0]))
    assert calls.mean_delay is None
    means = [calls.delay(state_of(), 107.0) and calls.mean_delay for _ in range(3)]
    assert means == [4.0, 5.0, 5.0 - 1 / 32]


@pytest.mark.parametrize("delay", [-1e-9, -1.0, math.nan, math.inf])
def test_a_delay_below_zero_is_refused(delay):
    with pytest.raises(ValueError, match="as the delay of a poll"):
        calls_of(Recording([delay])).delay(state_of(), 107.0)
    with pytest.raises(ValueError, match="as the delay of a poll"):
        calls_of(Recording([delay]), rng=Draw(0.9)).first_delay()
    assert calls_of(Recording([0.0])).delay(state_of(), 107.0) == 0.0


@pytest.mark.parametrize(("draw", "delay"), [(0.04, 0.04 * 4.0), (0.05, 4.0), (0.9, 4.0)])
def test_a_twentieth_of_the_jobs_that_seem_new_is_polled_earlier(draw, delay):
    schedule = Recording()
    calls = calls_of(schedule, rng=Draw(draw), lag_ratio=LagRatio(value=1.25))
    for _ in range(3):
        calls.learning.durations.arrivals.record(0.0, added_at=1.0, now=1.0)
    assert calls.first_delay() == delay
    (job,) = schedule.contexts
    assert (job.polls, job.watched_for, job.age, job.lag_ratio) == (0, 0.0, 0.0, 1.25)
    assert job.distribution is calls.learning.durations.distribution
    assert schedule.old_shares == [1 / 5]
    assert calls_of(Fixed(), rng=Draw(draw)).first_delay() == 0.0


# --- while it is uncertain whether jobs take only seconds ---------------------------------------


@pytest.mark.parametrize(
    ("ended_jobs", "age", "more", "is_uncertain"),
    [
        (0, 0.0, {}, True),
        (0, 6.0, {}, True),
        (0, 6.1, {}, False),
        (7, 0.0, {}, True),
        (8, 0.0, {}, False),
        (8, 2.0, {}, True),  # all eight jobs had ended at this age
        (8, 0.0, {"polled_early": True}, True),
        (8, 6.1, {"polled_early": True}, False),
        (0, 0.0, {"failures": PollFailures(last_at=0.0)}, False),
        (0, 0.0, {"subscribers": (Waits(),)}, False),
    ],
)
def test_young_jobs_are_uncertain_until_eight_jobs_ended_later(ended_jobs, age, more, is_uncertain):
    calls = calls_of(Adaptive(), durations=ended(ended_jobs, 1.0))
    state = state_of(added_at=100.0, received_at=100.0)
    for name, value in more.items():
        setattr(state, name, value)
    assert calls.is_uncertain(state, 100.0 + age) is is_uncertain
    assert not calls_of(Fixed()).is_uncertain(state, 100.0 + age)


def test_twelve_polls_are_early_and_then_one_of_eight_until_four_jobs_have_settled():
    calls = calls_of(Adaptive(target_lag=3.0), durations=ended(3, 1.0))
    state = state_of()
    delays = [calls.early_delay(state, 102.0) for _ in range(40)]
    assert {*delays} == {2.5, math.inf}
    early = [number for number, delay in enumerate(delays) if delay < math.inf]
    assert early[:13] == [*range(13)]
    assert {after - before for before, after in pairwise(early[13:])} == {8}
    calls = calls_of(Adaptive(), durations=ended(4, 1.0))
    assert {calls.early_delay(state, 100.0) for _ in range(40)} == {1.0}


@pytest.mark.parametrize(
    ("arrivals", "age", "is_new"), [(32, 6.0, True), (32, 6.1, False), (31, 0.0, False)]
)
def test_a_young_job_is_new_after_32_new_jobs(arrivals, age, is_new):
    durations = ended(8, 60.0)
    for _ in range(arrivals):
        durations.arrivals.record(0.0, added_at=1.0, now=1.0)
    state = state_of(added_at=100.0, received_at=100.0)
    assert calls_of(Adaptive(), durations=durations).is_new(state, 100.0 + age) is is_new
    assert not calls_of(Fixed(), durations=durations).is_new(state, 100.0 + age)


def test_the_first_twelve_jobs_are_polled_early_and_then_one_for_five_minutes():
    calls = calls_of(Adaptive(), durations=ended(1_000, 60.0))
    assert [calls.polls_early(10.0) for _ in range(14)] == [True] * 12 + [False] * 2
    early = [now for now in range(60, 1_000, 50) if calls.polls_early(float(now))]
    assert len(early) == 3
    assert not calls_of(Fixed()).polls_early(10.0)


def test_after_a_minute_without_a_new_job_eight_jobs_are_polled_early():
    calls = calls_of(Adaptive(), durations=ended(1_000, 60.0))
    early = []
    for now in (10.0, 70.0, 130.1, 200.0, 300.0, 430.0, 500.0, 5_000.0, 90_000.0):
        found = [calls.polls_early(now) for _ in range(14)]
        assert found == sorted(found, reverse=True)
        early.append(sum(found))
    # At 200 s and 300 s, the last time was less than five minutes ago.
    assert early == [12, 0, 8, 0, 0, 0, 8, 12, 12]


# --- the aim ------------------------------------------------------------------------------------


def test_the_aim_is_the_target_unless_jobs_are_short():
    durations = ended(200, 4.0)
    schedule = Adaptive(target_lag=4.0)
    calls = calls_of(schedule, durations=durations)
    assert calls.target_lag == 4.0
    assert calls.aim == schedule.aim(durations.distribution) < 4.0
    assert (calls_of(Fixed()).target_lag, calls_of(Fixed()).aim) == (None, None)


# --- by the progress of a job -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("progress", "seconds"),
    [
        ([(0.2, 10.0), (0.6, 14.0)], 4.0 + 1.0),  # 0.1 per second, and half of the target lag
        ([(0.2, 10.0), (0.9, 17.0)], 2.0),  # not earlier than after the target lag
        ([(0.2, 10.0), (0.79, 15.9)], 2.1 + 1.0),
        ([(0.2, 10.0)], math.inf),
        ([(0.2, 10.0), (0.2, 14.0)], math.inf),
        ([(0.2, 10.0), (0.21, 14.0)], math.inf),
        ([(0.25, 10.0), (0.2578125, 14.0)], math.inf),  # by less than 0.01
        ([(0.25, 10.0), (0.28125, 14.0)], 92.0 + 1.0),
        ([(0.6, 10.0), (0.2, 14.0)], math.inf),
        ([(0.2, 10.0), (0.6, 10.0)], math.inf),  # in no time
        ([(0.2, 10.0), (0.6, 9.0)], math.inf),
        ([(0.2, 10.0), (0.98, 14.0)], math.inf),  # it can stay there for long
        ([(0.2, 10.0), (0.96, 13.8)], 2.0),
        ([(0.2, 10.0), (None, 12.0), (0.6, 14.0)], 5.0),  # compared with the last one known
        ([(0.2, 10.0), (0.0, 12.0), (0.6, 14.0)], 5.0),
        ([(0.0, 10.0), (0.5, 14.0)], math.inf),
        ([(0.2, 10.0), (0.98, 12.0), (0.6, 14.0)], 5.0),
    ],
)
@pytest.mark.parametrize("schedule", [Adaptive(), Fixed()], ids=["target lag of 2 s", "no target"])
def test_the_end_of_a_job_is_expected_by_its_progress(schedule, progress, seconds):
    calls, state = calls_of(schedule), state_of()
    found = [calls.expected_end(state, share, now) for share, now in progress]
    assert found[-1] == pytest.approx(seconds)
    assert set(found[:-1]) <= {math.inf}


def test_the_expected_end_is_half_a_target_lag_later():
    calls, state = calls_of(Adaptive(target_lag=8.0)), state_of()
    calls.expected_end(state, 0.2, 10.0)
    assert calls.expected_end(state, 0.4, 14.0) == pytest.approx(12.0 + 4.0)
    assert calls.expected_end(state, 0.8, 22.0) == pytest.approx(8.0)  # 4 s + 4 s


# --- the time until all jobs have settled -------------------------------------------------------


def ended(count, seconds):
    """Return what is learnt from jobs of that many seconds."""
    durations = Durations()
    for _ in range(count):
        durations.begin()
        durations.end(0.0, seconds - 0.2, seconds + 0.2)
    return durations


def jobs_of(count, *, received_at=90.0):
    return [state_of(received_at=received_at) for _ in range(count)]


def make_short(calls, polls, *, settled):
    """Let polls be late by 4 s, and take 1 s each; return the present time."""
    for number in range(polls):
        calls.throughput.record(100.0, 103.0 + number, settled=number >= polls - settled)
    return 102.0 + polls


def test_the_time_left_is_unknown_without_jobs_or_experience():
    calls = calls_of(Fixed())
    assert calls.time_left([], 100.0) is None
    assert calls.time_left(jobs_of(3), 100.0) is None
    calls.throughput.record(100.0, 104.0, settled=True)  # one late poll: the budget suffices
    assert calls.time_left(jobs_of(3), 104.0) is None


@pytest.mark.parametrize(("settled", "is_known"), [(19, False), (20, True)])
def test_the_time_left_is_known_by_the_durations_of_20_jobs(settled, is_known):
    calls = calls_of(Fixed(), durations=ended(settled, 60.0))
    assert (calls.time_left(jobs_of(3), 100.0) is not None) is is_known


@pytest.mark.parametrize(("found", "is_known"), [(30, True), (20, True), (12, True), (8, False)])
def test_the_time_left_by_the_budget_is_a_poll_of_each_job(found, is_known):
    """It is known without durations only if most late polls find a settled job."""
    calls = calls_of(Fixed())
    now = make_short(calls, 30, settled=found)
    rate, share = calls.throughput.rate(now), calls.throughput.settled_share
    assert (share > 0.5) is is_known
    time = calls.time_left(jobs_of(100), now)
    assert time == (pytest.approx(100 / (rate * share)) if is_known else None)


def test_the_time_left_is_the_longer_one_of_two_estimates():
    durations = ended(100, 60.0)
    patient, short = calls_of(Fixed(), durations=durations), calls_of(Fixed(), durations=durations)
    now = make_short(short, 30, settled=3)  # few are settled: two polls of each job at most
    rate, jobs = short.throughput.rate(now), jobs_of(2_000)
    assert short.throughput.settled_share < 0.5
    assert short.time_left(jobs, now) == pytest.approx(2_000 / (rate * 0.5))
    few = jobs_of(2)
    by_durations = patient.time_left(few, now)
    assert by_durations > 2 / (rate * 0.5)
    assert short.time_left(few, now) == by_durations


def test_the_time_left_uses_a_sample_of_at_most_64_ages():
    durations = ended(100, 60.0)
    calls = calls_of(Fixed(), durations=durations)
    for count in (1, 64, 65, 128, 129, 1_000):
        step = math.ceil(count / 64)
        states = [state_of(received_at=100.0 - number % 40) for number in range(count)]
        ages = [float(number % 40) for number in range(0, count, step)]
        assert len(ages) <= 64
        expected = durations.distribution.time_until(ages, 0.5 * len(ages) / count)
        assert calls.time_left(states, 100.0) == expected


@pytest.mark.parametrize("far", [-2.0, 2.0])
def test_the_time_left_is_unknown_at_ages_four_times_the_known_ones(far):
    durations = ended(0, 0.0)
    for seconds in range(4, 44):
        for _ in range(5):
            durations.begin()
            durations.end(0.0, seconds - 0.2, seconds + 0.2)
    known = EDGES[durations.distribution.known]
    calls = calls_of(Fixed(), durations=durations)
    last = max(age for age in range(1, 400) if at_end(calls, float(age)) <= 4 * known)
    assert last > known + 20
    state = state_of(received_at=100.0 - last - far)
    assert (calls.time_left([state], 100.0) is None) is (far > 0)


def at_end(calls, age):
    """Return the age at which a job of that age is expected to have settled."""
    return age + calls.learning.durations.distribution.time_until([age], 0.5)
