"""The poll queue by itself: which job is next, against a naive model, and what it holds."""

import math
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from internals import places_of

from adepoll.watching.job_state import JobState, PollFailures
from adepoll.watching.poll_queue import PollQueue

LATENESS = 600.0


class Waiting:
    """A subscriber that waits for its job."""

    awaits = True


def make_states(count):
    return [
        JobState(f"job{number}", f"job{number}", (), added_at=0.0, received_at=0.0)
        for number in range(count)
    ]


def even(_entry, _now):
    return 0.5


def drain(poll_queue, now):
    popped = []
    while (state := poll_queue.pop(now)) is not None:
        popped.append(state)
    return popped


def test_jobs_are_popped_when_they_are_due_and_not_before():
    poll_queue, (a, b, c) = PollQueue(even), make_states(3)
    for state, due in ((a, 3.0), (b, 1.0), (c, 2.0)):
        poll_queue.put(state, due)
    for state, due in ((b, 1.0), (c, 2.0), (a, 3.0)):
        assert poll_queue.next_due() == due
        assert poll_queue.pop(due - 0.001) is None
        assert poll_queue.pop(due) is state
        assert not state.ticket
    assert poll_queue.next_due() is None
    assert poll_queue.pop(1e9) is None


def test_jobs_with_the_same_due_time_keep_their_order():
    poll_queue, states = PollQueue(even), make_states(200)
    for state in states:
        poll_queue.put(state, 1.0)
    assert drain(poll_queue, 1.0) == states


def test_of_overdue_jobs_one_whose_last_poll_has_not_failed_can_be_drawn():
    poll_queue, states = PollQueue(even), make_states(50)
    for state in states:
        poll_queue.put(state, 1.0)
    failing = states[:25]
    for state in failing:
        state.failures = PollFailures(last_at=0.5)
    rng = Random(1)
    popped = [poll_queue.pop(1.0, rng=rng) for _ in states]
    assert poll_queue.pop(1.0, rng=rng) is None
    assert sorted(state.job_id for state in popped) == sorted(state.job_id for state in states)
    drawn = popped[:5]
    assert not any(state in failing for state in drawn)
    assert drawn != states[25:30]
    # If eight draws find only failing jobs, the first job is popped: these keep their order.
    assert [state for state in popped if state in failing] == failing


def test_jobs_can_be_drawn_while_dropped_jobs_are_still_in_the_queue():
    poll_queue, states = PollQueue(even), make_states(50)
    for state in states:
        poll_queue.put(state, 1.0)
    rng = Random(1)
    states.remove(poll_queue.pop(1.0, rng=rng))
    for state in states[5:]:
        poll_queue.drop(state)
    popped = {poll_queue.pop(3.0, rng=rng).job_id for _ in range(5)}
    assert popped == {state.job_id for state in states[:5]}


def test_of_overdue_jobs_the_one_with_the_highest_chance_comes_first():
    gains = {"job0": 0.1, "job1": 0.9, "job2": 0.5}
    poll_queue = PollQueue(lambda state, _now: gains[state.job_id])
    poll_queue.lateness = LATENESS
    a, b, c = make_states(3)
    for state in (a, b, c):
        poll_queue.put(state, 1.0)
    assert drain(poll_queue, 5.0) == [b, c, a]


def test_of_overdue_jobs_those_of_a_small_watch_come_first():
    shares = {"job0": 0.1, "job1": 0.9, "job2": 0.5}
    poll_queue = PollQueue(even, lambda state: shares[state.job_id])
    poll_queue.lateness = LATENESS
    a, b, c = make_states(3)
    for state in (a, b, c):
        poll_queue.put(state, 1.0)
    assert drain(poll_queue, 5.0) == [b, c, a]


def polled_in_turn(poll_queue, count):
    """Return the next jobs to poll, one per second; each is due again immediately."""
    polled = []
    for second in range(1, count + 1):
        polled.append(poll_queue.pop(float(second)))
        poll_queue.put(polled[-1], float(second))
    return polled


@pytest.mark.parametrize(
    ("awaited", "unhurried", "first", "later"),
    [
        (1, 400, 0.5, 0.082),
        (20, 400, 0.5, 0.12),
        (80, 120, 0.5, 0.416),
        (100, 80, 0.53, 0.547),
        (400, 20, 0.5, 0.88),
    ],
)
def test_the_smaller_group_gets_half_of_the_polls_and_later_at_least_its_share(
    awaited, unhurried, first, later
):
    states = make_states(awaited + unhurried)
    waiting = set(states[:awaited])
    poll_queue = PollQueue(even, is_awaited=waiting.__contains__)
    poll_queue.lateness = LATENESS
    for state in states:
        poll_queue.put(state, 0.0)
    polled = [state in waiting for state in polled_in_turn(poll_queue, 1_200)]
    assert abs(sum(polled[:50]) / 50 - first) < 0.07
    assert abs(sum(polled[200:]) / 1_000 - later) < 0.02


@pytest.mark.parametrize(("awaited", "unhurried"), [(5, 400), (400, 5)])
def test_the_smaller_group_gets_half_of_the_polls_while_they_find_settled_jobs(awaited, unhurried):
    states = make_states(awaited + unhurried)
    waiting = {f"job{number}" for number in range(awaited)}
    for state in states[:awaited]:
        state.subscribers = (Waiting(),)
    poll_queue = PollQueue(even, is_awaited=lambda state: state.job_id in waiting)
    poll_queue.lateness = LATENESS
    for state in states:
        poll_queue.put(state, 0.0)
    smaller = 0
    for second in range(1, 1_001):
        state = poll_queue.pop(float(second))
        if (state.job_id in waiting) is (awaited < unhurried):
            smaller += 1
            if poll_queue.ahead:
                poll_queue.record_settled(state)
        poll_queue.put(state, float(second))
    assert smaller > 450


def test_an_overdue_job_gets_its_group_again_when_nobody_waits_any_more():
    states = make_states(101)
    waiting = set(states[:1])
    poll_queue = PollQueue(even, is_awaited=waiting.__contains__)
    poll_queue.lateness = LATENESS
    for state in states[1:]:
        poll_queue.put(state, 0.0)
    assert poll_queue.pop(1.0) in states[1:]
    poll_queue.put(states[0], 2.0)
    waiting.clear()
    popped = [poll_queue.pop(10.0 + number) for number in range(50)]
    assert states[0] not in popped


def test_a_job_whose_chance_has_grown_meanwhile_comes_first():
    chances = {"job0": 0.5, "job1": 0.1, "job2": 0.4, "job3": 0.3, "job4": 0.2}
    poll_queue = PollQueue(lambda state, _now: chances[state.job_id])
    a, b, c, d, e = make_states(5)
    for state in (a, b, c, d, e):
        poll_queue.put(state, 1.0)
    assert poll_queue.pop(1.0) is a
    chances["job1"] = 0.9
    assert poll_queue.pop(60.0) is b
    chances["job4"] = 1.0
    assert poll_queue.pop(120.0) is e, "the job has become urgent"
    assert drain(poll_queue, 120.0) == [c, d]


def test_chances_are_calculated_again_in_small_steps_at_most_once_a_second():
    asked = []
    poll_queue = PollQueue(lambda state, _now: asked.append(state.job_id) or 0.5)
    for state in make_states(1_000):
        poll_queue.put_overdue(state, 0.0, 0.5)
    for _ in range(20):
        before = len(asked)
        poll_queue.pop(1.0)
        assert len(asked) - before <= 8
    while len(poll_queue._unhurried.old):
        poll_queue.pop(1.5)
    before = len(asked)
    poll_queue.pop(1.9)
    assert len(asked) == before
    poll_queue.pop(2.1)
    assert len(asked) > before
    assert poll_queue.overdue == len(drain(poll_queue, 2.1))


def test_chances_of_many_overdue_jobs_are_calculated_again_less_often():
    """With 10,000 jobs every 20 s, so that it takes hardly any CPU time."""
    asked = []
    poll_queue = PollQueue(lambda state, _now: asked.append(state.job_id) or 0.5)
    for state in make_states(10_000):
        poll_queue.put_overdue(state, 0.0, 0.5)
    poll_queue.pop(19.9)
    assert not asked
    poll_queue.pop(20.0)
    assert len(asked) == 8
    while len(poll_queue._unhurried.old):
        poll_queue.pop(20.0)
    asked.clear()
    poll_queue.pop(20.0 + 0.002 * poll_queue.overdue - 0.01)
    assert not asked
    poll_queue.pop(20.0 + 0.002 * poll_queue.overdue + 0.01)
    assert len(asked) == 8


def test_put_overdue_gives_the_same_order_as_put():
    gains = {f"job{number}": number / 8 for number in range(9)}
    orders = []
    for in_line in (False, True):
        poll_queue, states = PollQueue(lambda state, _now: gains[state.job_id]), make_states(9)
        poll_queue.lateness = LATENESS
        for state in states:
            if in_line and state.job_id in {"job3", "job4", "job7"}:
                poll_queue.put_overdue(state, 1.0, gains[state.job_id])
            else:
                poll_queue.put(state, 1.0)
        assert poll_queue.next_due() == 1.0
        orders.append([state.job_id for state in drain(poll_queue, 5.0)])
    assert orders[0] == orders[1] == [f"job{number}" for number in range(8, -1, -1)]


def test_a_chance_is_worth_its_share_of_the_head_start_and_no_more():
    gains = {"job0": 0.0, "job1": 0.5}
    for late, first in ((LATENESS / 4 - 1, 1), (LATENESS / 4 + 1, 0)):
        poll_queue = PollQueue(lambda state, _now: gains[state.job_id])
        poll_queue.lateness = LATENESS
        states = make_states(2)
        poll_queue.put(states[0], 0.0)
        poll_queue.put(states[1], late)
        assert poll_queue.pop(1_000.0) is states[first]


def test_the_lateness_is_that_of_the_last_polls_of_overdue_jobs():
    poll_queue = PollQueue(even)
    for number, state in enumerate(make_states(200)):
        poll_queue.put(state, float(number))
    for _ in range(100):
        poll_queue.pop(250.0)
    assert 151 < poll_queue.lateness < 251
    before = poll_queue.lateness
    poll_queue.clear()
    state, *_ = make_states(1)
    poll_queue.put(state, 300.0)
    assert poll_queue.pop(400.0) is state  # no other job is overdue
    assert poll_queue.lateness == before


def test_no_job_starves_although_urgent_ones_keep_coming():
    dull = JobState("dull", "dull", (), added_at=0.0, received_at=0.0)
    poll_queue = PollQueue(lambda state, _now: float(state is not dull))
    poll_queue.put(dull, 0.0)
    before = []
    for second in range(1, 1_000):
        for state in make_states(3):  # more than the one that can be polled
            poll_queue.put(state, float(second))
        taken = poll_queue.pop(float(second))
        if taken is dull:
            break
        before.append(taken.due)
    assert 5 < len(before) < 10


def test_the_last_place_of_a_job_is_the_valid_one():
    poll_queue, (a, b) = PollQueue(even), make_states(2)
    poll_queue.put(a, 1.0)
    poll_queue.put(b, 2.0)
    poll_queue.put(a, 3.0)
    assert poll_queue.next_due() == 2.0
    assert drain(poll_queue, 10.0) == [b, a]
    poll_queue.put(a, 1.0)
    poll_queue.drop(a)
    poll_queue.drop(a)
    assert poll_queue.next_due() is None
    assert poll_queue.pop(10.0) is None


def test_an_overdue_job_can_be_moved_and_dropped():
    poll_queue, states = PollQueue(even), make_states(5)
    for state in states:
        poll_queue.put(state, 0.0)
    assert poll_queue.pop(1.0) is states[0]  # the others are overdue now
    poll_queue.put(states[1], 5.0)
    poll_queue.drop(states[2])
    assert drain(poll_queue, 1.0) == [states[3], states[4]]
    assert poll_queue.next_due() == 5.0
    assert drain(poll_queue, 5.0) == [states[1]]


def test_the_number_of_jobs_moved_in_one_call_is_limited():
    asked = []
    poll_queue = PollQueue(lambda state, _now: asked.append(state) or 0.5)
    for state in make_states(10_000):
        poll_queue.put(state, 0.0)
    poll_queue.pop(1.0)
    assert len(asked) <= 100
    assert len(drain(poll_queue, 1.0)) == 9_999
    assert 10_000 <= len(asked) < 10_100, "the first jobs are asked again"


def test_stale_places_take_at_most_as_much_memory_as_valid_ones():
    poll_queue, states = PollQueue(even), make_states(100)
    for step in range(100_000):
        poll_queue.put(states[step % 100], 1e6 - step, postponed=step % 3 == 0)
    assert places_of(states, poll_queue) < 2_500
    others = make_states(5_000)
    for state in others:
        poll_queue.put(state, 0.0)
        if state.job_id != "job7":
            poll_queue.drop(state)
    assert places_of(states + others, poll_queue) < 2_500
    assert poll_queue.pop(1.0).job_id == "job7"
    assert len(drain(poll_queue, 1e7)) == 100


def test_void_places_are_counted_however_they_became_void():
    """Jobs that are overdue, postponed or due by time are dropped, put again or popped in turn."""
    poll_queue, states = PollQueue(even), make_states(100)
    for step in range(30_000):
        state = states[step % 100]
        poll_queue.put(state, float(step + step % 7), postponed=step % 3 == 0)
        if step % 5 == 0:
            poll_queue.drop(states[step * 7 % 100])
        if step % 11 == 0:
            poll_queue.pop(float(step))
        if step % 97 == 0:
            poll_queue.recall(float(step))
        if step % 13 == 0:
            poll_queue.next_due()
    assert places_of(states, poll_queue) < 2_500


def test_clear_leaves_nothing():
    poll_queue, states = PollQueue(even), make_states(100)
    for state in states:
        poll_queue.put(state, 0.0)
    poll_queue.put(state, 1.0, postponed=True)
    poll_queue.pop(0.0)
    poll_queue.recall(0.0)
    poll_queue.clear()
    assert poll_queue.next_due() is None
    assert poll_queue.pop(1e9) is None
    assert places_of(states, poll_queue) == 0


def test_postponed_jobs_can_be_recalled():
    poll_queue, states = PollQueue(even), make_states(300)
    for number, state in enumerate(states):
        poll_queue.put(state, 100.0 + number, postponed=True)
    assert poll_queue.pop(99.0) is None
    assert poll_queue.pop(100.0) is states[0]
    poll_queue.drop(states[1])
    poll_queue.put(states[2], 500.0)  # it was polled, and gets a new place
    assert poll_queue.next_due() == 103.0
    poll_queue.recall(101.0)
    assert poll_queue.next_due() == 101.0
    assert drain(poll_queue, 101.0) == states[3:]
    assert poll_queue.next_due() == 500.0
    # It is over then: those that come later are trusted anew.
    poll_queue.put(states[0], 600.0, postponed=True)
    assert poll_queue.pop(499.0) is None
    assert drain(poll_queue, 600.0) == [states[2], states[0]]


def test_a_recall_without_postponed_jobs_changes_nothing():
    poll_queue, (a, b) = PollQueue(even), make_states(2)
    poll_queue.put(a, 5.0)
    poll_queue.recall(1.0)
    poll_queue.put(b, 6.0, postponed=True)
    assert poll_queue.pop(4.0) is None
    assert drain(poll_queue, 6.0) == [a, b]


def test_recalled_jobs_are_moved_in_small_steps():
    poll_queue, states = PollQueue(even), make_states(10_000)
    for state in states:
        poll_queue.put(state, 100.0, postponed=True)
    poll_queue.recall(0.0)
    poll_queue.pop(0.0)
    assert sum(state.due == 0.0 for state in states) <= 100
    assert len(drain(poll_queue, 0.0)) == 9_999


class PollQueueMachine(RuleBasedStateMachine):
    """A poll queue and a dict are compared after each step."""

    def __init__(self):
        super().__init__()
        self.states = make_states(8)
        self.gains = dict.fromkeys(self.states, 0.5)
        self.poll_queue = PollQueue(lambda state, _now: self.gains[state])
        self.dues = {}
        self.trusted = set()
        self.left_waiting = False  # whether some that were due had to wait for others
        self.now = 0.0

    numbers = st.integers(0, 7)

    @rule(number=numbers, wait=st.sampled_from([-40.0, -1.0, 0.0, 0.5, 10.0, 100.0]))
    def put(self, number, wait):
        self.poll_queue.put(self.states[number], self.now + wait)
        self.dues[self.states[number]] = self.now + wait
        self.trusted.discard(self.states[number])

    @rule(number=numbers, wait=st.sampled_from([0.5, 10.0, 100.0]))
    def put_on_trust(self, number, wait):
        self.poll_queue.put(self.states[number], self.now + wait, postponed=True)
        self.dues[self.states[number]] = self.now + wait
        self.trusted.add(self.states[number])

    @rule()
    def recall(self):
        self.poll_queue.recall(self.now)
        for state in self.trusted & {*self.dues}:
            self.dues[state] = min(self.dues[state], self.now)
        self.pop()
        self.trusted.clear()

    @rule(number=numbers)
    def drop(self, number):
        self.poll_queue.drop(self.states[number])
        self.dues.pop(self.states[number], None)

    @rule(number=numbers, gain=st.sampled_from([0.0, 0.2, 1.0]))
    def learn(self, number, gain):
        self.gains[self.states[number]] = gain

    @rule(seconds=st.sampled_from([0.25, 5.0, 60.0]))
    def pass_time(self, seconds):
        self.now += seconds

    @rule()
    def clear(self):
        self.poll_queue.clear()
        self.dues.clear()
        self.trusted.clear()
        for state in self.states:
            state.ticket = 0  # since the queue no longer holds it
        self.left_waiting = False

    @rule()
    def pop(self):
        due = {state: when for state, when in self.dues.items() if when <= self.now}
        state = self.poll_queue.pop(self.now)
        if not due:
            assert state is None
            return
        assert state in due
        when = self.dues.pop(state)
        had_left_waiting, self.left_waiting = self.left_waiting, len(due) > 1
        if len(due) == 1:
            return
        equal = [other for other in due if self.gains[other] == self.gains[state]]
        if len({self.gains[other] for other in due}) == 1 and not had_left_waiting:
            assert when == min(due[other] for other in equal)

    @invariant()
    def each_is_due_when_it_was_put(self):
        assert {state for state in self.states if state.ticket} == set(self.dues)
        assert all(state.due == due for state, due in self.dues.items())

    def teardown(self):
        """Each job has one place: every job is popped, and none twice."""
        self.poll_queue.recall(self.now)
        left = drain(self.poll_queue, math.inf)
        assert len(left) == len(self.dues)
        assert set(left) == set(self.dues)

    @invariant()
    def the_next_one_is_told(self):
        first = min(self.dues.values(), default=None)
        if first is None or first > self.now:
            assert self.poll_queue.next_due() == first
        else:
            assert self.poll_queue.next_due() <= self.now


PollQueueMachine.TestCase.settings = settings(
    max_examples=3 * settings().max_examples // 2, stateful_step_count=40
)
TestPollQueueMachine = PollQueueMachine.TestCase


def test_no_call_removes_many_out_of_date_places():
    """However many jobs were dropped or moved before."""
    poll_queue, (first, *states) = PollQueue(even), make_states(5_001)
    poll_queue.put(first, 0.0)
    for state in states:
        poll_queue.put(state, 1.0)
    most = 0

    def places_removed(call):
        nonlocal most
        before = places_of(states, poll_queue)
        call()
        most = max(most, before - places_of(states, poll_queue))

    for state in states[:2_400]:
        poll_queue.drop(state)
    for state in states[2_400:2_402]:
        places_removed(lambda state=state: poll_queue.drop(state))
    assert poll_queue.pop(0.5) is first
    due = []
    for _ in range(3):
        places_removed(lambda: due.append(poll_queue.next_due()))
    assert due == [1.0] * 3, "although the first places are out of date"
    assert 0 < most <= 1_024
    popped = []
    while poll_queue.next_due() is not None:
        popped += drain(poll_queue, 1.0)
    assert len(popped) == 2_598
