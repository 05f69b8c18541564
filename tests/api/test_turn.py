"""Requests that the caller's own code sends within the budget of a client, in virtual time."""

import asyncio
from contextlib import AsyncExitStack

import pytest
from watching import now

from adepoll import (
    AdeClient,
    ClosedError,
    ConfigurationError,
    JobKind,
    PaymentRequiredError,
    RateLimitedError,
    RateLimiter,
    ServerError,
    ServiceDownError,
    TransportError,
)
from adepoll.emulator import run

URL = "http://127.0.0.1:9"


def make_client(**options):
    return AdeClient("kp-secret-key", base_url=URL, **options)


def test_turns_are_counted_and_keep_the_rate():
    async def main():
        limiter = RateLimiter(max_rate=2)
        times = []
        async with (
            make_client(rate_limiter=limiter) as one,
            make_client(rate_limiter=limiter) as other,
        ):
            for client in (one, other, one, other):
                async with client.turn():
                    times.append(now())
            assert (one.stats.requests, other.stats.requests) == (2, 2)
            assert one.stats.in_flight == one.stats.failures == 0
        return times

    assert run(main()) == pytest.approx([0.0, 0.5, 1.0, 1.5])


def test_a_block_holds_one_place_among_the_concurrent_requests():
    async def main():
        async with make_client(max_connections=1) as client:

            async def use():
                async with client.turn():
                    assert client.stats.in_flight == 1
                    await asyncio.sleep(3)
                    return now()

            return await asyncio.gather(use(), use())

    assert run(main()) == [3.0, 6.0]


@pytest.mark.parametrize("throttled", [False, True])
def test_a_long_upload_delays_other_requests_for_three_seconds_at_most(throttled):
    """The window has four places at first, and one after a 429."""

    async def main():
        async with make_client() as client:
            if throttled:
                with pytest.raises(RateLimitedError):
                    async with client.turn():
                        raise RateLimitedError(status=429, retry_after=0.0)

            async def upload():
                async with client.turn():
                    begun.append(now())
                    await asyncio.sleep(1_000)

            begun = []
            uploads = [asyncio.create_task(upload()) for _ in range(1 if throttled else 4)]
            await asyncio.sleep(2)
            assert len(begun) == len(uploads)
            async with client.turn():
                assert now() - begun[0] == pytest.approx(3.0)
                assert client.stats.in_flight == len(uploads) + 1
            await asyncio.gather(*uploads)
            assert client.stats.in_flight == 0

    run(main())


@pytest.mark.parametrize("seconds", [3, 30])
def test_a_429_counts_however_long_the_upload_took(seconds):
    async def upload(client):
        async with client.turn():
            await asyncio.sleep(seconds)
            raise RateLimitedError(status=429, retry_after=0.0)

    async def main():
        async with make_client() as client:
            with pytest.raises(RateLimitedError):
                await upload(client)
            return client.stats.window, client.stats.in_flight

    assert run(main()) == (1, 0)


@pytest.mark.parametrize("headers", [{"Retry-After": "30"}, {}])
def test_a_429_closes_the_gate_for_all_requests(headers):
    async def main():
        limiter = RateLimiter()
        async with (
            make_client(rate_limiter=limiter) as creates,
            make_client(rate_limiter=limiter) as polls,
        ):
            with pytest.raises(RateLimitedError) as caught:
                async with creates.turn():
                    raise creates.error_of(429, headers)
            assert polls.stats.gate_closed_for > 0
            assert (creates.stats.throttled, creates.stats.failures) == (1, 1)
            async with polls.turn():
                assert now() >= (caught.value.retry_after or 0)
        return caught.value.retry_after

    assert run(main()) == (30.0 if headers else None)


@pytest.mark.parametrize("error", [RuntimeError("its own"), asyncio.CancelledError()])
def test_any_other_exception_leaves_the_budget_as_it_was(error):
    async def main():
        async with make_client() as client:
            with pytest.raises(type(error)):
                async with client.turn():
                    raise error
            stats = client.stats
        return stats.requests, stats.in_flight, stats.failures, stats.failures_in_a_row

    assert run(main()) == (1, 0, 0, 0)


def test_a_cancelled_block_gives_its_place_to_the_next():
    async def main():
        async with make_client(max_connections=1) as client:

            async def use():
                async with client.turn():
                    await asyncio.sleep(100)

            first, second = asyncio.create_task(use()), asyncio.create_task(use())
            await asyncio.sleep(1)
            first.cancel()
            await second
            return now()

    assert run(main()) == 101.0


def test_closing_the_client_ends_the_wait_for_a_turn():
    async def main():
        client = make_client(max_connections=1)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(client.turn())

            async def use():
                async with client.turn():
                    pass

            waiting = asyncio.create_task(use())
            await asyncio.sleep(1)
            await client.aclose()
            with pytest.raises(ClosedError):
                await waiting

    run(main())


def test_during_an_outage_a_turn_is_waited_for_at_most_outage_wait():
    async def main():
        async with make_client(outage_wait=20) as client:
            for number in range(10):
                with pytest.raises(TransportError):
                    async with client.turn():
                        raise TransportError("no route", job_id=f"job-{number}")
            started = now()

            async def use():
                async with client.turn():
                    await asyncio.sleep(60)

            probe = asyncio.create_task(use())
            await asyncio.sleep(0)
            with pytest.raises(ServiceDownError):
                await use()
            waited = now() - started
            await probe
            assert not client.stats.failures_in_a_row
        return waited

    assert 20 <= run(main()) <= 22


@pytest.mark.parametrize(
    ("status", "cls"), [(402, PaymentRequiredError), (429, RateLimitedError), (503, ServerError)]
)
async def test_an_error_has_the_class_of_its_status_and_no_key(status, cls):
    async with make_client() as client:
        error = client.error_of(status, {}, b'{"message": "kp-secret-key is at its limit"}')
    assert type(error) is cls
    assert "at its limit" in str(error)
    assert "kp-secret-key" not in str(error)


async def fail_turns(client, kind):
    """Begin an outage of the host of a kind."""
    for number in range(10):
        with pytest.raises(ServerError):
            async with client.turn(kind=kind):
                raise ServerError(status=503, job_id=f"job-{number}")


def test_a_turn_waits_only_if_the_host_of_its_kind_is_down():
    async def main():
        async with make_client(v2_base_url="http://127.0.0.1:10", outage_wait=0.0) as client:
            await fail_turns(client, JobKind.V2_PARSE)
            for kind in (None, JobKind.V1_PARSE):
                async with client.turn(kind=kind):
                    assert now() == 0.0
            with pytest.raises(ServiceDownError):
                async with client.turn(kind=JobKind.V2_EXTRACT):
                    pass

    run(main())


def test_kinds_at_the_same_address_are_down_together():
    async def main():
        async with make_client(outage_wait=0.0) as client:
            await fail_turns(client, JobKind.V2_PARSE)
            with pytest.raises(ServiceDownError):
                async with client.turn():
                    pass

    run(main())


def test_a_turn_for_an_unknown_kind_is_refused():
    async def main():
        async with make_client() as client:
            with pytest.raises(ConfigurationError, match="toy-task"):
                client.turn(kind=JobKind("toy-task"))

    run(main())
