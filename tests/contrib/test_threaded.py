"""An emulator in its own thread can be used from any thread, and leaves no thread behind."""

import asyncio
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from adepoll import AdeClient
from adepoll.contrib.testing import serve_in_thread
from adepoll.emulator import Emulator, JobPlan


def threads_of_emulators():
    return [t for t in threading.enumerate() if t.name.startswith("adepoll-emulator")]


class Clock:
    """A clock that advances with each call, and records the calling threads."""

    def __init__(self):
        self.threads = set()
        self.ticks = 0

    def __call__(self):
        self.threads.add(threading.get_ident())
        self.ticks += 1
        return 1_750_000_000.0 + self.ticks


def test_it_serves_while_the_calling_thread_blocks():
    with serve_in_thread(Emulator()) as ade:
        job_id = ade.submit(JobPlan())

        async def poll():
            async with AdeClient(ade.api_key, base_url=ade.base_url) as client:
                return await client.get_job(job_id)

        assert asyncio.run(poll()).is_terminal
        assert ade.truth(job_id).polls == 1


async def test_it_serves_a_loop_that_is_already_running():
    with serve_in_thread(Emulator()) as ade:
        async with AdeClient(ade.api_key, base_url=ade.base_url) as client:
            assert (await client.get_job(ade.submit(JobPlan()))).is_terminal


def test_each_access_runs_in_the_emulators_thread():
    clock = Clock()
    with serve_in_thread(Emulator(clock=clock)) as ade:
        (thread,) = threads_of_emulators()
        with ThreadPoolExecutor(8) as pool:
            job_ids = list(pool.map(lambda _: ade.submit(), range(64)))
            list(pool.map(ade.truth, job_ids))
        ade.faults.add("server-error", window=(0.0, 1.0))
        ade.world.now()
        ade.world.page()
        assert clock.threads == {thread.ident}
    assert len(set(job_ids)) == 64


def test_a_generator_is_exhausted_before_it_is_returned():
    with serve_in_thread(Emulator()) as ade:
        first = ade.submit()
        truths = ade.truth.jobs()
        ade.submit()
        assert [truth.job_id for truth in truths] == [first]


def test_the_proxy_reads_and_writes_like_the_emulator():
    emulator = Emulator(seed=3)
    with serve_in_thread(emulator) as ade:
        assert not ade.faults
        fault = ade.faults.add("server-error")
        assert (len(ade.faults), list(ade.faults)) == (1, [fault])
        ade.faults.clear()
        assert not len(ade.faults)
        ade.world.list_lag = 5.0
        assert emulator.world.list_lag == 5.0
        job_id = ade.submit(JobPlan())
        assert [truth.job_id for truth in ade.truth.jobs()] == [job_id]
        assert repr(ade) == repr(emulator)
        assert ade


def test_errors_are_raised_in_the_calling_thread():
    with serve_in_thread(Emulator()) as ade:
        ade.submit(job_id="job-1")
        with pytest.raises(ValueError, match="is taken"):
            ade.submit(job_id="job-1")
        with pytest.raises(KeyError):
            ade.truth("job-2")
        with pytest.raises(AttributeError, match="no_such_thing"):
            _ = ade.no_such_thing
        assert ade.truth("job-1").job_id == "job-1"


def test_code_in_the_emulators_thread_can_use_the_proxy():
    class ReadingClock:
        ade = None

        def __call__(self):
            return 0.0 if self.ade is None else len(self.ade.api_key)

    clock = ReadingClock()
    with serve_in_thread(Emulator(clock=clock)) as ade:
        clock.ade = ade
        assert ade.world.now() == len("emulator-key")


def test_jobs_and_truth_can_be_read_after_the_end():
    with serve_in_thread(Emulator()) as ade:
        job_id = ade.submit(JobPlan())
        address = ade.base_url.removeprefix("http://").split(":")
    assert not threads_of_emulators()
    assert ade.truth(job_id).polls == 0
    assert ade.submit(JobPlan())
    with pytest.raises(RuntimeError, match="not running"):
        _ = ade.base_url
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address[0], int(address[1])), timeout=5)


def test_an_error_in_the_block_is_raised_and_ends_the_thread():
    with pytest.raises(ZeroDivisionError), serve_in_thread(Emulator()):
        _ = 1 / 0
    assert not threads_of_emulators()


def test_a_port_in_use_raises_immediately():
    with (
        serve_in_thread(Emulator()) as ade,
        pytest.raises(OSError, match="in use"),
        serve_in_thread(Emulator(port=int(ade.base_url.rpartition(":")[2]))),
    ):
        pass
    assert not threads_of_emulators()


def test_the_failure_of_the_thread_is_raised():
    class Failing(Emulator):
        def fail(self):
            asyncio.get_running_loop().call_soon(sys.exit, "boom")

    def use_until_it_fails():
        with serve_in_thread(Failing()) as ade:
            ade.fail()
            with suppress(RuntimeError):  # after the thread has ended
                while ade.base_url:
                    pass
            assert ade.submit()

    with pytest.raises(SystemExit, match="boom"):
        use_until_it_fails()
    assert not threads_of_emulators()


def test_an_error_at_the_end_of_the_emulator_is_raised():
    class FailingAtTheEnd(Emulator):
        async def __aexit__(self, *exc_info):
            await super().__aexit__(*exc_info)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), serve_in_thread(FailingAtTheEnd()) as ade:
        assert ade.base_url
