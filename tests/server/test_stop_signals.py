"""A stop signal calls a callback, and the old handler still runs."""

import asyncio
import contextvars
import gc
import signal
import threading
import weakref

import pytest

from adepoll.server.stop_signals import on_stop_signal


@pytest.fixture
def received():
    """The signals that a server's own handler of SIGTERM receives."""
    got = []
    before = signal.signal(signal.SIGTERM, lambda number, _frame: got.append(number))
    yield got
    signal.signal(signal.SIGTERM, before)


async def test_callback_and_old_handler_are_called(received):
    called = asyncio.Event()
    with on_stop_signal(called.set):
        signal.raise_signal(signal.SIGTERM)
        await called.wait()
    assert received == [signal.SIGTERM]


async def test_several_callbacks_are_called_and_the_old_handler_once(received):
    called = []
    with on_stop_signal(lambda: called.append(1)), on_stop_signal(lambda: called.append(2)):
        signal.raise_signal(signal.SIGTERM)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert sorted(called) == [1, 2]
    assert received == [signal.SIGTERM]


async def test_the_old_handler_is_restored(received):
    own = signal.getsignal(signal.SIGTERM)
    with on_stop_signal(lambda: None):
        assert signal.getsignal(signal.SIGTERM) is not own
    assert signal.getsignal(signal.SIGTERM) is own


async def test_blocks_that_end_in_the_order_of_their_beginning_leave_nothing(received):
    own = signal.getsignal(signal.SIGTERM)
    callbacks = [Callback() for _ in range(50)]
    alive = [weakref.ref(callback) for callback in callbacks]
    blocks = [on_stop_signal(callback) for callback in callbacks]
    for block in blocks:
        block.__enter__()
    del callbacks
    for _ in range(50):
        blocks.pop(0).__exit__(None, None, None)
    assert signal.getsignal(signal.SIGTERM) is own
    gc.collect()
    assert [ref for ref in alive if ref() is not None] == []


class Callback:
    def __call__(self):
        pass


async def test_a_callback_runs_without_the_context_that_the_signal_interrupts(received):
    request = contextvars.ContextVar("request", default=None)
    seen = asyncio.get_running_loop().create_future()
    with on_stop_signal(lambda: seen.set_result(request.get())):
        request.set("17")
        signal.raise_signal(signal.SIGTERM)
        assert await seen is None


async def test_a_handler_installed_within_the_block_stays(received):
    def theirs(*_):
        pass

    with on_stop_signal(lambda: None):
        signal.signal(signal.SIGTERM, theirs)
    assert signal.getsignal(signal.SIGTERM) is theirs


async def test_a_signal_without_a_handler_is_left_alone():
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    with on_stop_signal(lambda: None):
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


async def test_another_thread_installs_no_handler(received):
    own = signal.getsignal(signal.SIGTERM)
    within = []

    async def enter():
        with on_stop_signal(lambda: None):
            within.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=asyncio.run, args=(enter(),))
    thread.start()
    thread.join()
    assert within == [own]


def test_a_signal_after_the_end_of_the_loop_calls_the_old_handler_only(received):
    context = on_stop_signal(lambda: None)

    async def begin():
        context.__enter__()

    asyncio.run(begin())
    signal.raise_signal(signal.SIGTERM)
    context.__exit__(None, None, None)
    assert received == [signal.SIGTERM]
