"""RateLimiter around a world in memory: hours of pacing, in virtual time, with the real code."""

import asyncio
import logging
from contextlib import suppress
from random import Random

import attrs
import pytest
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
from adepoll.throttling.stats import ClientStats

LATENCY = (0.02, 0.2)
STEADY = (0.1, 0.1)


@attrs.define
class Play:
    """Greedy callers of one world, each of which asks again as soon as it has its answer."""

    world: World
    limiter: RateLimiter
    source: WorldSource
    job_id: str
    served: list = attrs.field(factory=list)  # when good answers came
    sent: list = attrs.field(factory=list)  # when each request was sent

    async def send(self, at):
        assert at == now()
        self.sent.append(at)
        return await self.source.get_job(self.job_id)

    async def ask_for_ever(self):
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
    """Run callers in a world for some time, and a script beside them; give what came of it."""

    async def main():
        world = World(clock=loop_clock(), seed=seed)
        job_id = world.submit(JobPlan(processing_time=1e9))
        source = WorldSource(world=world, latency=latency, rng=Random(seed), failures=failures)
        limiter = RateLimiter(retry=RetryPolicy(), rng=Random(seed), **options)
        it = Play(world, limiter, source, job_id)
        tasks = [asyncio.create_task(script(it))]
        await asyncio.sleep(0)  # what is there from the beginning is there before the first call
        tasks += [asyncio.create_task(it.ask_for_ever()) for _ in range(callers)]
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
    """The service takes whatever comes."""


# --- a limit that nobody told --------------------------------------------------------------------

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


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("rate", "latency", "options"), LIMITS.values(), ids=LIMITS)
def test_an_unknown_limit_is_found_and_kept(rate, latency, options, seed):
    it = play(limit(**options), seed=seed, latency=latency)
    stats = it.limiter.stats()
    assert len(it.served) >= 0.92 * rate * 600
    assert stats.throttled < 0.02 * stats.requests
    assert it.world.ledger.early == 0
    assert 0.8 * rate < stats.rate_limit < 1.3 * rate


def test_a_burst_of_one_and_answers_that_take_unevenly_long_cost_speed_and_no_refusals():
    """Requests that are sent evenly arrive unevenly, and such a bucket forgives nothing."""
    it = play(limit(rate=10, burst=1, **SOME_SECONDS))
    stats = it.limiter.stats()
    assert len(it.served) >= 0.45 * 10 * 600
    assert stats.throttled < 0.01 * stats.requests
    assert it.world.ledger.early == 0


def test_a_limit_that_falls_is_found_again_at_once():
    async def script(it):
        high = it.world.faults.add("rate-limit", rate=50, burst=50, **SOME_SECONDS)
        await asyncio.sleep(300)
        it.world.faults.remove(high)
        it.world.faults.add("rate-limit", rate=5, burst=5, **SOME_SECONDS)

    it = play(script)
    assert it.served_between(100, 300) >= 0.9 * 50 * 200
    assert it.sent_between(320, 330) <= 1.3 * 5 * 10
    assert it.served_between(300, 360) >= 0.7 * 5 * 60
    assert it.served_between(360, 600) >= 0.85 * 5 * 240
    assert it.world.ledger.early == 0


def test_a_limit_that_is_lifted_is_forgotten_within_some_minutes():
    async def script(it):
        low = it.world.faults.add("rate-limit", rate=10, burst=10, **SOME_SECONDS)
        await asyncio.sleep(120)
        it.world.faults.remove(low)

    it = play(script, seconds=540, latency=STEADY, callers=20)
    assert it.limiter.stats().rate_limit is None
    assert it.served_between(530, 540) >= 0.95 * 20 / 0.1 * 10


def test_what_is_not_asked_for_is_not_learnt():
    """Calm hours under a limit are no sign that it has gone."""

    async def script(it):
        it.world.faults.add("rate-limit", rate=10, burst=1, retry_after="seconds")
        greedy = [asyncio.create_task(it.ask_for_ever()) for _ in range(10)]
        await asyncio.sleep(120)
        for task in greedy:
            task.cancel()
        found = it.limiter.stats().rate_limit
        for _ in range(1_000):
            await asyncio.sleep(3)
            await it.limiter.call(it.send)
        assert it.limiter.stats().rate_limit == pytest.approx(found, rel=0.1)

    play(script, callers=0, seconds=4_000, latency=STEADY)


def test_the_callers_own_rate_holds_beside_the_limit_and_does_not_hide_it():
    it = play(limit(rate=10, burst=5, retry_after="seconds"), max_rate=4)
    stats = it.limiter.stats()
    assert stats.throttled == 0
    assert stats.rate_limit is None
    assert len(it.served) == pytest.approx(4 * 600, rel=0.01)


# --- no limit ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("callers", "wide"), [(64, 64), (400, 256)])
def test_without_a_limit_calls_are_as_fast_as_if_nothing_stood_before_them(callers, wide):
    it = play(no_limit, callers=callers, seconds=6.0, latency=STEADY)
    unpaced = wide / 0.1
    assert it.served_between(2, 6) >= 0.95 * unpaced * 4
    assert it.limiter.stats().window >= wide


def test_the_first_requests_are_few():
    it = play(no_limit, callers=500, seconds=0.99, latency=STEADY)
    for trip in range(6):
        assert it.sent_between(0.1 * trip - 0.01, 0.1 * trip + 0.01) <= 8 * 2**trip


def test_calls_one_after_another_open_no_window():
    """Else the first crowd would be let in at once."""

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


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("error", OUTAGES.values(), ids=OUTAGES)
def test_an_outage_is_met_with_single_requests_and_left_without_a_herd(error, seed):
    start, end, trip = 20.0, 140.0, 1.0
    failures = in_an_outage(start, end, error)
    latency = (trip, trip)
    it = play(no_limit, callers=500, seconds=200, seed=seed, latency=latency, failures=failures)
    # Up to 256 were on the wire, and fail as it begins; a few more before the tenth is heard of.
    assert it.sent_between(start + 2 * trip, end) <= 40
    assert it.sent_between(start, end) <= 2 * 256 + 40
    back = min(time for time in it.served if time > end)
    assert back <= end + 30.0 + 2 * trip
    for trips in range(8):  # after the first answer: one, two, four ...
        began = back + trips * trip
        assert it.sent_between(began - trip / 2, began + trip / 2) <= 2**trips
    assert it.served_between(back + 12 * trip, back + 22 * trip) >= 0.95 * 256 * 10


def test_a_few_jobs_that_fail_for_ever_slow_nobody_down():
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


def test_jobs_that_are_not_there_are_no_outage():
    async def script(it):
        async def miss(_at):
            await asyncio.sleep(0.1)
            raise JobNotFoundError(status=404)

        for _ in range(50):
            with pytest.raises(JobNotFoundError):
                await it.limiter.call(miss)
        assert now() == pytest.approx(5.0, abs=0.1)

    play(script, callers=0, seconds=10)


def test_an_outage_within_a_limit_is_left_at_the_rate_that_was_found():
    failures = in_an_outage(200.0, 260.0, OUTAGES["503"])
    it = play(limit(rate=10, burst=10, **SOME_SECONDS), failures=failures)
    assert it.sent_between(200.0, 260.0) <= 60
    assert it.served_between(300, 600) >= 0.9 * 10 * 300
    assert it.world.ledger.early == 0


def test_an_outage_and_its_end_are_told_once(caplog):
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


def test_a_call_that_is_cancelled_on_the_wire_gives_its_place_back():
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


def test_an_error_of_another_kind_passes_through_and_is_no_news():
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


def test_closing_ends_those_in_line_and_those_who_come_later():
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
def test_a_number_of_connections_that_makes_no_sense_is_refused(number):
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
def test_stats_show_whether_the_key_was_refused_at_the_last_word(words, refused):
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
