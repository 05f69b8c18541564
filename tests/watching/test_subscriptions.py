"""A feed keeps account of every id it was given; a watch is the caller's end of it."""

import asyncio
import gc

import pytest
from scripted import snapshot

from adepoll.api.models import JobStatus
from adepoll.errors import (
    AnswerTimeoutError,
    AuthenticationError,
    ClosedError,
    InvalidJobIdError,
    JobNotFoundError,
    TransportError,
    UnresolvedJobsError,
)
from adepoll.watching.job_state import JobState
from adepoll.watching.subscriptions import Feed, Waiter, Watch


def make_feed(*job_ids, limit=10, every_change=False):
    feed = Feed(limit=limit, every_change=every_change)
    for job_id in job_ids:
        feed.admit(job_id)
    return feed


def drain(feed):
    taken = []
    while (job := feed.pop()) is not None:
        taken.append((job.job_id, job.status_text))
    return taken


# --- Feed ---------------------------------------------------------------------------------------


def test_a_feed_takes_the_end_of_a_job_once():
    feed = make_feed("a")
    assert feed.take(snapshot("a", "pending"))
    assert feed.take(snapshot("a", "failed"))
    assert feed.take(snapshot("a", "completed"))  # told already, so it does not matter
    assert drain(feed) == [("a", "failed")]
    assert feed.take(snapshot("a", "completed"))
    assert drain(feed) == []
    assert feed.open == 0


def test_a_feed_of_every_change_takes_each_status_once_and_backward_ones_too():
    feed = make_feed("a", every_change=True)
    for status in ("pending", "pending", "processing", "pending", "odd", "odder", "completed"):
        assert feed.take(snapshot("a", status))
    assert [status for _, status in drain(feed)] == [
        "pending",
        "processing",
        "pending",
        "odd",
        "odder",
        "completed",
    ]


def test_a_full_feed_refuses_what_matters_and_only_that():
    feed = make_feed("a", "b", limit=1)
    assert feed.take(snapshot("a"))
    assert not feed.has_room()
    assert feed.take(snapshot("b", "pending"))
    assert not feed.take(snapshot("b"))
    assert feed.open_ids() == ["b"]
    feed.pop()
    assert feed.take(snapshot("b"))


def test_a_change_that_was_refused_is_taken_when_it_is_seen_again():
    feed = make_feed("a", "b", limit=1, every_change=True)
    assert feed.take(snapshot("a", "pending"))
    assert not feed.take(snapshot("b", "pending"))
    feed.pop()
    assert feed.take(snapshot("b", "pending"))
    assert drain(feed) == [("b", "pending")]


def test_a_place_reserved_is_no_room():
    feed = make_feed("a", limit=2)
    feed.reserve()
    assert (feed.free, feed.has_room()) == (1, True)
    feed.take(snapshot("a"))
    assert (feed.free, feed.has_room()) == (0, False)
    feed.reserve()  # by a look at a job that somebody else follows too
    assert (feed.free, feed.has_room()) == (-1, False)
    feed.release()
    feed.release()
    assert (feed.free, feed.has_room()) == (1, True)


def test_entries_that_wait_for_room_come_back_in_their_order():
    feed = make_feed()
    entries = [JobState(str(number), (feed,), since=0.0, born=0.0) for number in range(3)]
    for entry in entries:
        feed.stall(entry)
    assert [feed.pop_stalled() for _ in range(4)] == [*entries, None]


def test_every_id_is_accounted_for():
    feed = make_feed("yielded", "buffered", "gone", "open", limit=2)
    feed.refuse(InvalidJobIdError(job_id="a/b", reason="it holds '/'"))
    feed.take(snapshot("yielded", "failed"))
    feed.take(snapshot("buffered"))
    missing = JobNotFoundError(status=404, job_id="gone")
    feed.give_up("gone", missing)
    assert feed.pop().job_id == "yielded"
    unresolved = feed.unresolved()
    assert list(unresolved) == ["buffered", "gone", "open", "a/b"]
    assert unresolved["buffered"] is unresolved["open"] is None
    assert unresolved["gone"] is missing
    assert isinstance(unresolved["a/b"], InvalidJobIdError)
    assert feed.open_ids() == ["open"]
    progress = feed.progress()
    assert progress.known == 5
    assert progress.settled == {JobStatus.FAILED: 1}
    assert progress.buffered == 1
    assert progress.unresolved == 2
    assert progress.open == feed.open == 1
    assert not progress.complete
    assert "open" in feed
    assert "unheard of" not in feed


def test_an_error_of_the_whole_feed_is_why_the_rest_is_unresolved():
    feed = make_feed("gone", "open")
    feed.give_up("gone", JobNotFoundError(status=404, job_id="gone"))
    feed.fail(AuthenticationError(status=401))
    feed.fail(ClosedError("later"))
    assert isinstance(feed.error, AuthenticationError)
    causes = feed.unresolved()
    assert isinstance(causes["gone"], JobNotFoundError)
    assert causes["open"] is feed.error
    assert feed.complete


def test_a_bug_is_no_reason_of_a_job():
    feed = make_feed("open")
    feed.fail(RuntimeError("a bug"))
    assert feed.unresolved() == {"open": None}


def test_progress_is_a_copy():
    feed = make_feed("a")
    before = feed.progress()
    feed.take(snapshot("a"))
    feed.pop()
    assert before.settled == {}
    assert before.open == 1


# --- Waiter -------------------------------------------------------------------------------------


def test_a_waiter_takes_the_end_and_nothing_else(replay):
    async def script():
        waiter = Waiter(asyncio.get_running_loop().create_future())
        assert waiter.has_room()
        assert waiter.free == 1
        waiter.take(snapshot("a", "pending"))
        assert not waiter.future.done()
        waiter.take(snapshot("a"))
        waiter.take(snapshot("a", "failed"))
        waiter.fail(ClosedError("too late"))
        return await waiter.future

    assert replay(script).status is JobStatus.COMPLETED


def test_each_waiter_raises_an_error_of_its_own(replay):
    async def script():
        loop = asyncio.get_running_loop()
        error = AnswerTimeoutError(timeout=3.0, job_id="a")
        raised = []
        for _ in range(2):
            waiter = Waiter(loop.create_future())
            waiter.give_up("a", error)
            with pytest.raises(AnswerTimeoutError) as caught:
                await waiter.future
            raised.append(caught.value)
        assert len({id(error), *map(id, raised)}) == 3
        assert [(one.timeout, one.job_id, str(one)) for one in raised] == [
            (3.0, "a", str(error))
        ] * 2

    replay(script)


def test_an_error_for_a_waiter_who_has_left_is_nobodys(replay):
    async def script():
        waiter = Waiter(asyncio.get_running_loop().create_future())
        waiter.fail(TransportError("broken", job_id="a"))
        waiter.forget()
        unfinished = Waiter(asyncio.get_running_loop().create_future())
        unfinished.forget()
        unfinished.future.cancel()
        unfinished.forget()
        unfinished.take(snapshot("a"))
        unfinished.fail(ClosedError("late"))

    replay(script)  # which complains of errors that are never retrieved


# --- Watch --------------------------------------------------------------------------------------


class Owner:
    """Stands for a watcher: remembers what it was asked for."""

    def __init__(self):
        self.asked = []

    def start_feed(self, feed):
        self.asked.append("start")

    def made_room(self, feed):
        self.asked.append("room")

    def drop_feed(self, feed):
        self.asked.append("drop")

    async def close_feed(self, feed):
        self.asked.append("close")
        await asyncio.sleep(1)


def test_a_watch_yields_what_is_buffered_and_ends(replay):
    async def script():
        owner, feed = Owner(), make_feed("a", "b")
        feed.take(snapshot("a"))
        feed.take(snapshot("b"))
        feed.end_of_input()
        assert [job.job_id async for job in Watch(feed, owner)] == ["a", "b"]
        return owner.asked

    assert replay(script) == ["start", "close"]


def test_a_watch_tells_of_room_where_jobs_wait_for_it(replay):
    async def script():
        owner, feed = Owner(), make_feed("a", "b")
        feed.take(snapshot("a"))
        feed.stall(JobState("b", feed.alone, 0.0, 0.0))
        async for _ in Watch(feed, owner):
            break
        return owner.asked

    assert replay(script)[:2] == ["start", "room"]


def test_a_watch_that_has_ended_stays_so(replay):
    async def script():
        feed = make_feed("a")
        feed.give_up("a", JobNotFoundError(status=404, job_id="a"))
        feed.end_of_input()
        watch = Watch(feed, Owner())
        with pytest.raises(UnresolvedJobsError) as caught:
            await anext(watch)
        assert list(caught.value.causes) == ["a"]
        for _ in range(3):
            with pytest.raises(StopAsyncIteration):
                await anext(watch)

    replay(script)


def test_a_watch_yields_what_is_buffered_before_it_fails_once(replay):
    async def script():
        feed = make_feed("a", "b")
        feed.take(snapshot("a"))
        feed.fail(AuthenticationError(status=401))
        watch = Watch(feed, Owner())
        assert (await anext(watch)).job_id == "a"
        with pytest.raises(AuthenticationError):
            await anext(watch)
        with pytest.raises(StopAsyncIteration):
            await anext(watch)

    replay(script)


def test_a_watch_waits_for_what_comes(replay):
    async def script():
        feed = make_feed("a")
        watch = Watch(feed, Owner())
        asyncio.get_running_loop().call_later(7, feed.take, snapshot("a"))
        assert (await anext(watch)).job_id == "a"
        asyncio.get_running_loop().call_later(7, feed.end_of_input)
        with pytest.raises(StopAsyncIteration):
            await anext(watch)
        return asyncio.get_running_loop().time()

    assert replay(script) == 15


def test_a_watch_nobody_iterates_begins_nothing(replay):
    async def script():
        owner = Owner()
        watch = Watch(make_feed("a"), owner)
        assert watch.unresolved == {"a": None}
        await watch.aclose()
        assert [job async for job in watch] == []
        return owner.asked

    assert replay(script) == []


def test_a_watch_begins_on_entering_and_closes_once(replay):
    async def script():
        owner = Owner()
        async with Watch(make_feed("a"), owner) as watch:
            assert owner.asked == ["start"]
            await watch.aclose()
            await watch.aclose()
        return owner.asked

    assert replay(script) == ["start", "close"]


def test_a_watch_that_is_let_go_of_is_dropped(replay):
    async def script():
        owner, feed = Owner(), make_feed("a", "b")
        feed.take(snapshot("a"))
        async for _ in Watch(feed, owner):
            break
        gc.collect(0)
        return owner.asked

    assert replay(script) == ["start", "drop"]


def test_a_watch_that_was_closed_is_not_dropped_again(replay):
    async def script():
        owner = Owner()
        async with Watch(make_feed("a"), owner) as watch:
            pass
        del watch
        gc.collect(0)
        return owner.asked

    assert replay(script) == ["start", "close"]


def test_who_waits_while_another_task_closes_the_watch_is_told(replay):
    async def script():
        watch = Watch(make_feed("a"), Owner())
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


def test_two_consumers_share_a_watch_and_one_of_them_learns_what_is_unresolved(replay):
    async def script():
        feed = make_feed("a", "b", "gone")
        watch = Watch(feed, Owner())

        async def consume():
            return [job.job_id async for job in watch]

        consumers = [asyncio.create_task(consume()) for _ in range(2)]
        await asyncio.sleep(1)
        feed.take(snapshot("a"))
        feed.take(snapshot("b"))
        await asyncio.sleep(1)
        feed.give_up("gone", JobNotFoundError(status=404, job_id="gone"))
        feed.end_of_input()
        ends = await asyncio.gather(*consumers, return_exceptions=True)
        assert sorted(type(end).__name__ for end in ends) == ["UnresolvedJobsError", "list"]

    replay(script)


def test_a_step_that_is_cancelled_loses_no_snapshot(replay):
    async def script():
        feed = make_feed("a")
        watch = Watch(feed, Owner())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await anext(watch)
        feed.take(snapshot("a"))
        assert (await anext(watch)).job_id == "a"

    replay(script)
