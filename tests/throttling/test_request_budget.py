"""The rate limiter with an emulated service: hours of requests in virtual time."""

import asyncio
import logging
from contextlib import suppress
from random import Random

import attrs
import pytest
from amounts import more
from watching import now

from adepoll.emulator import JobPlan, World, WorldSource, loop_clock, run
from adepoll.errors import (
    AuthenticationError,
    ClosedError,
    JobNotFoundError,
    PermissionDeniedError,
    RateLimitedError,
    RequestError,
    ServerError,
    StatusError,
    TransportError,
)
from adepoll.throttling.rate_limiter import RateLimiter
from adepoll.throttling.retrying import RetryPolicy
from adepoll.throttling.statistics import ClientStats

LATENCY = (0.02, 0.2)
STEADY = (0.1, 0.1)


@attrs.define
class Play:
    """Callers that send requests to one world as fast as they can."""

    world: World
    limiter: RateLimiter
    source: WorldSource
    job_id: str
    served: list = attrs.field(factory=list)  # times of successful responses
    sent: list = attrs.field(factory=list)  # times of all requests

    async def send(self, at):
        assert at == now()
        self.sent.append(at)
        return await self.source.get_job(self.job_id)

    async def call_repeatedly(self):
        while True:
            try:
                await self.limiter.call(self.send)
            except RequestError:
                continue
            self.served.append(now())

    def served_between(self, start, end):
        return sum(start <= time < end for time in self.served)

    def sent_between(self, start, end):
        return sum(start <= time < end for time in self.sent)


def play(script, *, callers=64, seconds=600.0, seed=1, latency=LATENCY, failures=None, **options):
    """Run callers and a script in a world for some virtual time; return what happened."""

    async def main():
        world = World(clock=loop_clock(), seed=seed)
        job_id = world.submit(JobPlan(processing_time=1e9))
        source = WorldSource(world=world, latency=latency, rng=Random(seed), failures=failures)
        limiter = RateLimiter(retry=RetryPolicy(), rng=Random(seed), **options)
        it = Play(world, limiter, source, job_id)
        tasks = [asyncio.create_task(script(it))]
        await asyncio.sleep(0)  # the script starts before the first call
        tasks += [asyncio.create_task(it.call_repeatedly()) for _ in range(callers)]
        await asyncio.sleep(seconds)
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(end is None or isinstance(end, asyncio.CancelledError) for end in ended)
        assert it.limiter.stats().in_flight == 0
        return it

    return run(main())


def limit(**options):
    async def script(it):
        it.world.faults.add("rate-limit", **options)

    return script


async def no_limit(it):
    """A script for a service without a limit."""


# --- a limit that is not known --------------------------------------------------------------------

SOME_SECONDS = {"retry_after": "seconds", "wait_min": 1, "wait_max": 5}
LIMITS = {
    "10/s, burst 10": (10, LATENCY, {"rate": 10, "burst": 10, **SOME_SECONDS}),
    "10/s, burst 1": (10, STEADY, {"rate": 10, "burst": 1, **SOME_SECONDS}),
    "10/s, burst 10, no Retry-After": (10, LATENCY, {"rate": 10, "retry_after": "absent"}),
    "10/s, burst 1, no Retry-After": (
        10,
        STEADY,
        {"rate": 10, "burst": 1, "retry_after": "absent"},
    ),
    "10/s, burst 100": (10, LATENCY, {"rate": 10, "burst": 100, **SOME_SECONDS}),
}


@pytest.mark.parametrize("seed", more([0], [1, 2]))
@pytest.mark.parametrize(("rate", "latency", "options"), LIMITS.values(), ids=LIMITS)
def test_an_unknown_limit_is_found_and_kept(rate, latency, options, seed):
    it = play(limit(**options), seed=seed, latency=latency)
    stats = it.limiter.stats()
    assert len(it.served) >= 0.92 * rate * 600
    assert stats.throttled < 0.02 * stats.requests
    assert it.world.request_log.early == 0
    assert 0.8 * rate < stats.rate_limit < 1.3 * rate


def test_a_burst_of_one_with_uneven_latency_costs_speed_but_few_429s():
    """Requests sent evenly arrive unevenly, and a bucket of one token has no reserve."""
    it = play(limit(rate=10, burst=1, **SOME_SECONDS))
    stats = it.limiter.stats()
    assert len(it.served) >= 0.45 * 10 * 600
    assert stats.throttled < 0.01 * stats.requests
    assert it.world.request_log.early == 0


def test_a_lower_limit_is_found_within_20_seconds():
    async def script(it):
        high = it.world.faults.add("rate-limit", rate=50, burst=50, **SOME_SECONDS)
        await asyncio.sleep(150)
        it.world.faults.remove(high)
        it.world.faults.add("rate-limit", rate=5, burst=5, **SOME_SECONDS)

    it = play(script, seconds=450)
    assert it.served_between(100, 150) >= 0.9 * 50 * 50
    assert it.sent_between(170, 180) <= 1.3 * 5 * 10
    assert it.served_between(150, 210) >= 0.7 * 5 * 60
    assert it.served_between(210, 450) >= 0.85 * 5 * 240
    assert it.world.request_log.early == 0


def test_a_removed_limit_is_forgotten_within_seven_minutes():
    async def script(it):
        low = it.world.faults.add("rate-limit", rate=10, burst=10, **SOME_SECONDS)
        await asyncio.sleep(120)
        it.world.faults.remove(low)

    it = play(script, seconds=540, latency=STEADY, callers=20)
    assert it.limiter.stats().rate_limit is None
    assert it.served_between(530, 540) >= 0.95 * 20 / 0.1 * 10


def test_an_unused_limit_is_not_forgotten():
    """Hours with few requests do not show that a limit is gone."""

    async def script(it):
        it.world.faults.add("rate-limit", rate=10, burst=1, retry_after="seconds")
        greedy = [asyncio.create_task(it.call_repeatedly()) for _ in range(10)]
        await asyncio.sleep(120)
        for task in greedy:
            task.cancel()
        found = it.limiter.stats().rate_limit
        for _ in range(1_000):
            await asyncio.sleep(3)
            await it.limiter.call(it.send)
        assert it.limiter.stats().rate_limit == pytest.approx(found, rel=0.1)

    play(script, callers=0, seconds=4_000, latency=STEADY)


def test_max_rate_below_the_limit_avoids_429s():
    it = play(limit(rate=10, burst=5, retry_after="seconds"), max_rate=4)
    stats = it.limiter.stats()
    assert stats.throttled == 0
    assert stats.rate_limit is None
    assert len(it.served) == pytest.approx(4 * 600, rel=0.01)


# --- no limit ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("callers", "wide"), [(64, 64), (400, 256)])
def test_without_a_limit_the_rate_limiter_costs_no_speed(callers, wide):
    it = play(no_limit, callers=callers, seconds=6.0, latency=STEADY)
    unpaced = wide / 0.1
    assert it.served_between(2, 6) >= 0.95 * unpaced * 4
    assert it.limiter.stats().window >= wide


def test_the_number_of_requests_starts_small_and_doubles():
    it = play(no_limit, callers=500, seconds=0.99, latency=STEADY)
    for trip in range(6):
        assert it.sent_between(0.1 * trip - 0.01, 0.1 * trip + 0.01) <= 8 * 2**trip


def test_sequential_calls_do_not_grow_the_window():
    """Otherwise the first concurrent calls would all be sent at the same time."""

    async def script(it):
        for _ in range(1_000):
            await it.limiter.call(it.send)
        assert it.limiter.stats().window == 8

    play(script, callers=0, latency=STEADY)


# --- an outage -----------------------------------------------------------------------------------


def in_an_outage(start, end, error):
    def failures(_job_id):
        return error() if start <= now() < end else None

    return failures


OUTAGES = {
    "no connection": lambda: TransportError("connection refused", job_id="j-1"),
    "503": lambda: ServerError(status=503),
}


@pytest.mark.parametrize("seed", more([0], [1, 2]))
@pytest.mark.parametrize("error", OUTAGES.values(), ids=OUTAGES)
def test_an_outage_is_probed_with_single_requests_and_ends_without_a_burst(error, seed):
    start, end, trip = 20.0, 140.0, 1.0
    failures = in_an_outage(start, end, error)
    latency = (trip, trip)
    it = play(no_limit, callers=500, seconds=200, seed=seed, latency=latency, failures=failures)
    # Up to 256 are in flight and fail at the start; a few more until the tenth failure arrives.
    assert it.sent_between(start + 2 * trip, end) <= 40
    assert it.sent_between(start, end) <= 2 * 256 + 40
    back = min(time for time in it.served if time > end)
    assert back <= end + 30.0 + 2 * trip
    for trips in range(8):  # after the first response: one, two, four ...
        began = back + trips * trip
        assert it.sent_between(began - trip / 2, began + trip / 2) <= 2**trips
    assert it.served_between(back + 12 * trip, back + 22 * trip) >= 0.95 * 256 * 10


def test_three_jobs_that_always_fail_do_not_slow_other_calls_down():
    async def script(it):
        async def fail(_at):
            await asyncio.sleep(0.1)
            raise ServerError(status=500)

        async def insist():
            while True:
                with pytest.raises(ServerError):
                    await it.limiter.call(fail, attempts=1)

        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(insist())

    it = play(script, callers=20, seconds=60, latency=STEADY)
    assert it.served_between(2, 60) >= 0.95 * 20 / 0.1 * 58


def test_404s_are_not_an_outage():
    async def script(it):
        async def miss(_at):
            await asyncio.sleep(0.1)
            raise JobNotFoundError(status=404)

        for _ in range(50):
            with pytest.raises(JobNotFoundError):
                await it.limiter.call(miss)
        assert now() == pytest.approx(5.0, abs=0.1)

    play(script, callers=0, seconds=10)


def test_the_rate_limit_is_remembered_during_an_outage():
    failures = in_an_outage(200.0, 260.0, OUTAGES["503"])
    it = play(limit(rate=10, burst=10, **SOME_SECONDS), failures=failures)
    assert it.sent_between(200.0, 260.0) <= 60
    assert it.served_between(300, 600) >= 0.9 * 10 * 300
    assert it.world.request_log.early == 0


def test_an_outage_and_its_end_are_logged_once(caplog):
    play(no_limit, failures=in_an_outage(5, 20, OUTAGES["503"]), seconds=60, callers=50)
    warnings = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(warnings) == 2
    assert warnings[0].startswith("10 requests in a row failed, the last with: ")
    assert warnings[1].startswith("the service answers again, after ")


# --- one call ------------------------------------------------------------------------------------


def alone(script):
    async def main():
        return await script(RateLimiter(retry=RetryPolicy(), rng=Random(1)))

    return run(main())


def test_a_cancelled_request_frees_its_place_in_the_window():
    async def hang(_at):
        await asyncio.Event().wait()

    async def answer(_at):
        await asyncio.sleep(0.1)

    async def script(limiter):
        stuck = [asyncio.create_task(limiter.call(hang)) for _ in range(20)]
        await asyncio.sleep(1)
        assert limiter.stats().in_flight == limiter.stats().window == 8
        for task in stuck:
            task.cancel()
        await asyncio.gather(*stuck, return_exceptions=True)
        assert limiter.stats().in_flight == 0
        await limiter.call(answer)

    alone(script)


def test_other_exceptions_are_raised_and_not_counted():
    async def script(limiter):
        async def wrong(_at):
            raise KeyError("x")

        for _ in range(30):
            with pytest.raises(KeyError):
                await limiter.call(wrong)
        stats = limiter.stats()
        assert (stats.requests, stats.failures, stats.retries, stats.in_flight) == (30, 0, 0, 0)
        assert now() == 0.0

    alone(script)


def test_closing_ends_waiting_and_later_calls():
    async def script(limiter):
        async def refuse(_at):
            raise RateLimitedError(status=429, retry_after=100.0)

        tasks = [asyncio.create_task(limiter.call(refuse)) for _ in range(30)]
        await asyncio.sleep(1)
        tasks[20].cancel()
        limiter.close()
        tasks[21].cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        kinds = [type(end) for end in ended]
        assert kinds.count(asyncio.CancelledError) == 2
        assert kinds.count(ClosedError) == 28
        with pytest.raises(ClosedError):
            await limiter.call(refuse)
        assert now() == 1.0
        assert limiter.stats().requests == 1

    alone(script)


@pytest.mark.parametrize("number", [0, -3])
def test_an_invalid_number_of_connections_is_refused(number):
    with pytest.raises(ValueError, match="max_connections must be positive"):
        RateLimiter(retry=RetryPolicy(), rng=Random(1), max_connections=number)


def test_stats_show_what_holds_requests_back():
    async def script(limiter):
        assert limiter.stats() == ClientStats(
            requests=0,
            retries=0,
            throttled=0,
            failures=0,
            bytes_received=0,
            in_flight=0,
            window=8,
            rate_limit=None,
            retry_budget=50.0,
            gate_closed_for=0.0,
        )

        async def refuse(_at):
            await asyncio.sleep(0.1)
            raise RateLimitedError(status=429, retry_after=10.0)

        with pytest.raises(RateLimitedError):
            await limiter.call(refuse, attempts=1)
        stats = limiter.stats(bytes_received=7)
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
        ([PermissionDeniedError(status=403)], None),  # a list that the key may not have
        ([AuthenticationError(status=401), PermissionDeniedError(status=403)], 401),
        ([AuthenticationError(status=401), ServerError(status=503, job_id="a")], 401),
        ([AuthenticationError(status=401), JobNotFoundError(status=404, job_id="a")], None),
        ([AuthenticationError(status=401), None], None),
    ],
)
def test_stats_show_whether_the_key_was_refused_last(words, refused):
    async def script(limiter):
        for word in words:

            async def answer(_at, word=word):
                if word is not None:
                    raise word

            with suppress(StatusError):
                await limiter.call(answer, attempts=1)
        assert limiter.stats().refused == refused

    alone(script)


def test_stats_show_an_outage_and_its_end():
    async def script(limiter):
        async def fail(_at):
            raise ServerError(status=503)

        async def succeed(_at):
            pass

        for number in range(1, 11):
            with suppress(ServerError):
                await limiter.call(fail, attempts=1)
            assert limiter.stats().failures_in_a_row == number
            assert limiter.stats().is_outage == (number == 10)
        await limiter.call(succeed)
        assert not limiter.stats().is_outage

    alone(script)
