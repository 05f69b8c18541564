"""A request on a stale connection is sent once more, within the request budget; in virtual time."""

import asyncio
from contextlib import suppress
from random import Random

import pytest
from stale import StaleRequest
from watching import now

from adepoll.emulator import run
from adepoll.errors import ClosedError, ServerError, TransportError
from adepoll.throttling.rate_limiter import RateLimiter
from adepoll.throttling.request_sender import RequestSender
from adepoll.watching.turns import Semaphore


def alone(script, **limits):
    async def main():
        return await script(RequestSender(RateLimiter(rng=Random(1), **limits), rng=Random(1)))

    return run(main())


async def answer(_sent):
    """Answer immediately."""


def test_the_request_is_sent_on_a_new_connection_and_shows_nothing_about_the_service():
    async def script(sender):
        request = StaleRequest()
        assert await sender.call_once(request) == "answer"
        assert [sent.is_repeated for sent in request.sent] == [False, True]
        stats = sender.stats()
        assert (stats.requests, stats.retries, stats.failures) == (2, 1, 1)
        assert (stats.failures_in_a_row, stats.in_flight) == (0, 0)
        assert stats.retry_budget == 50

    alone(script)


def test_it_waits_for_its_turn_within_the_rate():
    async def script(sender):
        request = StaleRequest()
        await sender.call_once(request)
        assert request.times == [0.0, 10.0]

    alone(script, max_rate=0.1)


@pytest.mark.parametrize("make", [Semaphore, asyncio.Semaphore])
def test_meanwhile_it_holds_neither_the_window_nor_the_semaphore(make):
    async def script(sender):
        semaphore, first, second = make(1), StaleRequest(), StaleRequest(stale=0)
        async with asyncio.TaskGroup() as group:
            for request in (first, second):
                group.create_task(sender.call_once(request, semaphore=semaphore))
        assert (first.times, second.times) == ([0.0, 2.0], [1.0])

    alone(script, max_connections=1)


def test_it_is_sent_only_once_more():
    async def script(sender):
        request = StaleRequest(stale=9)
        with pytest.raises(TransportError):
            await sender.call_once(request)
        assert len(request.sent) == 2
        stats = sender.stats()
        assert (stats.requests, stats.retries, stats.failures) == (2, 1, 2)
        assert stats.failures_in_a_row == 1

    alone(script)


@pytest.mark.parametrize(("seconds", "requests"), [(5.0, 2), (5.1, 1)])
def test_a_connection_closed_after_five_seconds_is_a_failure(seconds, requests):
    async def script(sender):
        request = StaleRequest(seconds, stale=9)
        with pytest.raises(TransportError):
            await sender.call_once(request)
        assert len(request.sent) == requests
        assert sender.stats().failures_in_a_row == 1

    alone(script)


def test_in_an_outage_the_next_probe_follows_immediately():
    async def script(sender):
        async def fail(_sent):
            raise ServerError(status=502, job_id=None)

        for _ in range(10):
            with suppress(ServerError):
                await sender.call_once(fail)
        assert sender.stats().is_outage
        request = StaleRequest()
        await sender.call_once(request)
        first, second = request.times
        assert second == first + request.seconds
        assert not sender.stats().is_outage

    alone(script)


def test_a_cancelled_call_leaves_nothing_in_flight():
    async def script(sender):
        request = StaleRequest()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await sender.call_once(request)
        assert request.times == [0.0]
        assert sender.stats().in_flight == 0
        await sender.call_once(answer)
        assert now() == 10.0

    alone(script, max_rate=0.1)


def test_a_closed_sender_does_not_send_it_again():
    async def script(sender):
        request = StaleRequest()
        asyncio.get_running_loop().call_later(5, sender.close)
        with pytest.raises(ClosedError):
            await sender.call_once(request)
        assert (request.times, now()) == ([0.0], 5.0)

    alone(script, max_rate=0.1)
