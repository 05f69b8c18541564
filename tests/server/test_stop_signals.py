"""Signals are overheard, and still go where they went before."""

import asyncio
import signal
import threading

import pytest

from adepoll.server.stop_signals import overhearing


@pytest.fixture
def server():
    """A server's own handler of SIGTERM, and what it got."""
    got = []
    before = signal.signal(signal.SIGTERM, lambda number, _frame: got.append(number))
    yield got
    signal.signal(signal.SIGTERM, before)


async def test_both_hear_a_signal(server):
    told = asyncio.Event()
    with overhearing(told.set):
        signal.raise_signal(signal.SIGTERM)
        await told.wait()
    assert server == [signal.SIGTERM]


async def test_several_hear_it_and_the_server_does_once(server):
    told = []
    with overhearing(lambda: told.append(1)), overhearing(lambda: told.append(2)):
        signal.raise_signal(signal.SIGTERM)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert sorted(told) == [1, 2]
    assert server == [signal.SIGTERM]


async def test_the_handler_is_given_back(server):
    own = signal.getsignal(signal.SIGTERM)
    with overhearing(lambda: None):
        assert signal.getsignal(signal.SIGTERM) is not own
    assert signal.getsignal(signal.SIGTERM) is own


async def test_a_handler_that_somebody_put_over_it_stays(server):
    def theirs(*_):
        pass

    with overhearing(lambda: None):
        signal.signal(signal.SIGTERM, theirs)
    assert signal.getsignal(signal.SIGTERM) is theirs


async def test_a_signal_that_nobody_takes_is_left_alone():
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    with overhearing(lambda: None):
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


async def test_another_thread_leaves_signals_alone(server):
    own = signal.getsignal(signal.SIGTERM)
    within = []

    async def overhear():
        with overhearing(lambda: None):
            within.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=asyncio.run, args=(overhear(),))
    thread.start()
    thread.join()
    assert within == [own]


def test_a_signal_after_the_loop_has_ended_goes_to_the_server_alone(server):
    hearing = overhearing(lambda: None)

    async def begin():
        hearing.__enter__()

    asyncio.run(begin())
    signal.raise_signal(signal.SIGTERM)
    hearing.__exit__(None, None, None)
    assert server == [signal.SIGTERM]
