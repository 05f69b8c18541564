"""How often a transfer is retried, and where its URL comes from."""

import asyncio
import tracemalloc
from itertools import count
from math import inf
from random import Random

import pytest
from streams import collect_of
from watching import now

from adepoll.errors import (
    AuthenticationError,
    CertificateError,
    ClosedError,
    JobNotFoundError,
    MalformedAnswerError,
    ProxyRefusedError,
    RateLimitedError,
    ResultError,
    ResultExpiredError,
    ResultForbiddenError,
    ResultServerError,
    ResultTransferError,
    ResultUrlError,
    ServerError,
    ServerTimeoutError,
    ServiceDownError,
    TransportError,
    UnexpectedStatusError,
)
from adepoll.fetcher import ResultFetcher
from adepoll.fetcher.patience import StorageOrigins, TransferRetries
from adepoll.throttling.waiting_times import RetryPolicy

MIB = 2**20
EXPIRED = b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"
BROKEN = ResultTransferError("broken", job_id="job-1", received=0, expected=None)
DENIED = ResultForbiddenError(job_id="job-1", status=403, detail="", url="https://a/p")


class Waits(RetryPolicy):
    """Waits of 1, 2, 3 ... seconds."""

    def waits(self, rng):
        return map(float, count(1))


def retries(attempts=3, *, patience=0, check_open=lambda: None):
    policy = Waits(attempts=attempts)
    return TransferRetries(policy, Random(0), patience=patience, check_open=check_open)


async def failures_until_the_end(retries, *, received=0):
    for number in range(1, 100_000):
        try:
            await retries.wait_or_raise(BROKEN, started=now(), received=received)
        except ResultTransferError:
            return number
    raise AssertionError("there is no end")


# --- TransferRetries ----------------------------------------------------------------------------


@pytest.mark.parametrize("attempts", [1, 3, 7])
def test_a_transfer_may_fail_as_often_as_the_policy_allows(replay, attempts):
    assert replay(lambda: failures_until_the_end(retries(attempts))) == attempts


def test_a_transfer_without_progress_is_given_up_after_its_patience(replay):
    async def script():
        await failures_until_the_end(retries(3, patience=20))
        return now()

    assert replay(script) == 21.0  # after waits of 1 + 2 + 3 + 4 + 5 + 6 seconds


def test_patience_does_not_shorten_the_attempts(replay):
    assert replay(lambda: failures_until_the_end(retries(9, patience=1))) == 9


def test_one_attempt_means_no_retry_whatever_the_patience(replay):
    assert replay(lambda: failures_until_the_end(retries(1, patience=100))) == 1


def test_an_incomplete_object_is_not_retried_for_the_whole_patience(replay):
    async def script():
        cut = ResultTransferError(
            "cut", job_id="job-1", received=0, expected=None, is_object_at_fault=True
        )
        enduring = retries(3, patience=1_000)
        for _ in range(2):
            await enduring.wait_or_raise(cut, started=now(), received=5 * MIB)
        with pytest.raises(ResultTransferError):
            await enduring.wait_or_raise(cut, started=now(), received=5 * MIB)

    replay(script)


def test_each_new_mebibyte_restores_the_patience(replay):
    async def script():
        enduring = retries(3, patience=20)
        for _ in range(100):
            await enduring.wait_or_raise(BROKEN, started=now(), received=MIB // 2)
        assert now() == 149.0
        await failures_until_the_end(enduring)
        return now()

    assert replay(script) == 169.0


def test_retry_after_is_a_lower_bound_of_the_wait(replay):
    async def script():
        enduring = retries()
        await enduring.wait_or_raise(slow_down(5.0), started=now(), received=0)
        assert now() == 5.0
        await enduring.wait_or_raise(slow_down(0.5), started=now(), received=0)
        return now()

    assert replay(script) == 7.0


@pytest.mark.parametrize("patience", [7_200, 3_600, 30])
def test_a_retry_after_beyond_the_patience_ends_the_transfer_immediately(replay, patience):
    async def script():
        enduring = retries(patience=patience)
        if patience < 3_600:
            with pytest.raises(ResultServerError, match="it asked to wait 3,600 seconds"):
                await enduring.wait_or_raise(slow_down(3_600.0), started=now(), received=0)
        else:
            await enduring.wait_or_raise(slow_down(3_600.0), started=now(), received=0)
        return now()

    assert replay(script) == (3_600.0 if patience >= 3_600 else 0.0)


def slow_down(retry_after):
    return ResultServerError(
        job_id="job-1", status=503, detail="", url="https://a/p", retry_after=retry_after
    )


# --- Origins -------------------------------------------------------------------------------------


class Outage:
    """A storage that fails until a time, and the transfers that request from it."""

    def __init__(self, *, until=inf, error=BROKEN, patience=60):
        self.until, self.error, self.patience = until, error, patience
        self.origin = StorageOrigins(Waits(attempts=3), Random(0)).of("https://a.example/p?s")
        self.sent = []

    async def transfer(self):
        enduring = retries(3, patience=self.patience)
        enduring.origin = self.origin
        while True:
            started = now()
            try:
                async with self.origin.request(enduring, job_id="job-2"):
                    self.sent.append(now())
                    await asyncio.sleep(0.1)
                    if now() < self.until:
                        raise self.error
            except ResultError as error:
                await enduring.wait_or_raise(error, started=started, received=0)
            else:
                return now()

    async def run(self, number=200):
        transfers = (self.transfer() for _ in range(number))
        return await asyncio.gather(*transfers, return_exceptions=True)


def test_no_transfer_is_lost_in_an_outage_and_few_requests_are_sent(replay):
    outage = Outage(until=10.0)
    ends = replay(outage.run)
    assert all(10.0 < end < 17.0 for end in ends)
    assert len([at for at in outage.sent if 5.0 < at < 10.0]) <= 5  # the probes
    assert outage.origin.failures == 0


def test_each_transfer_is_given_up_after_an_outage_beyond_its_patience(replay):
    outage = Outage(until=1_000.0)

    async def script():
        errors = await outage.run(20)
        return errors, now()

    errors, ended = replay(script)
    assert {type(error) for error in errors} == {ResultTransferError}
    assert 60.0 < ended < 80.0


def test_retry_after_holds_back_all_transfers_from_the_origin(replay):
    outage = Outage(until=3.0, error=slow_down(30.0))

    async def script():
        first = asyncio.create_task(outage.transfer())
        await asyncio.sleep(1.0)
        return await outage.transfer(), await first

    assert all(end >= 30.0 for end in replay(script))
    assert [at for at in outage.sent if 0.1 <= at < 30.0] == []


def test_a_single_retry_after_beyond_the_patience_does_not_fail_other_transfers(replay):
    outage = Outage(until=0.2, error=slow_down(3_600.0))

    async def script():
        with pytest.raises(ResultServerError):
            await outage.transfer()
        assert now() == 0.1
        await asyncio.sleep(0.2)
        return await outage.transfer()

    assert replay(script) < 1.0
    assert len(outage.sent) == 2


def test_a_storage_that_is_down_and_asks_for_too_long_a_wait_gets_few_requests(replay):
    """After three responses, transfers fail without a request; one is sent five minutes later."""
    outage = Outage(error=slow_down(3_600.0))

    async def script():
        errors = [await outage.run(1) for _ in range(20)]
        assert now() < 1.0
        await asyncio.sleep(150.0)
        errors += [await outage.run(1)]
        await asyncio.sleep(151.0)
        outage.until = 0.0
        return [error for (error,) in errors], await outage.transfer()

    errors, ended = replay(script)
    assert {type(error) for error in errors} == {ResultServerError}
    assert {(error.job_id, error.status, error.transient) for error in errors[3:]} == {
        ("job-2", 503, True)
    }
    assert 149.0 < errors[-1].retry_after < 151.0
    assert "https://a/ answered 503 (it asked to wait 300 seconds)" in str(errors[3])
    assert [round(at) for at in outage.sent] == [0, 0, 0, round(ended)]


def test_a_waiting_transfer_fails_when_it_learns_that_its_patience_will_not_suffice(replay):
    outage = Outage(error=slow_down(50.0))

    async def script():
        waiting = [asyncio.create_task(outage.transfer()) for _ in range(3)]
        await asyncio.sleep(20.0)
        outage.error = slow_down(250.0)
        outage.origin.failures = 2
        with pytest.raises(ResultServerError):
            async with outage.origin.request(retries(), job_id="job-1"):
                raise outage.error
        errors = await asyncio.gather(*waiting, return_exceptions=True)
        return errors, now()

    errors, ended = replay(script)
    assert {type(error) for error in errors} == {ResultServerError}
    assert ended <= 51.0
    assert len(outage.sent) == 3


def request(origin, patience=60):
    return origin.request(retries(patience=patience), job_id="job-1")


async def fail(origin, error):
    with pytest.raises(type(error)):
        async with request(origin):
            raise error


@pytest.mark.parametrize("seconds", [0.25, 1.0, 2.75])
def test_a_request_is_sent_exactly_when_retry_after_has_ended(replay, seconds):
    async def script():
        origin = StorageOrigins(Waits(attempts=3), Random(0)).of("https://a.example/p")
        await fail(origin, slow_down(seconds))
        start = now()
        for _ in range(2):
            async with request(origin):
                assert now() - start == seconds

    replay(script)


@pytest.mark.parametrize(("seconds", "lines"), [(4.9, 0), (5.1, 1)])
def test_only_a_long_retry_after_is_logged(replay, caplog, seconds, lines):
    caplog.set_level("INFO", logger="adepoll")

    async def script():
        origin = StorageOrigins(Waits(attempts=3), Random(0)).of("https://a.example/p")

        async def send(seconds):
            async with request(origin):
                await asyncio.sleep(0.5)
                raise slow_down(seconds)

        found = await asyncio.gather(*map(send, (seconds, seconds + 0.1)), return_exceptions=True)
        assert [type(error) for error in found] == [ResultServerError] * 2

    replay(script)
    assert sum("a storage asks to wait" in text for text in caplog.messages) == lines


def test_the_longest_of_simultaneous_retry_afters_counts(replay):
    async def script():
        origin = StorageOrigins(Waits(attempts=3), Random(0)).of("https://a.example/p")
        start = now()

        async def refused(seconds):
            await asyncio.sleep(0.5)
            raise slow_down(seconds)

        async def send(seconds):
            async with request(origin):
                await refused(seconds)

        found = await asyncio.gather(*map(send, (10.0, 2.0)), return_exceptions=True)
        assert [type(error) for error in found] == [ResultServerError] * 2
        async with request(origin):
            assert now() - start == 10.5

    replay(script)


def test_a_transfer_waits_for_the_probe_of_another_one_until_its_patience_ends(replay):
    async def script():
        origin = StorageOrigins(Waits(attempts=3), Random(0)).of("https://a.example/p")
        for number in range(3):
            await asyncio.sleep(1.0)
            assert origin.failures == number
            await fail(origin, BROKEN)
        start, sent = now(), []

        async def send(name, patience, seconds):
            async with request(origin, patience):
                sent.append((name, now() - start))
                await asyncio.sleep(seconds)

        names = (("probe", 60, 3.5), ("impatient", 2.25, 1.0), ("patient", 60, 0.5))
        await asyncio.gather(*(send(*name) for name in names))
        assert sent == [("probe", 1.0), ("impatient", 2.25), ("patient", 4.0)]
        assert origin.failures == 0

    replay(script)


def test_a_response_that_refuses_shows_that_the_storage_is_not_down(replay):
    outage = Outage(until=1.0)
    origin = outage.origin

    async def script():
        await outage.run(3)
        assert origin.failures == 0
        origin.failures = 7
        with pytest.raises(ResultForbiddenError):
            async with origin.request(retries(), job_id="job-1"):
                raise DENIED
        return origin.failures

    assert replay(script) == 0


def test_origins_are_told_apart_by_host_and_port():
    origins = StorageOrigins(Waits(), Random(0))
    assert origins.of("https://a.example/p?q") is origins.of("https://A.example/other")
    assert origins.of("https://a.example/p") is not origins.of("https://a.example:8443/p")
    assert origins.of("https://[") is origins.of("")


def test_the_service_cannot_fill_the_memory_with_hosts():
    origins = StorageOrigins(Waits(), Random(0))
    first, busy = origins.of("https://first.example/p"), origins.of("https://busy.example/p")
    for number in range(1_500):
        origins.of(f"https://{number}.example/p")
        assert origins.of("https://busy.example/p") is busy
    assert origins.of("https://first.example/p") is not first


def test_a_url_that_is_too_long_is_not_kept():
    origins = StorageOrigins(Waits(), Random(0))
    tracemalloc.start()
    try:
        for number in range(20):
            origins.of(f"https://{number}.{'a' * 2**20}.example/p")
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 2**20


def test_received_bytes_below_a_mebibyte_add_no_attempts(replay):
    assert replay(lambda: failures_until_the_end(retries(), received=1_000)) == 3


def test_each_failure_waits_as_the_policy_says(replay):
    async def script():
        times = []
        enduring = retries(9)
        for _ in range(4):
            began = now()
            await enduring.wait_or_raise(BROKEN, started=began, received=0)
            times.append(now() - began)
        return times

    assert replay(script) == [1.0, 2.0, 3.0, 4.0]


def test_after_a_received_mebibyte_the_waits_start_again(replay):
    async def script():
        times = []
        enduring = retries(9)
        for received in (0, 0, MIB - 1, MIB, 0):
            began = now()
            await enduring.wait_or_raise(BROKEN, started=began, received=received)
            times.append(now() - began)
        return times

    assert replay(script) == [1.0, 2.0, 3.0, 1.0, 2.0]


def test_simultaneous_failures_of_connections_count_once(replay):
    async def script():
        enduring = retries(2)
        await asyncio.sleep(5)
        began = now()
        await asyncio.sleep(1)
        enduring_all = [enduring.wait_or_raise(BROKEN, started=began, received=0) for _ in range(8)]
        await asyncio.gather(*enduring_all)
        assert now() == began + 2.0
        with pytest.raises(ResultTransferError):
            await enduring.wait_or_raise(BROKEN, started=now(), received=0)

    replay(script)


def test_a_permanent_error_is_raised_immediately(replay):
    async def script():
        with pytest.raises(ResultForbiddenError):
            await retries(9).wait_or_raise(DENIED, started=now(), received=0)
        return now()

    assert replay(script) == 0.0


def test_after_closing_nothing_is_retried(replay):
    def closed():
        raise ClosedError("closed")

    async def script():
        enduring = retries(9, check_open=closed)
        with pytest.raises(ClosedError):
            await enduring.wait_or_raise(BROKEN, started=now(), received=0)

    replay(script)


# --- The API is down ----------------------------------------------------------------------------

API_IS_DOWN = [
    TransportError("broken", job_id="job-1"),
    ServerError(status=503, job_id="job-1"),
    ServerTimeoutError(status=408, job_id="job-1"),
    RateLimitedError(status=429, job_id="job-1"),
    ServiceDownError(failures=12, cause=None),
]
API_REFUSES = [
    AuthenticationError(status=401),
    JobNotFoundError(status=404, job_id="job-1"),
    UnexpectedStatusError(status=410, job_id="job-1"),
    MalformedAnswerError(["expected an object @ $"]),
    CertificateError("expired", job_id="job-1"),
    ProxyRefusedError("407", job_id="job-1"),
]


def name_of(error):
    return type(error).__name__


@pytest.mark.parametrize("error", API_IS_DOWN, ids=name_of)
def test_the_api_is_requested_again_until_it_answers(replay, error):
    async def script():
        began, asked = now(), []

        async def request():
            asked.append(now() - began)
            if len(asked) < 6:
                raise error
            return "answer"

        assert await retries(patience=16).until_answered(request) == "answer"
        assert asked == [0, 1, 3, 6, 10, 15]

    replay(script)


@pytest.mark.parametrize(("attempts", "requests"), [(1, 1), (2, 4), (3, 4)])
def test_a_transfer_is_given_up_when_the_api_is_down_for_its_patience(replay, attempts, requests):
    async def script():
        asked = []

        async def request():
            asked.append(now())
            raise API_IS_DOWN[0]

        with pytest.raises(TransportError):
            await retries(attempts, patience=5).until_answered(request)
        assert len(asked) == requests  # the client has repeated each of them by itself

    replay(script)


@pytest.mark.parametrize("error", API_REFUSES, ids=name_of)
def test_another_error_of_the_api_ends_the_transfer(replay, error):
    async def script():
        async def request():
            raise error

        began = now()
        with pytest.raises(type(error)):
            await retries(9, patience=600).until_answered(request)
        assert now() == began

    replay(script)


@pytest.mark.parametrize("use", ["stream", "result", "download"])
@pytest.mark.parametrize("is_redacted", [True, False], ids=["redacted", "expired"])
async def test_a_url_is_renewed_after_an_outage_of_the_api(
    bucket, fetch, stored, result_body, tmp_path, use, is_redacted
):
    bucket.body = result_body(5_000)
    bucket.answers = [expiring(bucket, "/stale")]
    fetcher = fetch(*API_IS_DOWN, *API_IS_DOWN, stored(bucket.url("/fresh")), patience=600)
    job = stored(bucket.url("/stale"))
    job = job.redacted() if is_redacted else job
    uses = {
        "stream": lambda: collect_of(fetcher, job),
        "result": lambda: fetcher.result(job),
        "download": lambda: fetcher.download(job, tmp_path / "out"),
    }
    await uses[use]()
    assert len(fetch.asked) == 11
    assert bucket.targets[-1] == "/fresh"


async def test_the_first_poll_of_an_id_is_repeated_by_the_client_only(fetch):
    fetcher = fetch(*API_IS_DOWN, patience=600)
    with pytest.raises(TransportError):
        await fetcher.result("job-1")
    assert len(fetch.asked) == 1


# --- Renewed URLs -------------------------------------------------------------------------------


def expiring(bucket, *stale):
    """Respond to requests of these targets that they have expired."""
    give, refuse = bucket.give(), bucket.keeping(bucket.reply(EXPIRED, status="403 Forbidden"))

    async def answer(reader, writer):
        is_stale = bucket.targets[-1] in stale
        return await (refuse if is_stale else give)(reader, writer)

    return answer


@pytest.mark.parametrize("use", ["stream", "result", "download"])
async def test_all_readers_of_one_result_share_one_renewed_url(
    bucket, fetch, stored, result_body, tmp_path, use
):
    bucket.body = result_body(5_000)
    together = asyncio.Barrier(5)
    refused = bucket.keeping(bucket.reply(EXPIRED, status="403 Forbidden"))
    give = bucket.give()

    async def answer(reader, writer):
        if bucket.targets[-1] != "/stale":
            return await give(reader, writer)
        await together.wait()  # all of them find the URL expired at the same time
        return await refused(reader, writer)

    bucket.answers = [answer]
    fetcher = fetch(stored(bucket.url("/fresh")))
    job = stored(bucket.url("/stale"))
    uses = {
        "stream": lambda n: collect_of(fetcher, job),
        "result": lambda n: fetcher.result(job),
        "download": lambda n: fetcher.download(job, tmp_path / f"{n}"),
    }
    await asyncio.gather(*(uses[use](n) for n in range(5)))
    assert fetch.asked == ["job-1"]
    assert sorted(bucket.targets) == ["/fresh"] * 5 + ["/stale"] * 5


async def test_a_later_reader_of_the_same_url_uses_the_renewed_url(
    bucket, fetch, stored, result_body
):
    bucket.body = result_body(5_000)
    bucket.answers = [expiring(bucket, "/stale")]
    fetcher = fetch(stored(bucket.url("/fresh")), stored(bucket.url("/stale")))
    job = stored(bucket.url("/stale"))
    async with fetcher.stream(job) as first:
        assert await collect_of(fetcher, job) == bucket.body
        assert await collect_of(fetcher, job.job_id) == bucket.body
        assert b"".join([chunk async for chunk in first]) == bucket.body
    assert bucket.targets == ["/stale", "/fresh", "/fresh", "/fresh"]


async def test_a_stream_whose_url_expires_resumes_with_a_renewed_one(
    bucket, fetch, stored, result_body
):
    bucket.body = result_body(5_000)
    expired = bucket.reply(EXPIRED, status="403 Forbidden")
    bucket.answers = [bucket.give(1_000, then="close"), expired, bucket.give()]
    fetcher = fetch(stored(bucket.url("/fresh")), attempts=2)  # expiry is not a failure
    assert await collect_of(fetcher, stored(bucket.url("/stale"))) == bucket.body
    assert bucket.targets == ["/stale", "/stale", "/fresh"]
    assert bucket.ranges == [None, (1_000, None), (1_000, None)]


async def test_urls_may_be_renewed_any_number_of_times_if_each_worked(
    bucket, fetch, stored, result_body
):
    bucket.body = result_body(8_000)
    expired = bucket.reply(EXPIRED, status="403 Forbidden")
    cut = bucket.give(1_000, then="close")
    bucket.answers = [cut, expired, cut, expired, cut, expired, cut, expired, bucket.give()]
    fetcher = fetch(*(stored(bucket.url(f"/{number}")) for number in range(1, 9)), attempts=9)
    assert await collect_of(fetcher, stored(bucket.url("/0"))) == bucket.body
    assert bucket.targets[-1] == "/4"


async def test_another_job_does_not_share_the_url(bucket, fetch, stored, result_body):
    bucket.body = result_body(5_000)
    fetcher = fetch()
    for job_id in ("job-1", "job-2"):
        assert await collect_of(fetcher, stored(bucket.url(f"/{job_id}"), job_id=job_id))
    assert bucket.targets == ["/job-1", "/job-2"]


# --- resolve_url --------------------------------------------------------------------------------


@pytest.mark.parametrize("is_async", [True, False])
@pytest.mark.parametrize("use", ["stream", "result", "download"])
async def test_resolve_url_returns_the_url_to_request(
    bucket, fetch, stored, result_body, tmp_path, is_async, use
):
    bucket.body = result_body(5_000)
    given = []

    def resolve(job):
        given.append(job)
        return bucket.url("/readable?x=%2F")

    async def resolve_later(job):
        await asyncio.sleep(0)
        return resolve(job)

    fetcher = fetch(resolve_url=resolve_later if is_async else resolve)
    job = stored("https://bucket.example/for-put-only")
    if use == "download":
        await fetcher.download(job, tmp_path / "out")
    else:
        await (collect_of if use == "stream" else ResultFetcher.result)(fetcher, job)
    assert bucket.targets == ["/readable?x=%2F"]
    assert given == [job]


async def test_resolve_url_is_called_again_with_a_new_snapshot_after_expiry(
    bucket, fetch, stored, result_body
):
    bucket.body = result_body(5_000)
    bucket.answers = [expiring(bucket, "/stale")]
    given = []

    def resolve(job):
        given.append(job)
        return bucket.url("/stale" if len(given) == 1 else "/fresh")

    old, new = stored("https://bucket.example/a"), stored("https://bucket.example/b")
    fetcher = fetch(new, resolve_url=resolve)
    assert await collect_of(fetcher, old) == bucket.body
    assert given == [old, new]
    assert bucket.targets == ["/stale", "/fresh"]


async def test_an_unchanged_expired_resolved_url_is_not_requested_again(bucket, fetch, stored):
    bucket.answers = [expiring(bucket, "/stale")]
    job = stored("https://bucket.example/a")
    fetcher = fetch(job, resolve_url=lambda _: bucket.url("/stale"))
    with pytest.raises(ResultExpiredError):
        await fetcher.result(job)
    assert bucket.targets == ["/stale"]


@pytest.mark.parametrize("use", ["stream", "result", "download"])
async def test_an_error_of_resolve_url_is_raised_and_leaves_nothing(
    bucket, fetch, stored, tmp_path, use
):
    class OwnError(Exception):
        pass

    def resolve(_job):
        raise OwnError("no such tenant")

    fetcher = fetch(resolve_url=resolve)
    job = stored(bucket.url())
    with pytest.raises(OwnError, match="no such tenant"):  # noqa: PT012 - one of three methods
        if use == "download":
            await fetcher.download(job, tmp_path / "out")
        else:
            await (collect_of if use == "stream" else ResultFetcher.result)(fetcher, job)
    assert bucket.heads == []
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    "url", ["http://93.184.216.34/p", "https://127.0.0.1/p", "https://u:p@a.example/", "", "p"]
)
async def test_a_resolved_url_is_checked_like_any_url(answering, stored, url):
    client = answering(base_url="https://93.184.216.34")
    async with ResultFetcher(client, patience=0, resolve_url=lambda _: url) as fetcher:
        with pytest.raises(ResultUrlError):
            await fetcher.result(stored("https://bucket.example/p"))


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        (None, "resolve_url returned no URL"),
        ("", "resolve_url returned no URL"),
        (b"https://bucket.example/p", "resolve_url returned bytes instead of str"),
    ],
)
async def test_a_resolved_url_that_is_no_url_is_an_error_of_its_job(fetch, stored, url, reason):
    job = stored("https://bucket.example/p")
    with pytest.raises(ResultUrlError, match=reason):
        await fetch(resolve_url=lambda _: url).result(job)


async def test_resolve_url_is_not_called_for_inline_results(fetch, stored, bucket, result_body):
    bucket.body = result_body(5_000)
    data = await fetch().result(stored(bucket.url()))

    def resolve(_job):
        raise AssertionError("it was called")

    assert await fetch(resolve_url=resolve).result(stored(data=data)) is data


async def test_a_failed_renewal_is_the_error_of_each_reader_of_the_url(bucket, fetch, stored):
    bucket.answers = [expiring(bucket, "/stale")]
    fetcher = fetch(*[AuthenticationError(status=401, job_id="job-1") for _ in range(4)])
    job = stored(bucket.url("/stale"))
    errors = await asyncio.gather(
        *(collect_of(fetcher, job) for _ in range(4)), return_exceptions=True
    )
    assert {type(error) for error in errors} == {AuthenticationError}
    assert len(fetch.asked) == 4  # one request for each of them


async def test_a_refused_request_is_retried_only_if_a_renewal_may_help(bucket, fetch, stored):
    bucket.answers = [bucket.keeping(bucket.reply(status="503 Slow Down"))]
    with pytest.raises(ResultServerError):
        await fetch(attempts=4).result(stored(bucket.url()))
    assert len(bucket.heads) == 4


async def test_resolve_url_serves_results_that_the_service_does_not_keep(
    bucket, result_body, fetch, stored
):
    bucket.body = result_body()
    fetcher = fetch(stored(None), resolve_url=lambda _: bucket.url("/kept-by-us"))
    assert (await fetcher.result(stored(None))).metadata.job_id == "job-1"
    assert bucket.targets == ["/kept-by-us"]
