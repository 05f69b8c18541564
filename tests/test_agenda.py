"""The agenda by itself: who is next, against a naive model, and what it keeps."""

import math

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from internals import places_of

from adepoll.agenda import Agenda
from adepoll.entry import Entry

HEADSTART = 30.0


def make_entries(count):
    return [Entry(f"job{number}", (), since=0.0, born=0.0) for number in range(count)]


def even(_entry, _now):
    return 0.5


def drain(agenda, now):
    popped = []
    while (entry := agenda.pop(now)) is not None:
        popped.append(entry)
    return popped


def test_entries_come_when_they_are_due_and_not_before():
    agenda, (a, b, c) = Agenda(even), make_entries(3)
    for entry, due in ((a, 3.0), (b, 1.0), (c, 2.0)):
        agenda.put(entry, due)
    for entry, due in ((b, 1.0), (c, 2.0), (a, 3.0)):
        assert agenda.next_due() == due
        assert agenda.pop(due - 0.001) is None
        assert agenda.pop(due) is entry
        assert not entry.ticket
    assert agenda.next_due() is None
    assert agenda.pop(1e9) is None


def test_equally_due_entries_come_in_the_order_in_which_they_were_put():
    agenda, entries = Agenda(even), make_entries(200)
    for entry in entries:
        agenda.put(entry, 1.0)
    assert drain(agenda, 1.0) == entries


def test_of_those_overdue_the_surest_gain_comes_first():
    gains = {"job0": 0.1, "job1": 0.9, "job2": 0.5}
    agenda = Agenda(lambda entry, _now: gains[entry.job_id])
    a, b, c = make_entries(3)
    for entry in (a, b, c):
        agenda.put(entry, 1.0)
    assert drain(agenda, 5.0) == [b, c, a]


def test_one_put_in_line_comes_in_the_place_that_put_would_have_given_it():
    gains = {f"job{number}": number / 8 for number in range(9)}
    orders = []
    for in_line in (False, True):
        agenda, entries = Agenda(lambda entry, _now: gains[entry.job_id]), make_entries(9)
        for entry in entries:
            if in_line and entry.job_id in {"job3", "job4", "job7"}:
                agenda.put_in_line(entry, 1.0, gains[entry.job_id])
            else:
                agenda.put(entry, 1.0)
        assert agenda.next_due() == 1.0
        orders.append([entry.job_id for entry in drain(agenda, 5.0)])
    assert orders[0] == orders[1] == [f"job{number}" for number in range(8, -1, -1)]


def test_a_gain_is_worth_so_much_waiting_and_no_more():
    gains = {"job0": 0.0, "job1": 1.0}
    for late, first in ((HEADSTART - 1, 1), (HEADSTART + 1, 0)):
        agenda = Agenda(lambda entry, _now: gains[entry.job_id])
        entries = make_entries(2)
        agenda.put(entries[0], 0.0)
        agenda.put(entries[1], late)
        assert agenda.pop(100.0) is entries[first]


def test_nobody_starves_though_surer_ones_come_without_end():
    dull = Entry("dull", (), since=0.0, born=0.0)
    agenda = Agenda(lambda entry, _now: float(entry is not dull))
    agenda.put(dull, 0.0)
    before = []
    for second in range(1, 1_000):
        for entry in make_entries(3):  # more than the one that can be looked at
            agenda.put(entry, float(second))
        taken = agenda.pop(float(second))
        if taken is dull:
            break
        before.append(taken.due)
    assert max(before) <= HEADSTART
    assert len(before) > HEADSTART


def test_the_place_of_an_entry_is_its_last():
    agenda, (a, b) = Agenda(even), make_entries(2)
    agenda.put(a, 1.0)
    agenda.put(b, 2.0)
    agenda.put(a, 3.0)
    assert agenda.next_due() == 2.0
    assert drain(agenda, 10.0) == [b, a]
    agenda.put(a, 1.0)
    agenda.drop(a)
    agenda.drop(a)
    assert agenda.next_due() is None
    assert agenda.pop(10.0) is None


def test_an_entry_that_stands_in_line_can_be_put_off_and_dropped():
    agenda, entries = Agenda(even), make_entries(5)
    for entry in entries:
        agenda.put(entry, 0.0)
    assert agenda.pop(1.0) is entries[0]  # the others stand in line now
    agenda.put(entries[1], 5.0)
    agenda.drop(entries[2])
    assert drain(agenda, 1.0) == [entries[3], entries[4]]
    assert agenda.next_due() == 5.0
    assert drain(agenda, 5.0) == [entries[1]]


def test_in_one_go_only_so_many_are_lined_up():
    asked = []
    agenda = Agenda(lambda entry, _now: asked.append(entry) or 0.5)
    for entry in make_entries(10_000):
        agenda.put(entry, 0.0)
    agenda.pop(1.0)
    assert len(asked) <= 100
    assert len(drain(agenda, 1.0)) == 9_999
    assert len(asked) == 10_000


def test_void_places_take_no_more_room_than_the_others():
    agenda, entries = Agenda(even), make_entries(100)
    for step in range(100_000):
        agenda.put(entries[step % 100], 1e6 - step, on_trust=step % 3 == 0)
    assert places_of(entries) < 2_500
    others = make_entries(5_000)
    for entry in others:
        agenda.put(entry, 0.0)
        if entry.job_id != "job7":
            agenda.drop(entry)
    assert places_of(entries + others) < 2_500
    assert agenda.pop(1.0).job_id == "job7"
    assert len(drain(agenda, 1e7)) == 100


def test_void_places_are_counted_whatever_way_they_went():
    """In the line, on trust or by time: each is dropped, put again or popped in turn."""
    agenda, entries = Agenda(even), make_entries(100)
    for step in range(30_000):
        entry = entries[step % 100]
        agenda.put(entry, float(step + step % 7), on_trust=step % 3 == 0)
        if step % 5 == 0:
            agenda.drop(entries[step * 7 % 100])
        if step % 11 == 0:
            agenda.pop(float(step))
        if step % 97 == 0:
            agenda.recall(float(step))
        if step % 13 == 0:
            agenda.next_due()
    assert places_of(entries) < 2_500


def test_when_all_is_cleared_nothing_is_left():
    agenda, entries = Agenda(even), make_entries(100)
    for entry in entries:
        agenda.put(entry, 0.0)
    agenda.put(entry, 1.0, on_trust=True)
    agenda.pop(0.0)
    agenda.recall(0.0)
    agenda.clear()
    assert agenda.next_due() is None
    assert agenda.pop(1e9) is None
    assert places_of(entries) == 0


def test_what_was_put_on_trust_can_be_recalled():
    agenda, entries = Agenda(even), make_entries(300)
    for number, entry in enumerate(entries):
        agenda.put(entry, 100.0 + number, on_trust=True)
    assert agenda.pop(99.0) is None
    assert agenda.pop(100.0) is entries[0]
    agenda.drop(entries[1])
    agenda.put(entries[2], 500.0)  # it was looked at, and is put off by what was seen
    assert agenda.next_due() == 103.0
    agenda.recall(101.0)
    assert agenda.next_due() == 101.0
    assert drain(agenda, 101.0) == entries[3:]
    assert agenda.next_due() == 500.0
    # It is over then: those that come later are trusted anew.
    agenda.put(entries[0], 600.0, on_trust=True)
    assert agenda.pop(499.0) is None
    assert drain(agenda, 600.0) == [entries[2], entries[0]]


def test_a_recall_where_nothing_was_put_on_trust_changes_nothing():
    agenda, (a, b) = Agenda(even), make_entries(2)
    agenda.put(a, 5.0)
    agenda.recall(1.0)
    agenda.put(b, 6.0, on_trust=True)
    assert agenda.pop(4.0) is None
    assert drain(agenda, 6.0) == [a, b]


def test_a_recall_is_dealt_with_in_small_steps():
    agenda, entries = Agenda(even), make_entries(10_000)
    for entry in entries:
        agenda.put(entry, 100.0, on_trust=True)
    agenda.recall(0.0)
    agenda.pop(0.0)
    assert sum(entry.due == 0.0 for entry in entries) <= 100
    assert len(drain(agenda, 0.0)) == 9_999


class AgendaMachine(RuleBasedStateMachine):
    """An agenda and a dict walk in step."""

    def __init__(self):
        super().__init__()
        self.entries = make_entries(8)
        self.gains = dict.fromkeys(self.entries, 0.5)
        self.agenda = Agenda(lambda entry, _now: self.gains[entry])
        self.dues = {}
        self.trusted = set()
        self.left_waiting = False  # whether some that were due had to wait for others
        self.now = 0.0

    numbers = st.integers(0, 7)

    @rule(number=numbers, wait=st.sampled_from([-40.0, -1.0, 0.0, 0.5, 10.0, 100.0]))
    def put(self, number, wait):
        self.agenda.put(self.entries[number], self.now + wait)
        self.dues[self.entries[number]] = self.now + wait
        self.trusted.discard(self.entries[number])

    @rule(number=numbers, wait=st.sampled_from([0.5, 10.0, 100.0]))
    def put_on_trust(self, number, wait):
        self.agenda.put(self.entries[number], self.now + wait, on_trust=True)
        self.dues[self.entries[number]] = self.now + wait
        self.trusted.add(self.entries[number])

    @rule()
    def recall(self):
        self.agenda.recall(self.now)
        for entry in self.trusted & {*self.dues}:
            self.dues[entry] = min(self.dues[entry], self.now)
        self.pop()
        self.trusted.clear()

    @rule(number=numbers)
    def drop(self, number):
        self.agenda.drop(self.entries[number])
        self.dues.pop(self.entries[number], None)

    @rule(number=numbers, gain=st.sampled_from([0.0, 0.2, 1.0]))
    def learn(self, number, gain):
        self.gains[self.entries[number]] = gain

    @rule(seconds=st.sampled_from([0.25, 5.0, 60.0]))
    def pass_time(self, seconds):
        self.now += seconds

    @rule()
    def clear(self):
        self.agenda.clear()
        self.dues.clear()
        self.trusted.clear()
        for entry in self.entries:
            entry.ticket = 0  # as nobody keeps them
        self.left_waiting = False

    @rule()
    def pop(self):
        due = {entry: when for entry, when in self.dues.items() if when <= self.now}
        entry = self.agenda.pop(self.now)
        if not due:
            assert entry is None
            return
        assert entry in due
        when = self.dues.pop(entry)
        had_left_waiting, self.left_waiting = self.left_waiting, len(due) > 1
        # What gain counts for was settled when it got into line; it is never worth more than this.
        assert all(when <= other + HEADSTART for other in due.values())
        if len(due) == 1:
            return
        equal = [other for other in due if self.gains[other] == self.gains[entry]]
        if len({self.gains[other] for other in due}) == 1 and not had_left_waiting:
            assert when == min(due[other] for other in equal)

    @invariant()
    def each_is_due_when_it_was_put(self):
        assert {entry for entry in self.entries if entry.ticket} == set(self.dues)
        assert all(entry.due == due for entry, due in self.dues.items())

    def teardown(self):
        """Each has its one place: all come, and none comes twice."""
        self.agenda.recall(self.now)
        left = drain(self.agenda, math.inf)
        assert len(left) == len(self.dues)
        assert set(left) == set(self.dues)

    @invariant()
    def the_next_one_is_told(self):
        first = min(self.dues.values(), default=None)
        if first is None or first > self.now:
            assert self.agenda.next_due() == first
        else:
            assert self.agenda.next_due() <= self.now


AgendaMachine.TestCase.settings = settings(
    max_examples=3 * settings().max_examples // 2, stateful_step_count=40
)
TestAgendaMachine = AgendaMachine.TestCase
