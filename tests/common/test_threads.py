"""Threads: blocking work whose result is never lost, and items that a thread passes on."""

import asyncio
import concurrent.futures
import gc
import threading
from functools import partial

import pytest

from adepoll.common.threads import (
    is_thread_limit,
    items_of_thread,
    run_in_thread,
    start_in_thread,
    start_thread,
    wait_until_done,
)


class NoThread(concurrent.futures.Executor):
    """An executor that cannot start a thread; with `queues`, it has queued the work before."""

    def __init__(self, message, *, queues=False):
        self.message = message
        self.queued = [] if queues else None

    def submit(self, work, *args):
        if self.queued is not None:
            self.queued.append(partial(work, *args))
        raise RuntimeError(self.message)


def use(executor):
    asyncio.get_running_loop()._default_executor = executor


async def test_work_without_a_thread_is_done_by_the_caller():
    use(NoThread("can't start new thread"))
    assert await run_in_thread(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await run_in_thread(divmod, 7, 0)


async def test_work_that_was_queued_before_a_thread_was_missing_is_done_once():
    executor, calls = NoThread("can't start new thread at all", queues=True), []
    use(executor)
    work = start_in_thread(calls.append, 1)
    (queued,) = executor.queued
    queued()
    await work
    assert calls == [1]


@pytest.mark.parametrize("queued", [False, True])
async def test_another_error_of_the_executor_is_raised(queued):
    calls = []
    use(NoThread("cannot schedule new futures after shutdown", queues=queued))
    with pytest.raises(RuntimeError, match="after shutdown"):
        start_in_thread(calls.append, 1)
    assert calls == []


@pytest.mark.parametrize(
    ("message", "is_limit"),
    [("can't start new thread", True), ("can't start new thread: x", True), ("no", False)],
)
def test_the_limit_of_threads_is_recognised_by_its_message(message, is_limit):
    assert is_thread_limit(RuntimeError(message)) is is_limit


@pytest.mark.parametrize("end", ["result", "error", "cancelled"])
@pytest.mark.parametrize("cancelled", [False, True])
def test_a_wait_ends_when_the_work_is_done_and_raises_only_its_own_cancellation(end, cancelled):
    logged = []

    async def main():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _loop, context: logged.append(context))
        work = loop.create_future()
        waiting = asyncio.create_task(wait_until_done(work))
        await asyncio.sleep(0)
        for _ in range(2 * cancelled):
            waiting.cancel()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert not waiting.done()
        if end == "result":
            work.set_result(None)
        elif end == "error":
            work.set_exception(ZeroDivisionError())
        else:
            work.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled() is cancelled
        assert cancelled or waiting.exception() is None

    asyncio.run(main())
    gc.collect()
    assert not logged, "asyncio logs an error that nobody has retrieved"


async def test_work_that_is_done_needs_no_wait():
    work = asyncio.get_running_loop().create_future()
    work.set_result(1)
    await wait_until_done(work)


def test_a_thread_does_not_delay_the_exit_of_the_program():
    thread = start_thread(lambda: None, name="named")
    thread.join()
    assert (thread.daemon, thread.name) == (True, "named")


@pytest.mark.parametrize(
    ("message", "error"), [("can't start new thread", OSError), ("other", RuntimeError)]
)
def test_a_thread_that_cannot_start_is_an_error_of_the_system(monkeypatch, message, error):
    def start(_thread):
        raise RuntimeError(message)

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(error):
        start_thread(print, name="x")


async def collect(produce, *, ahead=2):
    return [item async for item in items_of_thread(produce, ahead=ahead, name="producer")]


async def test_items_of_a_thread_come_in_order_and_may_be_none():
    def produce(put):
        for item in (1, None, "b", ()):
            put(item)

    assert await collect(produce) == [1, None, "b", ()]


@pytest.mark.parametrize("ahead", [1, 3])
async def test_a_thread_passes_on_few_items_that_were_not_taken(ahead):
    passed, waiting = [], threading.Event()

    def produce(put):
        for number in range(10):
            put(number)
            passed.append(number)
            if len(passed) == ahead:
                waiting.set()  # the next call blocks

    items = items_of_thread(produce, ahead=ahead, name="producer")
    assert await anext(items) == 0
    await asyncio.to_thread(waiting.wait)
    taken = [0]
    async for item in items:
        taken.append(item)
        assert len(passed) <= len(taken) + ahead
    assert taken == [*range(10)]


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (ZeroDivisionError("x"), ZeroDivisionError),
        (SystemExit(3), RuntimeError),
        (KeyboardInterrupt(), RuntimeError),
    ],
)
async def test_an_error_of_the_thread_is_raised_after_the_last_item(error, raised):
    def produce(put):
        put(1)
        raise error

    items = items_of_thread(produce, ahead=5, name="producer")
    assert await anext(items) == 1
    with pytest.raises(raised) as caught:
        await anext(items)
    if raised is RuntimeError:
        assert caught.value.__cause__ is error
        assert str(caught.value) == f"it ended with {type(error).__name__}"


@pytest.mark.parametrize("ahead", [1, 2])
async def test_a_thread_ends_with_its_next_item_after_the_generator_was_closed(ahead):
    ended, threads = threading.Event(), []

    def produce(put):
        threads.append(threading.current_thread())
        try:
            while True:
                put(1)
        finally:
            ended.set()

    items = items_of_thread(produce, ahead=ahead, name="producer")
    assert await anext(items) == 1
    await items.aclose()
    await asyncio.to_thread(threads[0].join)
    assert ended.is_set()
    assert (threads[0].name, threads[0].daemon) == ("producer", True)


def test_a_thread_ends_when_its_loop_is_closed():
    threads, produced, go_on = [], [], threading.Event()

    def produce(put):
        threads.append(threading.current_thread())
        put(1)
        go_on.wait()
        for item in (2, 3):
            produced.append(item)
            put(item)

    async def main():
        items = items_of_thread(produce, ahead=5, name="producer")
        await anext(items)
        return items

    loop = asyncio.new_event_loop()
    items = loop.run_until_complete(main())
    loop.close()
    go_on.set()
    threads[0].join()
    assert produced == [2]
    del items
