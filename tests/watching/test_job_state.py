"""The subscribers of a job, and the room in their buffers."""

import pytest
from attrs import define, field

from adepoll.watching.job_state import JobState, SnapshotBuffer


@define(eq=False)
class Reader:
    """A subscriber with a buffer; None for one that always has room."""

    buffer: SnapshotBuffer | None = None
    awaits: bool = False


@define(eq=False)
class Owner:
    """Wakes jobs that wait for room, and counts the calls of `on_due`."""

    calls: int = 0
    woken: list[str] = field(factory=list)

    def wake(self, state, now):
        if not state.waits_for_room:
            return False
        state.waits_for_room = False
        self.woken.append((state.job_id, now))
        return True

    def on_due(self):
        self.calls += 1


def reader_of(free):
    reader = Reader()
    reader.buffer = SnapshotBuffer(reader, free)
    return reader


def waiting(owner, *readers, name="a"):
    return JobState(name, name, readers, 0.0, 0.0, waits_for_room=True, owner=owner)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 20])
def test_subscribers_keep_their_order_however_many_there_are(count):
    readers = [Reader() for _ in range(count)]
    state = JobState("a", "a", (readers[0],), 0.0, 0.0)
    for reader in readers[1:]:
        state.add_subscriber(reader)
    assert [*state.subscribers] == readers
    state.remove_subscriber(readers[0])
    assert [*state.subscribers] == readers[1:]
    if count > 2:
        state.remove_subscriber(readers[2])
        assert [*state.subscribers] == [readers[1], *readers[3:]]


def test_a_job_is_awaited_if_any_subscriber_awaits_it():
    state = JobState("a", "a", (), 0.0, 0.0)
    found = []
    for awaits in (None, False, True, False):
        if awaits is not None:
            state.add_subscriber(Reader(awaits=awaits))
        found.append(state.awaited)
    assert found == [False, False, True, True]


@pytest.mark.parametrize(
    ("free", "reserved"),
    [((1,), True), ((0,), False), ((-1,), False), ((0, 1), True), ((0, None), True), ((), False)],
)
def test_a_poll_needs_room_in_one_buffer_and_takes_a_place_in_each(free, reserved):
    readers = [Reader() if places is None else reader_of(places) for places in free]
    state = JobState("a", "a", tuple(readers), 0.0, 0.0)
    assert state.reserve_places() is reserved
    assert state.in_flight is reserved
    taken = [None if r.buffer is None else r.buffer.free for r in readers]
    assert taken == [None if n is None else n - reserved for n in free]
    assert state.release_places() == (tuple(readers) if reserved else ())
    assert [None if r.buffer is None else r.buffer.free for r in readers] == [*free]
    assert not state.in_flight
    assert state.release_places() == ()


@pytest.mark.parametrize(("free", "woken"), [(0, ""), (1, "b"), (2, "bd"), (9, "bde")])
def test_one_job_is_woken_for_each_free_place(free, woken):
    owner, reader, other = Owner(), reader_of(free), Reader()
    states = {name: waiting(owner, reader, name=name) for name in "abcde"}
    states["a"].waits_for_room = False  # another subscriber has woken it
    states["c"].subscribers = (other,)  # this subscriber has left it
    for state in states.values():
        reader.buffer.add_waiting(state)
    reader.buffer.waiting.append(JobState("f", "f", (reader,), 0.0, 0.0, waits_for_room=True))
    assert reader.buffer.wake_waiting(7.0) == len(woken)
    assert owner.woken == [(name, 7.0) for name in woken]
    assert owner.calls == bool(woken)
    assert len(reader.buffer.waiting) == {"": 6, "b": 4, "bd": 2, "bde": 0}[woken]


def test_each_owner_except_the_caller_is_told_once():
    one, two, reader = Owner(), Owner(), reader_of(9)
    for number, owner in enumerate((one, two, two)):
        reader.buffer.add_waiting(waiting(owner, reader, name=str(number)))
    assert reader.buffer.wake_waiting(0.0, caller=one) == 3
    assert (one.calls, two.calls) == (0, 1)


def test_waiting_jobs_are_kept_once_each_when_there_are_many():
    owner, reader = Owner(), reader_of(0)
    states = [waiting(owner, reader, name=str(number)) for number in range(10)]
    for _ in range(6):
        for state in states:
            reader.buffer.add_waiting(state)
    assert len(reader.buffer.waiting) == 60
    for state in states[:5]:
        reader.buffer.add_waiting(state)
    assert [*reader.buffer.waiting] == states, "after more than 64, each is kept once"
    states[0].waits_for_room = False
    states[1].subscribers = (Reader(),)
    for _ in range(2 * 10 + 64 - 10):
        reader.buffer.add_waiting(states[2])
    assert len(reader.buffer.waiting) == 84
    reader.buffer.add_waiting(states[3])
    assert [*reader.buffer.waiting] == states[2:]
