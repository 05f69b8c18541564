"""A stop signal calls a callback, and the old handler still runs."""

import asyncio
import signal
import threading

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
