"""A subscription accounts for every id that it read; a watch is the consumer's handle of it."""

import asyncio
import gc

import pytest
import subscribing
from scripted import snapshot
from subscribing import add_id, subscription_of

from adepoll.api.job_kind import JobRef
from adepoll.api.models import JobStatus
from adepoll.errors import (
    AuthenticationError,
    ClosedError,
    InvalidJobIdError,
    JobNotFoundError,
    UnresolvedJobsError,
)
from adepoll.watching.job_state import JobState
from adepoll.watching.watch import Watch, WatchSubscription


def drain(subscription):
    taken = []
    while (job := subscription.take()) is not None:
        taken.append((job.job_id, job.status_text))
    return taken


# --- Subscription ---------------------------------------------------------------------------------


def test_the_final_snapshot_of_a_job_is_delivered_once():
    subscription = subscription_of("a")
    assert subscription.deliver("a", snapshot("a", "pending"))
    assert subscription.deliver("a", snapshot("a", "failed"))
    assert subscription.deliver(
        "a", snapshot("a", "completed")
    )  # already delivered: it is not wanted
    assert drain(subscription) == [("a", "failed")]
    assert subscription.deliver("a", snapshot("a", "completed"))
    assert drain(subscription) == []
    assert subscription.open == 0


def test_with_every_change_each_new_status_is_delivered_also_an_earlier_one():
    subscription = subscription_of("a", every_change=True)
    for status in ("pending", "pending", "processing", "pending", "odd", "odder", "completed"):
        assert subscription.deliver("a", snapshot("a", status))
    assert [status for _, status in drain(subscription)] == [
        "pending",
        "processing",
        "pending",
        "odd",
        "odder",
        "completed",
    ]


def test_a_full_subscription_refuses_only_snapshots_that_are_wanted():
    subscription = subscription_of("a", "b", limit=1)
    assert subscription.deliver("a", snapshot("a"))
    assert subscription.buffer.free <= 0
    assert subscription.deliver("b", snapshot("b", "pending"))
    assert not subscription.deliver("b", snapshot("b"))
    assert subscription.open_ids() == ["b"]
    subscription.take()
    assert subscription.deliver("b", snapshot("b"))


def test_a_refused_change_is_delivered_when_it_is_seen_again():
    subscription = subscription_of("a", "b", limit=1, every_change=True)
    assert subscription.deliver("a", snapshot("a", "pending"))
    assert not subscription.deliver("b", snapshot("b", "pending"))
    subscription.take()
    assert subscription.deliver("b", snapshot("b", "pending"))
    assert drain(subscription) == [("b", "pending")]


def test_a_reserved_place_is_not_free():
    subscription = subscription_of("a", limit=2)
    buffer = subscription.buffer
    buffer.free -= 1
    subscription.deliver("a", snapshot("a"))
    assert buffer.free == 0
    buffer.free -= 1  # by a poll of a job that another subscriber watches too
    assert buffer.free == -1
    buffer.free += 2
    assert buffer.free == 1
    assert subscription.take().job_id == "a"
    assert buffer.free == 2


def test_jobs_that_wait_for_room_are_kept_in_their_order_and_once_each():
    subscription = subscription_of()
    states = [
        JobState(str(number), str(number), subscription.as_tuple, 0.0, 0.0) for number in range(40)
    ]
    for state in states:
        state.waits_for_room = state is not states[7]
    states[8].subscribers = ()
    for state in states * 30:
        subscription.buffer.add_waiting(state)
    waiting = [*dict.fromkeys(subscription.buffer.waiting)]
    assert waiting[:7] + waiting[-31:] == [*states[:7], *states[9:]]
    assert len(subscription.buffer.waiting) < 200


def test_every_id_is_accounted_for():
    subscription = subscription_of("yielded", "buffered", "gone", "open", limit=2)
    add_id(subscription, "a/b")
    subscription.deliver("yielded", snapshot("yielded", "failed"))
    subscription.deliver("buffered", snapshot("buffered"))
    missing = JobNotFoundError(status=404, job_id="gone")
    subscription.give_up("gone", missing)
    assert subscription.take().job_id == "yielded"
    unresolved = subscription.unresolved()
    assert list(unresolved) == ["buffered", "gone", "open", "a/b"]
    assert unresolved["buffered"] is unresolved["open"] is None
    assert unresolved["gone"] is missing
    assert isinstance(unresolved["a/b"], InvalidJobIdError)
    assert subscription.open_ids() == ["open"]
    progress = subscription.progress()
    assert progress.known == 5
    assert progress.settled == {JobStatus.FAILED: 1}
    assert progress.buffered == 1
    assert progress.unresolved == 2
    assert progress.open == subscription.open == 1
    assert not progress.complete
    add_id(subscription, "open")  # a duplicate
    assert subscription.progress() == progress


def test_a_fatal_error_is_why_the_open_jobs_are_unresolved():
    subscription = subscription_of("gone", "open", "buffered")
    subscription.give_up("gone", JobNotFoundError(status=404, job_id="gone"))
    subscription.deliver("buffered", snapshot("buffered"))
    subscription.fail(AuthenticationError(status=401))
    subscription.fail(ClosedError("later"))
    assert isinstance(subscription.error, AuthenticationError)
    causes = subscription.unresolved()
    assert isinstance(causes["gone"], JobNotFoundError)
    assert causes["open"] is subscription.error
    assert causes["buffered"] is None
    assert subscription.complete


def test_a_bug_is_not_the_error_of_a_job():
    subscription = subscription_of("open")
    subscription.fail(RuntimeError("a bug"))
    assert subscription.unresolved() == {"open": None}


def test_progress_is_a_copy():
    subscription = subscription_of("a")
    before = subscription.progress()
    subscription.deliver("a", snapshot("a"))
    subscription.take()
    assert before.settled == {}
    assert before.open == 1


# --- Watch ----------------------------------------------------------------------------------------


def test_a_watch_yields_what_is_buffered_and_ends(replay):
    async def script():
        subscription = subscription_of("a", "b")
        subscription.deliver("a", snapshot("a"))
        subscription.deliver("b", snapshot("b"))
        subscription.end_of_ids()
        assert [job.job_id async for job in Watch(subscription)] == ["a", "b"]
        return subscription.calls

    assert replay(script) == ["start", "close"]


class FakeOwner:
    """Stands for the watched jobs: remembers the calls of its methods."""

    def __init__(self, calls):
        self.calls = calls

    def wake(self, state, now):
        return True

    def on_due(self):
        self.calls.append("wake")


def test_taking_a_snapshot_wakes_jobs_that_wait_for_room(replay):
    async def script():
        subscription = subscription_of("a", "b")
        subscription.deliver("a", snapshot("a"))
        owner = FakeOwner(subscription.calls)
        state = JobState("b", "b", subscription.as_tuple, 0.0, 0.0, owner=owner)
        subscription.buffer.waiting.append(state)
        async for _ in Watch(subscription):
            break
        return subscription.calls

    assert replay(script)[:2] == ["start", "wake"]


def test_a_watch_that_has_ended_stays_ended(replay):
    async def script():
        subscription = subscription_of("a")
        subscription.give_up("a", JobNotFoundError(status=404, job_id="a"))
        subscription.end_of_ids()
        watch = Watch(subscription)
        with pytest.raises(UnresolvedJobsError) as caught:
            await anext(watch)
        assert list(caught.value.causes) == ["a"]
        for _ in range(3):
            with pytest.raises(StopAsyncIteration):
                await anext(watch)

    replay(script)


def test_a_watch_yields_what_is_buffered_before_it_fails_once(replay):
    async def script():
        subscription = subscription_of("a", "b")
        subscription.deliver("a", snapshot("a"))
        subscription.fail(AuthenticationError(status=401))
        watch = Watch(subscription)
        assert (await anext(watch)).job_id == "a"
        with pytest.raises(AuthenticationError):
            await anext(watch)
        with pytest.raises(StopAsyncIteration):
            await anext(watch)

    replay(script)


def test_a_watch_waits_for_the_next_snapshot(replay):
    async def script():
        subscription = subscription_of("a")
        watch = Watch(subscription)
        asyncio.get_running_loop().call_later(7, subscription.deliver, "a", snapshot("a"))
        assert (await anext(watch)).job_id == "a"
        asyncio.get_running_loop().call_later(7, subscription.end_of_ids)
        with pytest.raises(StopAsyncIteration):
            await anext(watch)
        return asyncio.get_running_loop().time()

    assert replay(script) == 14


def test_a_watch_that_nobody_iterates_starts_nothing(replay):
    async def script():
        subscription = subscription_of("a")
        watch = Watch(subscription)
        assert watch.unresolved == {"a": None}
        await watch.aclose()
        assert [job async for job in watch] == []
        return subscription.calls

    assert replay(script) == []


def test_a_watch_starts_on_entering_and_closes_once(replay):
    async def script():
        subscription = subscription_of("a")
        async with Watch(subscription) as watch:
            assert subscription.calls == ["start"]
            await watch.aclose()
            await watch.aclose()
        return subscription.calls

    assert replay(script) == ["start", "close"]


def test_an_abandoned_watch_is_closed_by_the_garbage_collector(replay):
    async def script():
        subscription = subscription_of("a", "b")
        subscription.deliver("a", snapshot("a"))
        async for _ in Watch(subscription):
            break
        gc.collect(0)
        return subscription.calls

    assert replay(script) == ["start", "close soon"]


def test_a_closed_watch_is_not_closed_again_by_the_garbage_collector(replay):
    async def script():
        subscription = subscription_of("a")
        async with Watch(subscription) as watch:
            pass
        del watch
        gc.collect(0)
        return subscription.calls

    assert replay(script) == ["start", "close"]


def test_a_consumer_gets_an_error_if_another_task_closes_the_watch(replay):
    async def script():
        watch = Watch(subscription_of("a"))
        waiting = [asyncio.create_task(anext(watch)) for _ in range(2)]
        await asyncio.sleep(1)
        await watch.aclose()
        for task in waiting:
            with pytest.raises(ClosedError, match="watch was closed"):
                await task
        with pytest.raises(StopAsyncIteration):
            await anext(watch)
        assert watch.unresolved == {"a": None}

    replay(script)


def test_two_consumers_share_a_watch_and_one_of_them_gets_the_error_at_the_end(replay):
    async def script():
        subscription = subscription_of("a", "b", "gone")
        watch = Watch(subscription)

        async def consume():
            return [job.job_id async for job in watch]

        consumers = [asyncio.create_task(consume()) for _ in range(2)]
        await asyncio.sleep(1)
        subscription.deliver("a", snapshot("a"))
        subscription.deliver("b", snapshot("b"))
        await asyncio.sleep(1)
        subscription.give_up("gone", JobNotFoundError(status=404, job_id="gone"))
        subscription.end_of_ids()
        ends = await asyncio.gather(*consumers, return_exceptions=True)
        assert sorted(type(end).__name__ for end in ends) == ["UnresolvedJobsError", "list"]

    replay(script)


def test_a_cancelled_iteration_loses_no_snapshot(replay):
    async def script():
        subscription = subscription_of("a")
        watch = Watch(subscription)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await anext(watch)
        subscription.deliver("a", snapshot("a"))
        assert (await anext(watch)).job_id == "a"

    replay(script)


# --- at the bounds ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "options", "awaits"),
    [
        (8, {"timeout": 5.0}, True),
        (9, {"timeout": 5.0}, False),
        (8, {"every_change": True}, True),
        (9, {"every_change": True}, False),
        (1, {}, False),
        (1, {"timeout": 0.0}, True),
    ],
)
def test_somebody_waits_for_at_most_eight_jobs_of_a_watch(count, options, awaits):
    subscription = subscription_of(*map(str, range(count)), **options)
    assert subscription.awaits is awaits


class Busy(subscribing.FakeOwner):
    """An owner with a fixed number of due jobs."""

    due = 0
    pumps = 0

    def overdue(self):
        return self.due

    def pump(self):
        self.pumps += 1


@pytest.mark.parametrize(
    ("due", "waiting", "known"),
    [(2_000, 0, 3_000), (2_001, 0, 2_100), (1_600, 400, 3_000), (1_600, 401, 2_100)],
)
def test_an_iterator_is_read_while_at_most_2000_jobs_are_due(replay, due, waiting, known):
    async def script():
        owner = Busy()
        owner.due = due
        ids = (f"job-{number}" for number in range(3_000))
        subscription = WatchSubscription(owner, ids, limit=9)
        subscription.buffer.waiting.extend([None] * waiting)
        subscription.start()
        await asyncio.sleep(0.04)
        assert subscription.known == known
        owner.due = 0
        subscription.buffer.waiting.clear()
        await asyncio.sleep(0.06)
        assert subscription.known == 3_000, "the number is checked 20 times per second"
        await asyncio.gather(*subscription.close(), return_exceptions=True)

    replay(script)


def test_a_collection_is_read_however_many_jobs_are_due(replay):
    async def script():
        owner = Busy()
        owner.due = 10**6
        subscription = WatchSubscription(owner, [f"j-{n}" for n in range(1_250)], limit=9)
        subscription.start()
        await asyncio.sleep(0.001)
        assert (subscription.known, subscription.open) == (1_250, 1_250)
        assert owner.pumps == 3, "after each 500, and at the end"
        await asyncio.gather(*subscription.close(), return_exceptions=True)

    replay(script)


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize(("window", "known"), [(3, 3), (4, 4), (100, 5)])
def test_ids_are_read_while_the_window_has_room(replay, is_async, window, known):
    async def script():
        async def aiter_of(ids):
            for job_id in ids:
                yield job_id

        names = ["a", "b b", "c", "d d", "e"]  # those with a space are invalid
        ids = aiter_of(names) if is_async else iter(names)
        subscription = WatchSubscription(Busy(), ids, limit=9, window=window, yield_errors=True)
        subscription.holds = True
        subscription.start()
        await asyncio.sleep(0.001)
        assert subscription.known == known
        error = subscription.take()
        assert error.job_id == "b b"
        await asyncio.sleep(0.001)
        assert subscription.known == known, "the consumer has taken it, but not released it"
        subscription.release_error()
        await asyncio.sleep(0.001)
        assert subscription.known == min(known + 1, 5)
        await asyncio.gather(*subscription.close(), return_exceptions=True)

    replay(script)


def test_an_error_that_is_not_held_makes_room_when_it_is_taken(replay):
    async def script():
        ids = iter(["a", "b b", "c"])
        subscription = WatchSubscription(Busy(), ids, limit=9, window=2, yield_errors=True)
        subscription.start()
        await asyncio.sleep(0.001)
        assert subscription.known == 2
        assert subscription.take().job_id == "b b"
        await asyncio.sleep(0.001)
        assert subscription.known == 3
        await asyncio.gather(*subscription.close(), return_exceptions=True)

    replay(script)


@pytest.mark.parametrize("number", [8, 9])
@pytest.mark.parametrize("options", [{}, {"timeout": 60.0}, {"every_change": True}])
def test_the_first_eight_jobs_of_a_watch_cannot_wait(replay, number, options):
    async def script():
        owner, asked = Busy(), []

        def subscribe(job_id, _key, _subscriber, _now, *, can_wait):
            asked.append(can_wait)

        owner.default_polling.subscribe = subscribe
        subscription = WatchSubscription(owner, map(str, range(number)), limit=99, **options)
        subscription.start()
        await asyncio.sleep(0.001)
        assert asked == [False] * 8 + [not options] * (number - 8)
        await asyncio.gather(*subscription.close(), return_exceptions=True)

    replay(script)


def test_the_last_statuses_are_those_of_open_jobs():
    subscription = subscription_of("a", "b", "c")
    subscription.deliver("a", snapshot("a", "pending"))
    subscription.deliver("b", snapshot("b"))
    assert subscription.last_statuses() == {"a": "pending"}


def test_a_label_is_shown_until_the_job_is_forgotten():
    subscription = subscription_of(JobRef("a", label="mine"), "b", limit=9)
    for job_id in "ab":
        subscription.deliver(job_id, snapshot(job_id))
    assert [(job.job_id, job.label) for job in iter(subscription.take, None)] == [
        ("a", "mine"), ("b", None),
    ]  # fmt: skip
    assert subscription.labelled("a", snapshot("a")).label is None
