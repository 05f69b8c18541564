import asyncio
import math
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from internals import timers

from adepoll.emulator import run
from adepoll.errors import JobNotFoundError, RateLimitedError, ServerError, TransportError
from adepoll.throttling.hosts import Host, Sent
from adepoll.throttling.rate_limiter import RateLimiter
from adepoll.throttling.waiting_times import RetryPolicy


def make_limiter(
    max_rate: float | None = None, retry: RetryPolicy | None = None, seed: int = 1
) -> RateLimiter:
    return RateLimiter(max_rate=max_rate, retry=retry or RetryPolicy(), rng=Random(seed))


def host_of(limiter: RateLimiter) -> Host:
    """Return the host of all requests of a test."""
    return limiter.hosts.get("https://api.test")


def sent_now(limiter: RateLimiter) -> Sent:
    """Return a request that is sent now, even if the limiter does not allow it."""
    limiter._window.sent()
    epoch = limiter._window.epoch
    return Sent(asyncio.get_running_loop().time(), epoch, host_of(limiter), is_probe=False)


def throttle(
    limiter: RateLimiter, retry_after: float | None = None, sent: Sent | None = None
) -> None:
    error = RateLimitedError(status=429, retry_after=retry_after)
    limiter.failed(error, sent or sent_now(limiter))


async def take(limiter: RateLimiter) -> Sent:
    """Start a request as soon as possible, as a client with a free connection does."""
    host = host_of(limiter)
    while (sent := limiter.start(host, await limiter.wait_for_turn(host))) is None:
        pass
    return sent


async def send(limiter: RateLimiter) -> float:
    """Send a request that is withdrawn immediately; return the time at which it was sent."""
    sent = await take(limiter)
    limiter.withdrawn(sent)
    return sent.at


async def send_many(limiter: RateLimiter, count: int) -> list[float]:
    return await asyncio.gather(*(send(limiter) for _ in range(count)))


def gaps(times: list[float]) -> list[float]:
    return [later - earlier for earlier, later in pairwise(sorted(times))]


# --- rate ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_rate", [0, -1, math.inf, math.nan])
def test_an_invalid_max_rate_is_refused_under_its_name(max_rate):
    with pytest.raises(ValueError, match="max_rate must be a positive number or None"):
        make_limiter(max_rate)


@given(st.floats(0.01, 1_000), st.integers(2, 30))
def test_requests_are_one_interval_apart_from_the_start(max_rate, count):
    times = run(send_many(make_limiter(max_rate), count))
    assert times[0] == 0.0
    assert times == sorted(times)
    assert gaps(times) == pytest.approx([1 / max_rate] * (count - 1))


def test_without_a_rate_no_request_waits():
    assert set(run(send_many(make_limiter(), 1_000))) == {0.0}


def test_idle_time_does_not_allow_a_burst():
    async def main():
        limiter = make_limiter(10)
        await send(limiter)
        await asyncio.sleep(100)
        return await send_many(limiter, 5)

    assert run(main()) == pytest.approx([100, 100.1, 100.2, 100.3, 100.4])


def test_a_timer_that_fires_late_does_not_lower_the_rate():
    async def main():
        loop = asyncio.get_running_loop()
        limiter = make_limiter(10)
        sending = asyncio.gather(*(send(limiter) for _ in range(4)))
        await asyncio.sleep(0.05)
        jumping = loop._jumping
        jumping.now += 0.12  # the turn that is due at 0.1 is used at 0.17
        return await sending

    assert run(main()) == pytest.approx([0, 0.17, 0.2, 0.3])


def test_turns_that_wait_for_a_connection_are_not_used_at_the_same_time():
    """Otherwise a service would receive the whole queue after a stall."""

    async def main():
        limiter = make_limiter(10)
        connection = asyncio.Semaphore(1)
        sent = []

        async def request(lasts: float) -> None:
            while True:
                due = await limiter.wait_for_turn(host_of(limiter))
                async with connection:
                    taken = limiter.start(host_of(limiter), due)
                    if taken is None:
                        continue
                    sent.append(taken.at)
                    await asyncio.sleep(lasts)
                    limiter.succeeded(taken)
                    return

        await asyncio.gather(request(10), *(request(0.001) for _ in range(30)))
        return sent

    sent = run(main())
    assert len(sent) == 31
    for start in sent:
        # Ten per second, one because both ends count, and one late interval.
        assert sum(start <= time < start + 1 for time in sent) <= 12


def test_start_refuses_a_turn_that_has_expired():
    async def main():
        limiter = make_limiter(1)
        first, second = (
            await limiter.wait_for_turn(host_of(limiter)),
            await limiter.wait_for_turn(host_of(limiter)),
        )
        assert limiter.start(host_of(limiter), first)
        assert not limiter.start(host_of(limiter), second)
        assert await send(limiter) == 1.0

    run(main())


def test_waiting_callers_are_served_in_order():
    async def main():
        limiter = make_limiter(10)
        served = []

        async def request(n: int) -> None:
            await send(limiter)
            served.append(n)

        await asyncio.gather(*(request(n) for n in range(20)))
        return served

    assert run(main()) == list(range(20))


@given(st.sets(st.integers(0, 9)), st.floats(0, 1))
def test_a_cancelled_caller_does_not_use_a_turn(cancelled, when):
    async def main():
        limiter = make_limiter(10)
        tasks = [asyncio.create_task(send(limiter)) for _ in range(10)]
        await asyncio.sleep(when)
        for n in cancelled:
            tasks[n].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        return [time for time in results if isinstance(time, float)]

    times = run(main())
    assert len(times) >= 10 - len(cancelled)
    assert times == pytest.approx([0.1 * n for n in range(len(times))])


def test_a_caller_cancelled_at_its_turn_does_not_use_it():
    async def main():
        limiter = make_limiter(10)
        first = asyncio.create_task(send(limiter))
        second = asyncio.create_task(send(limiter))
        third = asyncio.create_task(send(limiter))
        asyncio.get_running_loop().call_at(0.1, second.cancel)
        times = await asyncio.gather(first, second, third, return_exceptions=True)
        return times[0], times[2]

    first, third = run(main())
    assert first == 0.0
    assert third <= 0.2 + 1e-9


# --- the 429 gate -------------------------------------------------------------------------------


@given(st.floats(0, 300), st.integers(0, 2**32))
def test_retry_after_is_a_lower_bound_for_all_requests_and_jitter_is_added(retry_after, seed):
    async def main():
        limiter = make_limiter(seed=seed)
        throttle(limiter, retry_after)
        return await send_many(limiter, 20)

    times = run(main())
    assert min(times) >= retry_after
    assert min(times) <= retry_after + 1.0


def test_a_429_without_retry_after_closes_the_gate_for_a_random_time():
    async def main():
        limiter = make_limiter(retry=RetryPolicy(base=1.0, factor=2.0))
        throttle(limiter)
        assert 0 < limiter.gate_opens_at <= 2.0
        assert await send(limiter) == pytest.approx(limiter.gate_opens_at)

    run(main())


def test_the_gate_also_delays_requests_that_already_wait():
    async def main():
        limiter = make_limiter(1)
        asyncio.get_running_loop().call_at(1.5, throttle, limiter, 60.0)
        return await send_many(limiter, 4)

    times = run(main())
    assert times[:2] == [0.0, 1.0]
    assert times[2] >= 61.5


def test_a_later_retry_after_that_ends_sooner_does_not_open_the_gate():
    async def main():
        limiter = make_limiter()
        throttle(limiter, 100.0)
        throttle(limiter, 1.0)
        assert await send(limiter) >= 100.0

    run(main())


def test_after_the_gate_opens_requests_are_sent_one_by_one():
    """Requests at the same time would close it again."""

    async def main():
        limiter = make_limiter()
        throttle(limiter, 10.0)
        return await send_many(limiter, 30)

    assert len(set(run(main()))) == 30


def test_429s_in_a_row_close_the_gate_for_longer_up_to_the_maximum():
    async def main():
        retry = RetryPolicy(base=0.5, factor=2.0, max_wait=30.0)

        def closed_for(closings: int, seed: int) -> float:
            limiter = make_limiter(retry=retry, seed=seed)
            for _ in range(closings):
                throttle(limiter)
            return limiter.gate_opens_at

        for closings in (1, 3, 20):
            bound = min(30.0, 0.5 * 2**closings)
            waits = [closed_for(closings, seed) for seed in range(300)]
            assert max(waits) <= bound
            assert max(waits) > 0.9 * bound

    run(main())


def test_the_gate_works_after_thousands_of_429s():
    async def main():
        limiter = make_limiter(retry=RetryPolicy(base=0.5, factor=10.0, max_wait=30.0))
        loop = asyncio.get_running_loop()
        for _ in range(3_000):
            start = await send(limiter)
            throttle(limiter)
            assert loop.time() <= limiter.gate_opens_at <= start + 30.0

    run(main())


def test_a_success_resets_the_jitter_of_the_gate():
    async def main():
        def closed_for(seed: int) -> float:
            limiter = make_limiter(seed=seed)
            for _ in range(10):
                throttle(limiter)
            limiter.succeeded(sent_now(limiter))
            before = limiter.gate_opens_at
            limiter.gate_opens_at = -math.inf
            throttle(limiter)
            assert before > 0
            return limiter.gate_opens_at

        assert max(closed_for(seed) for seed in range(100)) <= 1.0

    run(main())


def test_429s_to_requests_sent_before_the_gate_closed_count_once():
    async def main():
        def bound_after(answers: int) -> float:
            opens = []
            for seed in range(200):
                limiter = make_limiter(
                    retry=RetryPolicy(base=1.0, factor=10.0, max_wait=1e6), seed=seed
                )
                for sent in [sent_now(limiter) for _ in range(answers)]:
                    throttle(limiter, sent=sent)
                opens.append(limiter.gate_opens_at)
            return max(opens)

        assert bound_after(50) <= 10.0

    run(main())


def test_any_error_with_a_retry_after_closes_the_gate():
    async def main():
        limiter = make_limiter()
        limiter.failed(ServerError(status=503, retry_after=20.0), sent_now(limiter))
        assert await send(limiter) >= 20.0

    run(main())


def test_a_retry_after_of_zero_closes_the_gate_for_at_most_a_second():
    async def main():
        limiter = make_limiter()
        throttle(limiter, 0.0)
        assert await send(limiter) <= 1.0

    run(main())


@pytest.mark.parametrize(
    "error",
    [
        JobNotFoundError(status=404),
        ServerError(status=500),
        TransportError("reset", job_id="j-1"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_other_failures_leave_the_gate_open(error):
    async def main():
        limiter = make_limiter()
        limiter.failed(error, sent_now(limiter))
        assert await send(limiter) == 0.0

    run(main())


def test_an_error_that_is_not_transient_shows_that_the_service_answers():
    async def main():
        limiter = make_limiter(retry=RetryPolicy(budget=2, refill=1))
        for _ in range(5):
            limiter.failed(ServerError(status=500), sent_now(limiter))
        assert host_of(limiter).outage.failures == 5
        assert limiter.take_retry()
        limiter.failed(JobNotFoundError(status=404), sent_now(limiter))
        found = (host_of(limiter).outage.failures, limiter.in_flight, limiter.retry_budget)
        assert found == (0, 0, 2)

    run(main())


def test_requests_are_spaced_closer_as_the_learnt_rate_grows():
    async def main():
        limiter = make_limiter()
        for _ in range(50):
            limiter.succeeded(await take(limiter))
            await asyncio.sleep(0.1)
        throttle(limiter, 1.0)
        times = []
        learnt = limiter.rate_limit
        for _ in range(100):
            sent = await take(limiter)
            limiter.succeeded(sent)
            times.append(sent.at)
        assert limiter.rate_limit > 1.5 * learnt
        assert gaps(times)[-1] == pytest.approx(1 / limiter.rate_limit, rel=0.05)

    run(main())


# --- the retry budget ---------------------------------------------------------------------------


def succeed(limiter):
    limiter._window.sent()
    limiter.succeeded(Sent(0.0, limiter._window.epoch, host_of(limiter), is_probe=False, task=None))


def test_retries_empty_the_budget_and_successes_refill_it():
    limiter = make_limiter(retry=RetryPolicy(budget=3, refill=0.5))
    assert [limiter.take_retry() for _ in range(5)] == [True, True, True, False, False]
    assert limiter.retry_budget == 0
    succeed(limiter)
    assert not limiter.take_retry()
    succeed(limiter)
    assert limiter.take_retry()
    assert not limiter.take_retry()


def test_the_retry_budget_never_exceeds_its_start():
    limiter = make_limiter(retry=RetryPolicy(budget=2, refill=1.5))
    for _ in range(100):
        succeed(limiter)
    assert limiter.retry_budget == 2


def test_no_budget_means_no_retry():
    assert not make_limiter(retry=RetryPolicy(budget=0)).take_retry()


@given(st.lists(st.booleans(), max_size=300))
def test_retries_never_exceed_the_budget_and_the_share_of_successes(outcomes):
    policy = RetryPolicy(budget=5, refill=0.2)
    limiter = make_limiter(retry=policy)
    retries = successes = 0
    for success in outcomes:
        if success:
            succeed(limiter)
            successes += 1
        else:
            retries += limiter.take_retry()
        assert retries <= policy.budget + policy.refill * successes + 1e-6


def test_a_caller_need_not_wait_if_there_is_room_beside_a_woken_caller():
    async def main() -> None:
        limiter = RateLimiter(max_rate=None, retry=RetryPolicy(), rng=Random(1), max_connections=2)
        first, second = await take(limiter), await take(limiter)
        waiter = asyncio.create_task(take(limiter))
        await asyncio.sleep(0)
        assert limiter.ready(host_of(limiter)) is None
        limiter.succeeded(first)  # the waiting caller is woken, and has not continued yet
        assert limiter.ready(host_of(limiter)) is None  # the room belongs to the woken caller
        limiter.succeeded(second)
        assert limiter.ready(host_of(limiter)) is not None
        await waiter

    run(main())


def test_a_caller_waits_behind_a_woken_caller_if_there_is_a_rate():
    async def main() -> None:
        limiter = make_limiter(max_rate=10.0)
        await send(limiter)
        waiter = asyncio.create_task(send(limiter))
        await asyncio.sleep(0.05)
        seen = []
        assert limiter._timer is not None
        # In the same step of the loop as the timer, and before the caller that it wakes.
        asyncio.get_running_loop().call_at(
            math.nextafter(limiter._timer.when(), math.inf),
            lambda: seen.append((limiter.hosts.woken, limiter.ready(host_of(limiter)))),
        )
        await waiter
        assert seen == [(1, None)]

    run(main())


# --- at the bounds ------------------------------------------------------------------------------


class Longest(Random):
    """A source of jitter that always chooses the longest one."""

    def uniform(self, _low: float, high: float) -> float:
        return high


def exact_limiter(max_rate: float | None = None, **options: float) -> RateLimiter:
    return RateLimiter(max_rate=max_rate, retry=RetryPolicy(**options), rng=Longest())


@pytest.mark.parametrize(
    ("retry_after", "opens_at"),
    [(0.0, 0.1), (0.5, 0.6), (1.0, 1.1), (20.0, 22.0), (None, 2.0), (100.0, 102.0)],
)
def test_the_jitter_of_a_429_is_a_tenth_of_retry_after_or_that_of_the_policy(retry_after, opens_at):
    """At least a tenth of a second, and at most the jitter of the first 429: twice the base."""

    async def main():
        limiter = exact_limiter(base=1.0, factor=2.0)
        throttle(limiter, retry_after)
        assert limiter.gate_opens_at == pytest.approx(opens_at)

    run(main())


@pytest.mark.parametrize(("retry_after", "opens_at"), [(0.5, 0.6), (20.0, 22.0), (100.0, 110.0)])
def test_a_retry_after_without_a_429_closes_the_gate_of_its_host(retry_after, opens_at):
    async def main():
        limiter = exact_limiter()
        limiter.failed(ServerError(status=503, retry_after=retry_after), sent_now(limiter))
        host = host_of(limiter)
        assert host.gate_opens_at == pytest.approx(opens_at)
        assert limiter.gate_opens_at == -math.inf
        assert limiter.gate_closed_for == 0.0, "the limiter belongs to no loop yet"
        limiter.bind(asyncio.get_running_loop())
        assert limiter.gate_closed_for == pytest.approx(opens_at)
        limiter.failed(ServerError(status=503, retry_after=0.0), sent_now(limiter))
        assert host.gate_opens_at == pytest.approx(opens_at), "it does not open earlier"
        other = limiter.hosts.get("https://other.test")
        assert await limiter.wait_for_turn(other) <= 0.0
        assert limiter.start(other, 0.0) is not None

    run(main())


def test_the_gates_are_closed_until_the_last_one_opens():
    async def main():
        limiter = exact_limiter(base=1.0, factor=2.0)
        limiter.bind(asyncio.get_running_loop())
        assert limiter.gate_closed_for == 0.0
        throttle(limiter, 5.0)
        assert limiter.gate_closed_for == pytest.approx(5.5)
        limiter.failed(ServerError(status=503, retry_after=3.0), sent_now(limiter))
        assert limiter.gate_closed_for == pytest.approx(5.5)
        limiter.failed(ServerError(status=503, retry_after=10.0), sent_now(limiter))
        assert limiter.gate_closed_for == pytest.approx(11.0)
        await asyncio.sleep(4.0)
        assert limiter.gate_closed_for == pytest.approx(7.0)
        await asyncio.sleep(8.0)
        assert limiter.gate_closed_for == 0.0

    run(main())


@pytest.mark.parametrize(
    ("base", "max_wait", "bounds"), [(1.0, 5.0, [2, 4, 5]), (9.0, 4.0, [4, 4])]
)
def test_the_jitter_grows_with_each_429_up_to_the_longest_wait(base, max_wait, bounds):
    async def main():
        limiter = exact_limiter(base=base, factor=2.0, max_wait=max_wait)
        for bound in bounds:
            throttle(limiter)
            assert limiter.gate_opens_at == pytest.approx(bound)

    run(main())


def test_a_429_of_an_earlier_request_closes_the_gate_but_shows_nothing_new():
    async def main():
        limiter = exact_limiter(base=1.0, factor=2.0)
        first, second = sent_now(limiter), sent_now(limiter)
        throttle(limiter, sent=first)
        rate, window = limiter.rate_limit, limiter.window
        throttle(limiter, 50.0, sent=second)
        assert limiter.gate_opens_at == pytest.approx(52.0)  # with the jitter of one 429
        assert (limiter.rate_limit, limiter.window) == (rate, window)
        assert limiter.in_flight == 0

    run(main())


def test_successes_of_an_earlier_epoch_are_not_counted_for_the_rate_or_the_jitter():
    async def main():
        limiter = exact_limiter(base=1.0, factor=2.0)
        earlier = sent_now(limiter)
        throttle(limiter)
        limiter.succeeded(earlier)
        limiter.gate_opens_at = -math.inf
        throttle(limiter)
        assert limiter.gate_opens_at == pytest.approx(4.0), "the jitter was not reset"
        limiter.succeeded(sent_now(limiter))
        limiter.gate_opens_at = -math.inf
        throttle(limiter)
        assert limiter.gate_opens_at == pytest.approx(2.0)

    run(main())


@pytest.mark.parametrize(("budget", "available"), [(0.99, False), (1.0, True)])
def test_a_retry_needs_a_whole_retry_of_the_budget(budget, available):
    limiter = exact_limiter(budget=budget)
    assert limiter.take_retry() is available
    assert limiter.retry_budget == (0.0 if available else budget)


def test_a_budget_shows_its_requests_and_its_window():
    async def main():
        limiter = exact_limiter()
        sent = [sent_now(limiter) for _ in range(3)]
        assert (limiter.in_flight, limiter.window, limiter.rate_limit) == (3, 4, None)
        for one in sent:
            limiter.withdrawn(one)
        assert limiter.in_flight == 0
        assert RateLimiter(max_connections=2).window == 2
        with pytest.raises(ValueError, match="max_connections must be positive"):
            RateLimiter(max_connections=0)
        RateLimiter(max_connections=1, max_rate=1e-6)

    run(main())


async def answered(limiter: RateLimiter, seconds: float) -> float:
    """Send a request as soon as possible; after `seconds` it succeeds. Return when it was sent."""
    sent = await take(limiter)
    await asyncio.sleep(seconds)
    limiter.succeeded(sent)
    return sent.at


@pytest.mark.parametrize(("count", "delay"), [(4, 3.0), (7, 3.0), (8, 6.0)])
def test_requests_without_a_response_delay_others_for_three_seconds(count, delay):
    async def main():
        limiter = exact_limiter()
        hanging = [asyncio.create_task(take(limiter)) for _ in range(count)]
        quick = [asyncio.create_task(answered(limiter, 0.1)) for _ in range(20)]
        sent_at = await asyncio.gather(*quick)
        assert (sent_at[0], max(sent_at) < delay + 2.5) == (delay, True)
        assert [(await task).at for task in hanging] == [0.0] * 4 + [3.0] * (count - 4)
        assert limiter.in_flight == count

    run(main())


def test_callers_that_stop_waiting_for_a_silent_host_leave_no_timer():
    async def main():
        limiter = exact_limiter()
        for _ in range(4):
            await take(limiter)
        waiting = asyncio.create_task(take(limiter))
        await asyncio.sleep(1)
        assert timers()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert not timers()
        assert (await take(limiter)).at == 3.0

    run(main())


def test_the_window_grows_although_each_answer_takes_long():
    async def main():
        limiter = exact_limiter()
        limiter.bind(asyncio.get_running_loop())
        await asyncio.gather(*[answered(limiter, 10.0) for _ in range(60)])
        assert limiter.window > 20

    run(main())


def test_a_429_that_takes_long_is_not_overlooked():
    async def main():
        limiter = exact_limiter()
        first = [await take(limiter) for _ in range(4)]
        await take(limiter)  # after 3 s, because the first four requests got no response
        throttle(limiter, retry_after=5.0, sent=first[0])
        assert limiter.window == 1
        assert limiter.rate_limit is not None

    run(main())


def test_a_slow_host_may_use_half_of_the_window():
    async def main():
        limiter = exact_limiter()
        slow, other = host_of(limiter), limiter.hosts.get("https://other.test")
        slow.slow_down(asyncio.get_running_loop().time())
        limiter.hosts.hold_back(slow)
        now = asyncio.get_running_loop().time()
        sent = [limiter.start(slow, now) for _ in range(3)]
        assert [one is not None for one in sent] == [True, True, False]
        assert limiter.start(other, now) is not None
        limiter.withdrawn(sent[0])
        assert limiter.start(slow, now) is not None

    run(main())


def test_a_request_waits_for_a_host_that_is_held_back_in_the_queue_of_this_host():
    async def main():
        limiter = exact_limiter()
        host = host_of(limiter)
        limiter.failed(ServerError(status=503, retry_after=20.0), sent_now(limiter))
        callers: set = set()
        waiting = asyncio.create_task(limiter.wait_for_turn(host, callers))
        await asyncio.sleep(1.0)
        assert (host.waiting, len(host.held_back), len(callers)) == (1, 1, 1)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert (host.waiting, len(callers), limiter.hosts.woken) == (0, 0, 0)
        waiting = asyncio.create_task(limiter.wait_for_turn(host, callers))
        await asyncio.sleep(1.0)
        (caller,) = callers
        limiter.hosts.release(caller)
        assert await waiting == math.inf
        assert (host.waiting, len(callers), limiter.hosts.woken) == (0, 0, 0)

    run(main())


def test_the_silence_of_a_host_begins_with_its_oldest_request_or_last_response():
    async def main():
        limiter = make_limiter()
        host, since = host_of(limiter), []

        async def note():
            await asyncio.sleep(1.0)
            since.append((host.silent_since, host.in_flight))

        loop = asyncio.get_running_loop()
        limiter.bind(loop)
        began = loop.time()
        first = limiter.start(host, -math.inf)
        await note()
        second = limiter.start(host, -math.inf)
        await note()
        limiter.succeeded(first)
        await note()
        limiter.withdrawn(second)
        await note()
        limiter.start(host, -math.inf)
        await note()
        assert [(at - began, count) for at, count in since] == [
            (0.0, 1),
            (0.0, 2),
            (2.0, 1),
            (2.0, 0),
            (4.0, 1),
        ]

    run(main())


def test_a_request_in_an_outage_is_a_probe():
    async def main():
        now = asyncio.get_running_loop().time
        limiter = make_limiter()
        host = host_of(limiter)
        earlier = limiter.start(host, -math.inf)
        for number in range(10):
            error = ServerError(status=502, job_id=f"j-{number}")
            limiter.failed(error, limiter.start(host, -math.inf))
        assert not earlier.is_probe
        await asyncio.sleep(host.outage.probe_at - now())
        probe = limiter.start(host, now())
        assert probe.is_probe
        assert host.outage.probe_at == now() + 30.0, "the next one waits for its end, 30 s at most"
        await asyncio.sleep(2.0)
        limiter.withdrawn(probe)
        assert host.outage.probe_at == now()
        assert limiter.start(host, now()).is_probe
        await asyncio.sleep(1.0)
        limiter.withdrawn(earlier)
        assert host.outage.probe_at == now() + 29.0

    run(main())
