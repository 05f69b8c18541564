"""The request budget with a simulated service: minutes of requests in virtual time."""

import asyncio
import logging
import math
from contextlib import suppress
from random import Random

import attrs
import pytest
from amounts import more
from limited_service import LimitedService, TokenBucket
from watching import now

from adepoll.emulator import run
from adepoll.errors import (
    AuthenticationError,
    ClosedError,
    JobNotFoundError,
    PaymentRequiredError,
    PermissionDeniedError,
    RateLimitedError,
    RedirectRefusedError,
    RequestError,
    ServerError,
    StatusError,
    TransportError,
    UnprocessableError,
)
from adepoll.throttling.rate_limiter import RateLimiter
from adepoll.throttling.request_sender import RequestSender
from adepoll.throttling.statistics import ClientStats

STEADY = (0.1, 0.1)
SEEDS = more([0], range(1, 10))


@attrs.define
class Play:
    """Callers that send requests to one service as fast as they can."""

    service: LimitedService
    sender: RequestSender

    async def call_repeatedly(self):
        while True:
            with suppress(RequestError):
                await self.sender.call(self.service.request)


def play(script, *, service=None, callers=64, seconds=300.0, seed=1, **options):
    """Run callers and a script for some virtual time; return what happened."""

    async def main():
        rng = Random(seed)
        it = Play(
            service or LimitedService(), RequestSender(RateLimiter(rng=rng, **options), rng=rng)
        )
        it.service.rng = Random(seed)
        tasks = [asyncio.create_task(script(it))]
        await asyncio.sleep(0)  # the script starts before the first call
        tasks += [asyncio.create_task(it.call_repeatedly()) for _ in range(callers)]
        await asyncio.sleep(seconds)
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(end is None or isinstance(end, asyncio.CancelledError) for end in ended)
        assert it.sender.stats().in_flight == 0
        return it

    return run(main())


async def nothing(it):
    """A script that changes nothing."""


# --- a limit that is not known --------------------------------------------------------------------

SOME_SECONDS = (1.0, 5.0)
LIMITS = {
    "burst 10": LimitedService(TokenBucket(10, 10), SOME_SECONDS),
    "burst 1": LimitedService(TokenBucket(10, 1), SOME_SECONDS, STEADY),
    "burst 10, no Retry-After": LimitedService(TokenBucket(10, 10), None),
    "burst 1, no Retry-After": LimitedService(TokenBucket(10, 1), None, STEADY),
    "burst 100": LimitedService(TokenBucket(10, 100), SOME_SECONDS),
}
USUAL = ("burst 10", "burst 1, no Retry-After")


def fresh(service):
    return attrs.evolve(
        service, limit=TokenBucket(service.limit.rate, service.limit.burst), sent=[], served=[]
    )


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", more(USUAL, [name for name in LIMITS if name not in USUAL]))
def test_an_unknown_limit_is_found_and_kept(name, seed):
    service = LIMITS[name]
    it = play(nothing, service=fresh(service), seed=seed, seconds=600, callers=16)
    stats = it.sender.stats()
    # A bucket of one token saves nothing while the gate is closed or the rate is lower.
    share = 0.84 if service.limit.burst == 1 else 0.9
    assert len(it.service.served) >= share * 10 * 600
    assert stats.throttled < 0.02 * stats.requests
    assert it.service.early == 0
    assert 0.8 * 10 < stats.rate_limit < 1.4 * 10


def test_a_burst_of_one_with_uneven_latency_costs_speed_but_few_429s():
    """Requests sent evenly arrive unevenly, and a bucket of one token has no reserve."""
    it = play(nothing, service=LimitedService(TokenBucket(10, 1), SOME_SECONDS))
    stats = it.sender.stats()
    assert len(it.service.served) >= 0.4 * 10 * 300
    assert stats.throttled < 0.02 * stats.requests
    assert it.service.early == 0


def test_a_lower_limit_is_found_within_20_seconds():
    async def script(it):
        await asyncio.sleep(80)
        it.service.limit = TokenBucket(5, 5)

    it = play(script, service=LimitedService(TokenBucket(50, 50), SOME_SECONDS), seconds=280)
    service = it.service
    assert service.served_between(20, 80) >= 0.85 * 50 * 60
    assert service.sent_between(100, 110) <= 1.3 * 5 * 10
    assert service.served_between(80, 140) >= 0.6 * 5 * 60
    assert service.served_between(140, 280) >= 0.8 * 5 * 140
    assert service.early == 0


def test_a_removed_limit_is_forgotten_within_six_minutes():
    async def script(it):
        await asyncio.sleep(60)
        it.service.limit = None

    service = LimitedService(TokenBucket(3, 3), SOME_SECONDS, STEADY)
    it = play(script, service=service, seconds=400, callers=4)
    assert it.sender.stats().rate_limit is None
    assert service.served_between(390, 400) >= 0.95 * 4 / 0.1 * 10


def test_an_unused_limit_is_not_forgotten():
    """Hours with few requests do not show that a limit is gone."""

    async def script(it):
        greedy = [asyncio.create_task(it.call_repeatedly()) for _ in range(10)]
        await asyncio.sleep(120)
        for task in greedy:
            task.cancel()
        found = it.sender.stats().rate_limit
        for _ in range(1_000):
            await asyncio.sleep(3)
            await it.sender.call(it.service.request)
        assert it.sender.stats().rate_limit == pytest.approx(found, rel=0.1)

    service = LimitedService(TokenBucket(10, 1), SOME_SECONDS, STEADY)
    play(script, service=service, callers=0, seconds=4_000)


def test_max_rate_below_the_limit_avoids_429s():
    it = play(nothing, service=LimitedService(TokenBucket(10, 5)), max_rate=4)
    stats = it.sender.stats()
    assert stats.throttled == 0
    assert stats.rate_limit is None
    assert len(it.service.served) == pytest.approx(4 * 300, rel=0.01)


# --- no limit ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("callers", "wide"), [(64, 64), (400, 256)])
def test_without_a_limit_the_rate_limiter_costs_no_speed(callers, wide):
    it = play(nothing, service=LimitedService(latency=STEADY), callers=callers, seconds=2.5)
    assert it.service.served_between(1.5, 2.5) >= 0.95 * wide / 0.1
    assert it.sender.stats().window >= wide


def test_the_number_of_requests_starts_small_and_grows_with_each_round_trip():
    it = play(nothing, service=LimitedService(latency=STEADY), callers=500, seconds=0.99)
    for trip in range(8):
        sent = it.service.sent_between(0.1 * trip - 0.01, 0.1 * trip + 0.01)
        assert 0.8 * 4 * 1.5**trip <= sent <= 4 * 1.5**trip


def test_sequential_calls_do_not_grow_the_window():
    """Otherwise the first concurrent calls would all be sent at the same time."""

    async def script(it):
        for _ in range(1_000):
            await it.sender.call(it.service.request)
        assert it.sender.stats().window == 4

    play(script, callers=0)


# --- an outage -----------------------------------------------------------------------------------


def in_an_outage(start, end, error):
    return lambda time: error() if start <= time < end else None


OUTAGES = {
    "no connection": lambda: TransportError("connection refused", job_id=None),
    "503": lambda: ServerError(status=503),
}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("error", OUTAGES.values(), ids=OUTAGES)
def test_an_outage_is_probed_with_single_requests_and_ends_without_a_burst(error, seed):
    start, end, trip, wide = 20.0, 140.0, 1.0, 64
    service = LimitedService(latency=(trip, trip), fail=in_an_outage(start, end, error))
    play(nothing, service=service, callers=100, seconds=190, seed=seed, max_connections=wide)
    # Up to 64 are in flight and fail at the start; a few more until the tenth failure arrives.
    assert service.sent_between(start + 2 * trip, end) <= 40
    assert service.sent_between(start, end) <= 2 * wide + 40
    back = min(time for time in service.served if time > end)
    assert back <= end + 30.0 + 2 * trip
    for trips in range(6):  # after the first response: one, two, four ...
        began = back + trips * trip
        assert service.sent_between(began - trip / 2, began + trip / 2) <= 2**trips
    assert service.served_between(back + 14 * trip, back + 18 * trip) >= 0.95 * wide * 4


def test_three_jobs_that_always_fail_do_not_slow_other_calls_down():
    async def script(it):
        async def fail(_at):
            await asyncio.sleep(0.1)
            raise ServerError(status=500)

        async def insist():
            while True:
                with pytest.raises(ServerError):
                    await it.sender.call_once(fail)

        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(insist())

    it = play(script, service=LimitedService(latency=STEADY), callers=20, seconds=12)
    assert it.service.served_between(2, 12) >= 0.95 * 20 / 0.1 * 10


def test_404s_are_not_an_outage():
    async def script(it):
        async def miss(_at):
            await asyncio.sleep(0.1)
            raise JobNotFoundError(status=404)

        for _ in range(50):
            with pytest.raises(JobNotFoundError):
                await it.sender.call(miss)
        assert now() == pytest.approx(5.0, abs=0.1)

    play(script, callers=0, seconds=10)


def test_the_rate_limit_is_remembered_during_an_outage():
    fail = in_an_outage(100.0, 160.0, OUTAGES["503"])
    service = LimitedService(TokenBucket(10, 10), SOME_SECONDS, fail=fail)
    play(nothing, service=service, seconds=300)
    assert service.sent_between(100.0, 160.0) <= 60
    assert service.served_between(200, 300) >= 0.9 * 10 * 100
    assert service.early == 0


def test_an_outage_and_its_end_are_logged_once(caplog):
    service = LimitedService(fail=in_an_outage(2, 17, OUTAGES["503"]))
    play(nothing, service=service, seconds=40, callers=20)
    warnings = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(warnings) == 2
    assert warnings[0].startswith(
        "the service is down: 10 requests in a row failed, the last with: "
    )
    assert warnings[1].startswith("the service works again, after ")


# --- clients that share a budget ------------------------------------------------------------------


def test_senders_with_one_limiter_share_its_limits_and_count_for_themselves():
    async def main():
        service = LimitedService(latency=STEADY)
        limiter = RateLimiter(max_rate=10, rng=Random(1))
        one, two = RequestSender(limiter), RequestSender(limiter)
        calls = [sender.call(service.request) for sender in (one, two, one, two) for _ in range(5)]
        await asyncio.gather(*calls)
        assert service.sent == pytest.approx([0.1 * n for n in range(20)])
        assert one.stats().requests == two.stats().requests == 10

        async def refuse(_at):
            raise RateLimitedError(status=429, retry_after=20.0)

        with suppress(RateLimitedError):
            await one.call_once(refuse)
        await two.call(service.request)
        assert service.sent[-1] >= 22.0
        assert (one.stats().throttled, two.stats().throttled) == (1, 0)

    run(main())


def test_closing_one_sender_ends_its_calls_and_leaves_those_of_others():
    async def main():
        service = LimitedService(latency=STEADY)
        limiter = RateLimiter(max_rate=1, rng=Random(1))
        one, two = RequestSender(limiter), RequestSender(limiter)
        calls = [
            asyncio.create_task(sender.call(service.request))
            for sender in (one, two, one, two, one, two)
        ]
        await asyncio.sleep(0.5)
        one.close()
        ended = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(end) for end in ended] == [type(None), type(None)] + [
            ClosedError,
            type(None),
        ] * 2
        assert service.sent == pytest.approx([0.0, 1.0, 2.0, 3.0])

    run(main())


def test_a_limiter_belongs_to_the_first_loop_that_uses_it():
    limiter = RateLimiter()

    async def call():
        await RequestSender(limiter).call(LimitedService().request)

    run(call())
    with pytest.raises(ClosedError, match="the rate limiter belongs to another event loop"):
        run(call())


# --- one call ------------------------------------------------------------------------------------


def alone(script):
    async def main():
        return await script(RequestSender(RateLimiter(rng=Random(1)), rng=Random(1)))

    return run(main())


def test_a_cancelled_request_frees_its_place_in_the_window():
    async def hang(_at):
        await asyncio.Event().wait()

    async def answer(_at):
        await asyncio.sleep(0.1)

    async def script(sender):
        stuck = [asyncio.create_task(sender.call(hang)) for _ in range(20)]
        await asyncio.sleep(1)
        assert sender.stats().in_flight == sender.stats().window == 4
        for task in stuck:
            task.cancel()
        await asyncio.gather(*stuck, return_exceptions=True)
        assert sender.stats().in_flight == 0
        await sender.call(answer)

    alone(script)


def test_other_exceptions_are_raised_and_not_counted():
    async def script(sender):
        async def wrong(_at):
            raise KeyError("x")

        for _ in range(30):
            with pytest.raises(KeyError):
                await sender.call(wrong)
        stats = sender.stats()
        assert (stats.requests, stats.failures, stats.retries, stats.in_flight) == (30, 0, 0, 0)
        assert now() == 0.0

    alone(script)


def test_closing_ends_waiting_and_later_calls():
    async def script(sender):
        async def refuse(_at):
            raise RateLimitedError(status=429, retry_after=100.0)

        tasks = [asyncio.create_task(sender.call(refuse)) for _ in range(30)]
        await asyncio.sleep(1)
        tasks[20].cancel()
        sender.close()
        tasks[21].cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        kinds = [type(end) for end in ended]
        assert kinds.count(asyncio.CancelledError) == 2
        assert kinds.count(ClosedError) == 28
        with pytest.raises(ClosedError):
            await sender.call(refuse)
        assert now() == 1.0
        assert sender.stats().requests == 1

    alone(script)


@pytest.mark.parametrize("number", [0, -3, math.nan])
def test_an_invalid_number_of_connections_is_refused(number):
    with pytest.raises(ValueError, match="max_connections must be positive"):
        RateLimiter(max_connections=number)


def test_stats_show_what_holds_requests_back():
    async def script(sender):
        assert sender.stats() == ClientStats(
            requests=0,
            retries=0,
            throttled=0,
            failures=0,
            bytes_received=0,
            in_flight=0,
            window=4,
            rate_limit=None,
            retry_budget=50.0,
            gate_closed_for=0.0,
        )

        async def refuse(_at):
            await asyncio.sleep(0.1)
            raise RateLimitedError(status=429, retry_after=10.0)

        with pytest.raises(RateLimitedError):
            await sender.call_once(refuse)
        stats = sender.stats(bytes_received=7)
        assert (stats.requests, stats.throttled, stats.failures) == (1, 1, 1)
        assert (stats.window, stats.bytes_received) == (1, 7)
        assert stats.rate_limit > 0
        assert 10.0 <= stats.gate_closed_for <= 11.0

    alone(script)


@pytest.mark.parametrize(
    ("words", "refused"),
    [
        ([AuthenticationError(status=401)], 401),
        ([PermissionDeniedError(status=403, job_id="a")], 403),
        ([None, PermissionDeniedError(status=403, job_id="a")], None),  # of a key that works
        ([None, PaymentRequiredError(status=402, job_id="a")], 402),
        ([PermissionDeniedError(status=403)], None),  # a list that the key may not have
        ([AuthenticationError(status=401), PermissionDeniedError(status=403)], 401),
        ([AuthenticationError(status=401), ServerError(status=503, job_id="a")], 401),
        ([AuthenticationError(status=401), JobNotFoundError(status=404, job_id="a")], None),
        ([AuthenticationError(status=401), UnprocessableError(status=422, job_id="a")], None),
        ([AuthenticationError(status=401), RedirectRefusedError(status=302, job_id="a")], 401),
        ([AuthenticationError(status=401), JobNotFoundError(status=404)], 401),  # not about a job
        ([AuthenticationError(status=401), None], None),
    ],
)
def test_stats_show_whether_the_key_was_refused_last(words, refused):
    async def script(sender):
        for word in words:

            async def answer(_at, word=word):
                if word is not None:
                    raise word

            with suppress(StatusError):
                await sender.call_once(answer)
        assert sender.stats().refused == refused

    alone(script)


def test_stats_show_an_outage_and_its_end():
    async def script(sender):
        async def fail(_at):
            raise ServerError(status=503)

        async def succeed(_at):
            pass

        for number in range(1, 11):
            with suppress(ServerError):
                await sender.call_once(fail)
            assert sender.stats().failures_in_a_row == number
            assert sender.stats().is_outage == (number == 10)
        await sender.call(succeed)
        assert not sender.stats().is_outage

    alone(script)
