"""What failures mean for the request budget, in virtual time."""

import asyncio
from contextlib import suppress
from random import Random

import pytest
from internals import timers
from watching import now

from adepoll.emulator import run
from adepoll.errors import (
    AnswerTimeoutError,
    AuthenticationError,
    ClosedError,
    ConnectionFailedError,
    JobNotFoundError,
    MalformedAnswerError,
    PermissionDeniedError,
    ProxyError,
    ProxyRefusedError,
    RateLimitedError,
    ServerError,
    ServiceDownError,
)
from adepoll.throttling.rate_limiter import RateLimiter
from adepoll.throttling.request_sender import RequestSender
from adepoll.throttling.waiting_times import RetryPolicy


def alone(script):
    async def main():
        return await script(RequestSender(RateLimiter(rng=Random(1)), rng=Random(1)))

    return run(main())


def failing(job_id):
    async def fail(_at):
        raise ServerError(status=502, job_id=job_id)

    return fail


async def fail_ten_times(sender, host):
    """Cause an outage of a host: ten failed requests about ten jobs."""
    for number in range(10):
        with suppress(ServerError):
            await sender.call_once(failing(f"j-{number}"), host)


async def answer(_at):
    """Answer immediately."""


def test_malformed_answers_are_not_an_outage():
    async def script(sender):
        async def confuse(_at):
            raise MalformedAnswerError(["no JSON @ $"], job_id="a")

        for _ in range(50):
            with suppress(MalformedAnswerError):
                await sender.call_once(confuse)
        assert now() == 0.0
        assert sender.stats().failures_in_a_row == 0
        assert not sender.stats().is_outage

    alone(script)


def test_jobs_that_fail_while_others_succeed_do_not_slow_down_others():
    async def script(sender):
        for _ in range(20):
            for number in range(12):
                with suppress(ServerError):
                    await sender.call_once(failing(f"bad-{number}"))
            await sender.call_once(answer)
        assert now() < 3.0  # only the first round can be taken for an outage

    alone(script)


def test_a_single_job_is_no_outage_of_the_service():
    async def script(sender):
        for _ in range(100):
            with suppress(ServerError):
                await sender.call_once(failing("a"))
        assert sender.stats().failures_in_a_row == 100
        assert not sender.stats().is_outage
        await sender.call_once(answer)
        assert now() == 0.0

    alone(script)


@pytest.mark.parametrize("outage_wait", [0.0, 5.0])
def test_a_call_gives_up_while_the_service_is_down_and_says_why(outage_wait):
    async def main():
        sender = RequestSender(RateLimiter(rng=Random(1)), rng=Random(1), outage_wait=outage_wait)
        polls = [
            asyncio.create_task(sender.call_once(failing(f"job-{number}"))) for number in range(90)
        ]
        await asyncio.sleep(1)
        assert sender.stats().is_outage
        started = now()
        with pytest.raises(ServiceDownError) as caught:
            await sender.call(answer)
        assert now() <= started + outage_wait + 1
        assert isinstance(caught.value.cause, ServerError)
        assert "the service is down: 1" in str(caught.value)
        assert "502" in str(caught.value)
        for poll in polls:
            poll.cancel()
        await asyncio.gather(*polls, return_exceptions=True)
        await asyncio.sleep(60)
        await sender.call(answer)

    run(main())


def test_a_call_waits_as_long_as_necessary_while_the_service_is_up():
    async def main():
        limiter = RateLimiter(max_rate=0.1, rng=Random(1))
        sender = RequestSender(limiter, rng=Random(1), outage_wait=5.0)
        await asyncio.gather(*(sender.call(answer) for _ in range(4)))
        assert now() == pytest.approx(30.0)

    run(main())


def test_calls_that_wait_give_up_when_an_outage_begins():
    async def main():
        sender = RequestSender(RateLimiter(max_rate=1, rng=Random(1)), outage_wait=5.0)
        polls = [asyncio.create_task(sender.call_once(failing(f"j-{n}"))) for n in range(10)]
        await asyncio.sleep(0)
        calls = [asyncio.create_task(sender.call(answer)) for _ in range(100)]
        ended = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(end) for end in ended} == {ServiceDownError}
        assert now() == pytest.approx(9.0)  # the tenth poll begins the outage
        await asyncio.gather(*polls, return_exceptions=True)

    run(main())


def test_calls_that_wait_set_no_timer_each():
    async def main():
        sender = RequestSender(RateLimiter(max_rate=1, rng=Random(1)), outage_wait=5.0)
        loop = asyncio.get_running_loop()
        timers = []
        call_at = loop.call_at
        loop.call_at = lambda *args, **options: timers.append(args) or call_at(*args, **options)
        calls = [asyncio.create_task(sender.call(answer)) for _ in range(100)]
        await asyncio.sleep(0.5)
        assert len(timers) <= 3  # one of them is that of the sleep
        for call in calls:
            call.cancel()

    run(main())


@pytest.mark.parametrize("cls", [AuthenticationError, PermissionDeniedError])
def test_a_refusal_of_a_key_that_has_worked_is_repeated(cls):
    async def script(sender):
        ends = iter([None, cls(status=401, job_id="a"), None])

        async def respond(_at):
            if (error := next(ends)) is not None:
                raise error

        await sender.call(respond)
        await sender.call(respond)
        assert sender.stats().retries == 1

    alone(script)


def test_the_first_connection_failure_is_logged_and_then_at_most_one_each_minute(caplog):
    async def script(sender):
        for number in range(30):

            async def fail(_at, job_id=f"job-{number}"):
                raise ConnectionFailedError("cannot connect: no such host", job_id=job_id)

            with suppress(ConnectionFailedError):
                await sender.call_once(fail)
            assert "no such host" in sender.stats().last_failure
            await sender.call_once(answer)
            assert sender.stats().last_failure is None
            await asyncio.sleep(3)

    alone(script)
    assert [record.getMessage() for record in caplog.records] == [
        f"the service does not respond, trying again: {job_id}: cannot connect: no such host"
        for job_id in ("job job-0", "job job-20")
    ]


@pytest.mark.parametrize(("error", "logged"), [(ProxyError, 1), (ProxyRefusedError, 0)])
def test_a_refusal_of_the_proxy_is_not_logged_as_a_service_that_does_not_respond(
    caplog, error, logged
):
    async def script(sender):
        async def fail(_at):
            raise error("the proxy refused the connection", job_id="job-1")

        with suppress(ProxyError):
            await sender.call_once(fail)

    alone(script)
    assert len(caplog.records) == logged


# --- several hosts ------------------------------------------------------------------------------


def two_hosts(**options):
    limiter = RateLimiter(rng=Random(1), **options)
    return limiter, limiter.hosts.get("https://a.test"), limiter.hosts.get("https://b.test")


def slowly_failing(job_id):
    async def fail(_at):
        await asyncio.sleep(0.05)
        raise ServerError(status=503, job_id=job_id)

    return fail


@pytest.mark.parametrize("max_rate", [None, 200.0])
def test_a_host_that_is_down_delays_no_request_to_another(max_rate):
    async def main():
        limiter, good, bad = two_hosts(max_rate=max_rate)
        sender = RequestSender(limiter, rng=Random(1))
        sent_to_bad = []

        def fail(job_id):
            async def send(at):
                sent_to_bad.append(at)
                await slowly_failing(job_id)(at)

            return send

        failing_polls = [
            asyncio.create_task(sender.call_once(fail(f"j-{n}"), bad)) for n in range(90)
        ]
        await asyncio.sleep(2.0)
        assert sender.stats().is_outage
        before = len(sent_to_bad)
        started, delays = now(), []
        for _ in range(600):
            began = now()
            await sender.call_once(answer, good)
            delays.append(now() - began)
            await asyncio.sleep(0.5)
        assert max(delays) <= 0.01  # at most the interval of `max_rate`
        assert sender.stats().is_outage  # an answer of one host says nothing about the other
        probes = len(sent_to_bad) - before
        assert (now() - started) / 11 <= probes <= 60  # at least every 10 s, after growing waits
        for poll in failing_polls:
            poll.cancel()
        await asyncio.gather(*failing_polls, return_exceptions=True)

    run(main())


def test_only_calls_to_the_host_that_is_down_give_up():
    async def main():
        limiter, good, bad = two_hosts()
        sender = RequestSender(limiter, rng=Random(1), outage_wait=5.0)
        polls = [asyncio.create_task(sender.call_once(failing(f"j-{n}"), bad)) for n in range(90)]
        await asyncio.sleep(1)
        with pytest.raises(ServiceDownError):
            await sender.call(answer, bad)
        await sender.call(answer, good)
        async with sender.turn(good):
            pass
        for poll in polls:
            poll.cancel()
        await asyncio.gather(*polls, return_exceptions=True)

    run(main())


def test_callers_are_served_in_their_order_after_an_outage():
    async def main():
        limiter, _, bad = two_hosts()
        sender = RequestSender(limiter, rng=Random(1))
        is_up = False
        order = []

        def send(name):
            async def request(_at):
                order.append(name)
                await asyncio.sleep(0.01)
                if not is_up:
                    raise ServerError(status=503, job_id=name)

            return request

        for number in range(10):
            with suppress(ServerError):
                await sender.call_once(send(f"first-{number}"), bad)
        assert sender.stats().is_outage
        names = [f"job-{number:02}" for number in range(40)]
        is_up = True
        order.clear()
        await asyncio.gather(*(sender.call_once(send(name), bad) for name in names))
        assert order == names
        assert not sender.stats().is_outage

    run(main())


def test_a_cancelled_probe_is_followed_by_another():
    async def main():
        limiter, _, bad = two_hosts()
        sender = RequestSender(limiter, rng=Random(1))
        await fail_ten_times(sender, bad)

        async def hang(_at):
            await asyncio.sleep(1e9)

        probe = asyncio.create_task(sender.call_once(hang, bad))
        await asyncio.sleep(60)
        assert sender.stats().in_flight == 1
        probe.cancel()
        async with asyncio.timeout(60):
            await sender.call_once(answer, bad)
        assert not sender.stats().is_outage

    run(main())


def test_a_long_upload_during_an_outage_does_not_hide_its_end():
    async def main():
        limiter, _, bad = two_hosts()
        sender = RequestSender(limiter, rng=Random(1))
        await fail_ten_times(sender, bad)

        async def upload():
            async with sender.turn(bad):
                began.append(now())
                await asyncio.sleep(1e9)

        began = []
        task = asyncio.create_task(upload())
        await asyncio.sleep(10)  # at most the wait before a probe
        await sender.call_once(answer, bad)
        assert now() - began[0] < 30.1
        assert not sender.stats().is_outage
        await cancel(task)

    run(main())


def test_a_throttled_probe_is_followed_by_another():
    async def main():
        limiter, _, bad = two_hosts()
        sender = RequestSender(limiter, rng=Random(1))
        await fail_ten_times(sender, bad)

        async def refuse(_at):
            raise RateLimitedError(status=429, retry_after=2.0)

        with pytest.raises(RateLimitedError):
            await sender.call_once(refuse, bad)
        async with asyncio.timeout(60):
            await sender.call_once(answer, bad)
        assert not sender.stats().is_outage

    run(main())


async def hang(_at):
    await asyncio.sleep(30)
    raise AnswerTimeoutError(timeout=30, job_id=None)


async def cancel(*tasks):
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def test_a_retry_after_of_one_host_delays_no_request_to_another():
    """Only a 429 concerns the organisation: another host may be up while one is in maintenance."""

    async def main():
        limiter, good, bad = two_hosts()
        sender = RequestSender(limiter, rng=Random(1))

        async def refuse(_at):
            raise ServerError(status=503, job_id="a", retry_after=60.0)

        with pytest.raises(ServerError):
            await sender.call_once(refuse, bad)
        waiting = [asyncio.create_task(sender.call_once(answer, bad)) for _ in range(3)]
        for _ in range(50):
            began = now()
            await sender.call_once(answer, good)
            assert now() == began
            await asyncio.sleep(1)
        assert 10 <= sender.stats().gate_closed_for <= 16
        await asyncio.gather(*waiting)
        assert 60 <= now() <= 66
        assert sender.stats().gate_closed_for == 0

    run(main())


@pytest.mark.parametrize("max_rate", [None, 200.0])
def test_a_host_that_hangs_delays_requests_to_another_by_three_seconds(max_rate):
    async def main():
        limiter, good, bad = two_hosts(max_rate=max_rate)
        sender = RequestSender(limiter, rng=Random(1))
        for _ in range(20):
            await asyncio.gather(*(sender.call_once(answer, bad) for _ in range(10)))
        hanging = [asyncio.create_task(sender.call_once(hang, bad)) for _ in range(90)]
        await asyncio.sleep(0.5)
        delays = []
        for _ in range(300):
            began = now()
            await sender.call_once(answer, good)
            delays.append(now() - began)
            await asyncio.sleep(0.5)
        assert delays[0] <= 3.1
        assert max(delays[1:]) <= 0.01  # neither the failures nor the probes delay them
        assert bad.is_down
        await cancel(*hanging)

    run(main())


def test_a_slow_host_is_not_taken_for_one_that_hangs():
    """It answers each request after 5 s. No call fails, even if it does not want to wait."""

    async def main():
        limiter, good, slow = two_hosts()
        sender = RequestSender(limiter, rng=Random(1), outage_wait=0.0)

        async def respond(_at):
            await asyncio.sleep(5)

        calls = [asyncio.create_task(sender.call(respond, slow)) for _ in range(40)]
        await asyncio.sleep(0)
        for _ in range(20):
            await sender.call(answer, good)
            await asyncio.sleep(0.5)
        await asyncio.gather(*calls)
        assert now() <= 40  # 4 are sent first; after 5 s, the window begins to grow again

    run(main())


def test_a_hanging_probe_of_one_host_delays_no_probe_of_another():
    async def main():
        limiter, one, other = two_hosts()
        sender = RequestSender(limiter, rng=Random(1))
        for host in (one, other):
            await fail_ten_times(sender, host)
        assert one.is_down
        assert other.is_down
        probe = asyncio.create_task(sender.call_once(hang, one))
        await asyncio.sleep(2)
        assert sender.stats().in_flight == 1
        began = now()
        await sender.call_once(answer, other)
        assert now() == began
        assert not other.is_down
        await cancel(probe)

    run(main())


def test_messages_name_the_host_that_is_down(caplog):
    async def main():
        limiter, _, bad = two_hosts()
        sender = RequestSender(limiter, rng=Random(1), outage_wait=0.0)
        await fail_ten_times(sender, bad)
        with pytest.raises(ServiceDownError, match=r"^the service at https://b\.test is down: 10 "):
            await sender.call(answer, bad)
        await sender.call_once(answer, bad)

    run(main())
    began, ended = [record.getMessage() for record in caplog.records]
    assert began.startswith("the service at https://b.test is down: 10 requests in a row failed")
    assert ended == "the service at https://b.test works again, after 10 failed requests"


def test_callers_that_stop_waiting_for_a_host_leave_no_timer():
    async def main():
        limiter, _, bad = two_hosts()
        sender = RequestSender(limiter, rng=Random(1))
        polls = [asyncio.create_task(sender.call_once(failing(f"j-{n}"), bad)) for n in range(30)]
        await asyncio.sleep(60)
        assert sender.stats().is_outage
        assert timers()
        for poll in polls:
            poll.cancel()
        await asyncio.gather(*polls, return_exceptions=True)
        await asyncio.sleep(0)
        assert not timers()

    run(main())


@pytest.mark.parametrize("outage_wait", [0.0, 3.0])
def test_a_turn_gives_up_as_long_after_its_start_as_a_call(outage_wait):
    async def main():
        limiter = RateLimiter(rng=Random(1))
        sender, host = RequestSender(limiter, outage_wait=outage_wait), limiter.hosts.get("")
        await asyncio.sleep(100.0)
        polls = [asyncio.create_task(sender.call_once(failing(f"j-{n}"))) for n in range(90)]
        await asyncio.sleep(1.0)
        assert host.is_down
        host.outage.probe_at = now() + 60.0
        began = now()
        with pytest.raises(ServiceDownError):
            async with sender.turn(host):
                pytest.fail("no request may be sent")
        assert outage_wait <= now() - began <= outage_wait + 1.0
        for poll in polls:
            poll.cancel()
        await asyncio.gather(*polls, return_exceptions=True)

    run(main())


def test_a_call_without_a_source_of_jitter_is_repeated():
    async def main():
        sender, failures = RequestSender(RateLimiter()), [ServerError(status=502, job_id="a")] * 2

        async def send(_sent):
            if failures:
                raise failures.pop()
            return "answer"

        assert await sender.call(send) == "answer"
        stats = sender.stats(bytes_received=7)
        assert (stats.requests, stats.retries, stats.failures) == (3, 2, 2)
        assert (stats.throttled, stats.bytes_received, stats.in_flight) == (0, 7, 0)
        assert now() > 0.0

    run(main())


@pytest.mark.parametrize("attempts", [1, 2, 4])
def test_a_call_makes_as_many_attempts_as_the_policy_allows(attempts):
    async def main():
        policy = RetryPolicy(attempts=attempts)
        sender = RequestSender(RateLimiter(), retry=policy, rng=Random(1))
        with pytest.raises(ServerError):
            await sender.call(failing("a"))
        assert sender.stats().requests == attempts
        assert sender.stats().retries == attempts - 1

    run(main())


@pytest.mark.parametrize("retry_after", [None, 1.0])
def test_a_refusal_of_a_job_ends_a_series_of_failures(retry_after):
    async def refuse(_sent):
        raise JobNotFoundError(status=404, job_id="a", retry_after=retry_after)

    async def main():
        limiter = RateLimiter()
        host = limiter.hosts.get("https://a.test")
        sender = RequestSender(limiter, rng=Random(1))
        for job_id in ("a", "b"):
            with pytest.raises(ServerError):
                await sender.call_once(failing(job_id), host)
        assert host.outage.failures == 2
        with pytest.raises(JobNotFoundError):
            await sender.call_once(refuse, host)
        assert host.outage.failures == 0

    run(main())


def test_closing_a_sender_ends_the_wait_before_a_retry():
    async def main():
        policy = RetryPolicy(base=1_000.0, max_wait=1_000.0)
        sender = RequestSender(RateLimiter(), retry=policy, rng=Random(1))
        call = asyncio.create_task(sender.call(failing("a")))
        await asyncio.sleep(0.1)
        sender.close()
        with pytest.raises(ClosedError):
            await call
        assert now() == pytest.approx(0.1)
        assert sender.stats().retries == 0

    run(main())
