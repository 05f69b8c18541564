"""Places of a semaphore, in virtual time: a host that hangs does not keep all of them."""

import asyncio
from contextlib import suppress
from random import Random

import pytest
from internals import timers
from watching import free_slots, now

from adepoll.emulator import run
from adepoll.errors import AnswerTimeoutError
from adepoll.throttling.rate_limiter import RateLimiter
from adepoll.throttling.request_sender import RequestSender
from adepoll.watching.turns import Semaphore


class Wrapped:
    """A wrapper of a semaphore, like those of a watcher; it measures nothing."""

    def __init__(self, semaphore):
        self.places = semaphore

    async def __aenter__(self):
        await self.places.__aenter__()

    async def __aexit__(self, *raised):
        return await self.places.__aexit__(*raised)


class Requests:
    """Requests to the hosts `good` and `bad`, which hold a semaphore."""

    def __init__(self, semaphore):
        self.semaphore = semaphore
        limiter = RateLimiter(rng=Random(1))
        self.sender = RequestSender(limiter, rng=Random(1))
        self.good, self.bad = (limiter.hosts.get(f"https://{name}.test") for name in "ab")
        self.in_flight = {self.good: 0, self.bad: 0}
        self.most = 0
        self.tasks = []

    async def send(self, host, seconds, *, semaphore=None, job_id=None, bytes_every=None):
        """Send a request whose answer takes `seconds`; return for how long it waited."""

        async def answer(sent):
            self.in_flight[host] += 1
            self.most = max(self.most, sum(self.in_flight.values()))
            try:
                while (left := sent.at + seconds - now()) > 0:
                    await asyncio.sleep(min(left, bytes_every or left))
                    sent.heard_at = now() if bytes_every else sent.heard_at
                return sent.at
            finally:
                self.in_flight[host] -= 1

        began = now()
        semaphore = semaphore or self.semaphore
        return await self.sender.call_once(answer, host, semaphore, job_id=job_id) - began

    def start(self, host, seconds, **options):
        task = asyncio.create_task(self.send(host, seconds, **options))
        self.tasks.append(task)
        return task

    async def warm_up(self, count):
        """Make the window of the budget large enough for `count` requests."""
        for _ in range(8):
            await asyncio.gather(*[self.send(self.good, 0.1) for _ in range(count)])

    async def end(self):
        for task in self.tasks:
            task.cancel()
        return await asyncio.gather(*self.tasks, return_exceptions=True)


@pytest.mark.parametrize("make", [Semaphore, asyncio.Semaphore])
def test_a_host_that_hangs_keeps_half_of_the_places(make):
    async def main():
        semaphore = make(8)
        requests = Requests(semaphore)
        await requests.warm_up(8)
        hanging = [requests.start(requests.bad, 30.0, job_id=f"j-{n}") for n in range(20)]
        await asyncio.sleep(0.1)
        assert requests.in_flight == {requests.good: 0, requests.bad: 8}
        assert await requests.send(requests.good, 0.1) <= 3.0
        assert requests.in_flight[requests.bad] == 4
        for _ in range(10):
            waits = await asyncio.gather(*[requests.send(requests.good, 0.1) for _ in range(4)])
            assert max(waits) == 0.0
        assert requests.in_flight[requests.bad] == 4
        assert requests.most == 8
        ended = [task.exception() for task in hanging if task.done()]
        assert [(type(error), error.timeout) for error in ended] == [(AnswerTimeoutError, 3.0)] * 4
        assert str(ended[0]) == "job j-4: no complete answer within 3 s"
        await requests.end()
        assert all(task.cancelled() or task.exception() for task in hanging)
        assert await free_slots(semaphore) == 8 if make is asyncio.Semaphore else True

    run(main())


def test_half_of_the_places_is_enough_for_a_slow_host():
    """No request of a slow host fails after the first ones, and its answers are used."""

    async def main():
        requests = Requests(Semaphore(4))
        await requests.warm_up(4)
        began = now()
        slow = [requests.start(requests.bad, 5.0) for _ in range(12)]
        await asyncio.sleep(0.1)
        while not all(task.done() for task in slow):
            assert await requests.send(requests.good, 0.1) <= 3.0
        failed = [task for task in slow if task.exception()]
        assert len(failed) == 2  # two of the four requests that were in flight first
        assert now() - began == pytest.approx(25.0, abs=0.2)  # ten answers of 5 s by two places
        assert not requests.bad.outage.failures

    run(main())


def test_two_hosts_use_a_single_place_by_turns_while_one_hangs():
    async def main():
        requests = Requests(Semaphore(1))
        for number in range(40):
            requests.start(requests.bad, 30.0, job_id=f"j-{number % 5}")
        await asyncio.sleep(0.1)
        waits = []
        while now() < 300:
            waits.append(await requests.send(requests.good, 0.1))
            await asyncio.sleep(1)
        assert max(waits) <= 10.1
        assert sum(waits) / 300 < 0.35  # the place belongs to the good host for two thirds
        assert requests.bad.is_down
        await requests.end()

    run(main())


def test_a_single_place_is_left_to_a_slow_host_until_it_answers():
    async def main():
        requests = Requests(Semaphore(1))
        answered = 0

        async def poll_again():
            nonlocal answered
            while True:
                with suppress(AnswerTimeoutError):
                    await requests.send(requests.bad, 8.0, job_id="a")
                    answered += 1

        requests.tasks.append(asyncio.create_task(poll_again()))
        await asyncio.sleep(0.1)
        while now() < 150:
            assert await requests.send(requests.good, 0.1) <= 10.1
            await asyncio.sleep(0.1)
        assert answered >= 3
        await requests.end()

    run(main())


def test_any_host_may_hold_all_places_while_both_answer():
    async def main():
        requests = Requests(Semaphore(4))
        await requests.warm_up(4)
        began = now()
        hosts = [requests.good, requests.bad] * 20
        await asyncio.gather(*[requests.send(host, 0.1) for host in hosts])
        assert now() - began == pytest.approx(40 / 4 * 0.1)
        began = now()
        await asyncio.gather(*[requests.send(requests.bad, 2.0) for _ in range(8)])
        assert now() - began == pytest.approx(2 * 2.0)

    run(main())


def test_a_request_that_receives_bytes_is_not_ended():
    async def main():
        requests = Requests(Semaphore(1))
        large = requests.start(requests.bad, 20.0, bytes_every=1.0)
        await asyncio.sleep(0.1)
        assert await requests.send(requests.good, 0.1) == pytest.approx(19.9)
        assert await large == 0.0

    run(main())


def test_a_host_that_was_slow_may_hold_all_places_again_after_a_minute():
    async def main():
        requests = Requests(Semaphore(4))
        await requests.warm_up(8)
        for _ in range(4):
            requests.start(requests.bad, 10.0)
        await asyncio.sleep(0.1)
        await requests.send(requests.good, 0.1)
        await requests.end()
        await asyncio.sleep(61.0)
        await asyncio.gather(*[requests.send(requests.bad, 0.1) for _ in range(4)])
        in_flight = [requests.start(requests.bad, 1.0) for _ in range(4)]
        await asyncio.sleep(0.5)
        assert requests.in_flight[requests.bad] == 4
        await asyncio.gather(*in_flight)

    run(main())


def test_a_wait_of_a_moment_ends_no_request_to_a_slow_host():
    async def main():
        requests = Requests(Semaphore(3))
        await requests.warm_up(4)
        slow = [requests.start(requests.bad, 6.0) for _ in range(2)]
        await asyncio.sleep(4.0)
        requests.start(requests.good, 0.03)
        await asyncio.sleep(0.01)
        assert await requests.send(requests.good, 0.1) == pytest.approx(0.02)
        assert await asyncio.gather(*slow) == [0.0, 0.0]

    run(main())


def test_a_host_that_is_alone_is_never_limited():
    async def main():
        requests = Requests(Semaphore(2))
        await asyncio.gather(*[requests.send(requests.bad, 29.0) for _ in range(6)])
        assert now() == pytest.approx(3 * 29.0)

    run(main())


def test_requests_with_other_semaphores_are_not_ended():
    async def main():
        requests = Requests(Semaphore(1))
        await requests.warm_up(4)
        slow = [requests.start(requests.bad, 20.0, semaphore=Semaphore(1)) for _ in range(3)]
        for _ in range(40):
            await asyncio.gather(*[requests.send(requests.good, 0.1) for _ in range(3)])
        assert await asyncio.gather(*slow) == [0.0] * 3

    run(main())


def test_wrappers_of_one_semaphore_share_its_places():
    async def main():
        requests = Requests(None)
        semaphore = Semaphore(1)
        requests.start(requests.bad, 30.0, semaphore=Wrapped(semaphore))
        await asyncio.sleep(0.1)
        assert await requests.send(requests.good, 0.1, semaphore=Wrapped(semaphore)) <= 3.0
        await requests.end()

    run(main())


def test_a_cancelled_request_stays_cancelled_when_it_is_ended_early():
    async def main():
        requests = Requests(Semaphore(1))
        hanging = requests.start(requests.bad, 30.0)
        await asyncio.sleep(0.1)
        waiting = requests.start(requests.good, 0.1)
        await asyncio.sleep(2.9 - 1e-9)
        hanging.cancel()
        await asyncio.gather(*requests.tasks, return_exceptions=True)
        assert hanging.cancelled()
        assert waiting.result() <= 3.0

    run(main())


def test_callers_that_were_cancelled_leave_no_timer_and_no_place():
    async def main():
        semaphore = asyncio.Semaphore(2)
        requests = Requests(semaphore)
        for _ in range(3):
            requests.start(requests.bad, 30.0)
        await asyncio.sleep(0.1)
        for _ in range(3):
            requests.start(requests.good, 30.0)
        await asyncio.sleep(10)
        await requests.end()
        assert await free_slots(semaphore) == 2
        assert not timers()

    run(main())
