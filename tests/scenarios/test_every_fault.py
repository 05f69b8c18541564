"""Every fault of the emulator over real sockets: adepoll tolerates it, or raises the right error.

Each fault has an expectation at each endpoint, and a fault without an expectation fails a test.
`once` means that the fault applies to one request; `always` means every request about one job.
"""

import asyncio
import contextlib
import gc
import hashlib
import itertools
import math
import selectors
import time
from collections import Counter

import pytest
from attrs import field, frozen
from clocks import IdleSkippingLoop
from internals import end_now, watched_descriptors
from waiting import until

from adepoll import AdeClient, JobWatcher, ResultFetcher, RetryPolicy
from adepoll.api.kinds import v1_extract
from adepoll.emulator import EPOCH, FAULT_NAMES, Emulator, Endpoint, JobPlan, Outcome, make_fault
from adepoll.errors import (
    AdePollError,
    AnswerTimeoutError,
    AnswerTooLargeError,
    AuthenticationError,
    JobNotFoundError,
    JobTimeoutError,
    MalformedAnswerError,
    PaymentRequiredError,
    PermissionDeniedError,
    RateLimitedError,
    RedirectRefusedError,
    ResultChangedError,
    ResultError,
    ResultExpiredError,
    ResultForbiddenError,
    ResultMalformedError,
    ResultServerError,
    ResultTransferError,
    ResultUrlError,
    ServerError,
    ServerTimeoutError,
    TransportError,
    UnresolvedJobsError,
    WrongJobError,
)
from adepoll.scheduling.schedules import Adaptive, Fixed

LARGE = 1_200_000
SOON = 0.2  # seconds until a request without an answer times out
SAFETY = 60.0  # seconds after which a test has hung
LONG = 1e6  # seconds, for tests in which no request times out
NOTHING = type(None)
THROTTLING = {"rate-limit", "too-many-requests"}
RETRY = RetryPolicy(attempts=3, base=0.001, max_wait=0.01)


@frozen(kw_only=True)
class Expected:
    """The expected errors for a fault at one endpoint.

    Attributes:
        options: Options of the fault.
        once: Expected error types if the fault applies once; empty if adepoll tolerates it.
        always: Expected error types if the fault applies always; empty if adepoll tolerates it.
        changes: True if jobs can be missing from the list.
    """

    options: dict = field(factory=dict)
    once: tuple = ()
    always: tuple = ()
    changes: bool = False


def tolerated(**options):
    return Expected(options=options)


def retried(*always, **options):
    return Expected(options=options, always=always)


def refused(*always, **options):
    return Expected(options=options, once=always, always=always)


LATE = {"shape": "constant", "median": 3_600.0}
BREAKS = (
    "reset-before-headers",
    "reset-in-headers",
    "reset-after-headers",
    "reset-in-body",
    "truncated",
)
NONSENSE = (
    "html",
    "invalid-json",
    "empty-body",
    "not-an-object",
    "missing-status",
    "deep-nesting",
)

# Requests to the API: polls, and requests for the list.
AT_THE_API = {
    "latency": retried(AnswerTimeoutError, **LATE),
    "silent": retried(AnswerTimeoutError),
    "stalled": retried(AnswerTimeoutError),
    "slow-body": retried(AnswerTimeoutError, rate=500.0),
    "server-error": retried(ServerError),
    "request-timeout": retried(ServerTimeoutError),
    "unauthorized": refused(AuthenticationError),
    "forbidden": refused(PermissionDeniedError),
    "payment-required": refused(PaymentRequiredError),
    "redirect": refused(RedirectRefusedError),
    "overlong": refused(AnswerTooLargeError),
    "never-ending": refused(AnswerTooLargeError),
    "wrong-length": retried(TransportError),
    **dict.fromkeys(BREAKS, retried(TransportError)),
    **dict.fromkeys(NONSENSE, retried(MalformedAnswerError)),
    **dict.fromkeys(("nan", "huge-integer", "lone-surrogate"), tolerated()),
}
# A watch continues after an active or unknown status and after a 429, which says nothing about the
# job. In these cases, it ends with the caller's timeout.
IN_A_WATCH = {
    **AT_THE_API,
    "unauthorized": retried(AuthenticationError),  # the key works for other requests
    "forbidden": retried(PermissionDeniedError),
    "redirect": retried(RedirectRefusedError),
    "rate-limit": retried(JobTimeoutError, rate=1e-6, burst=1, retry_after="absent"),
    "too-many-requests": retried(JobTimeoutError),
    "not-found": retried(JobNotFoundError),
    "wrong-job-id": retried(WrongJobError),
    "unknown-status": retried(JobTimeoutError),
    "backward-status": retried(JobTimeoutError),
    "duplicate-keys": tolerated(),
}
IN_A_LIST = {
    **AT_THE_API,
    "rate-limit": retried(RateLimitedError, rate=1e-6, burst=1, retry_after="absent"),
    "too-many-requests": retried(RateLimitedError),
    "not-found": refused(JobNotFoundError),
    "unknown-status": tolerated(),
    "duplicate-keys": tolerated(),
    "missing-status": Expected(changes=True),
    "missing-items": Expected(changes=True),
    "missing-page": Expected(changes=True),
    "shifting-pages": Expected(changes=True),
    "endless-list": tolerated(),
}
# Errors for a body that is too long: blanks after the JSON, more bytes than announced, or, if a
# stream requests the bytes behind the blanks, a changed object.
TOO_LONG = (ResultMalformedError, ResultTransferError, ResultChangedError)
AT_A_RESULT = {
    "latency": retried(ResultTransferError, **LATE),
    "silent": retried(ResultTransferError),
    "stalled": retried(ResultTransferError),
    "slow-body": tolerated(rate=20_000_000.0),
    "server-error": retried(ResultServerError),
    # One redirect leads to a host for which the URL is not signed; endless redirects are refused.
    "redirect": Expected(once=(ResultForbiddenError,), always=(ResultUrlError,)),
    "overlong": retried(*TOO_LONG),
    "never-ending": retried(*TOO_LONG),
    "wrong-length": retried(ResultTransferError, by=-50),
    **dict.fromkeys(BREAKS, retried(ResultTransferError)),
    # ResultForbiddenError: the answer 403 was cut off before it said that the URL has expired.
    "expired-mid-download": retried(ResultTransferError, ResultForbiddenError, ResultExpiredError),
    "changing-etag": tolerated(),
    "range-ignored": tolerated(),
    "unrequested-gzip": tolerated(),
}
EXPECTATIONS = {
    Endpoint.GET: IN_A_WATCH,
    Endpoint.LIST: IN_A_LIST,
    Endpoint.RESULT: AT_A_RESULT,
}


TIMING_OUT = {"latency", "silent", "stalled", "slow-body"}


def longest_request(name):
    """Return the time limit of requests: short only if the fault ends with it.

    A busy machine needs more than 0.2 s to read a body that is refused for its length.
    """
    return SOON if name in TIMING_OUT else SAFETY


def possible_at(endpoint):
    return [name for name in FAULT_NAMES if endpoint in make_fault(name).effect.endpoints]


def faults_of(endpoint, *, without=()):
    """Parametrize a test with every fault of an endpoint, once and always."""
    names = [name for name in possible_at(endpoint) if name not in without]
    cases = [(name, times) for name in names for times in (1, None)]
    ids = [f"{name}-{'always' if times is None else 'once'}" for name, times in cases]
    return pytest.mark.parametrize(("name", "times"), cases, ids=ids)


@pytest.mark.parametrize("endpoint", EXPECTATIONS, ids=lambda endpoint: endpoint.value)
def test_every_fault_and_no_other_has_an_expectation(endpoint):
    assert set(EXPECTATIONS[endpoint]) == set(possible_at(endpoint))


def test_every_fault_can_happen_at_an_endpoint_that_adepoll_uses():
    expected = {name for expected in EXPECTATIONS.values() for name in expected}
    assert expected | OF_CREATIONS == set(FAULT_NAMES)
    assert not expected & OF_CREATIONS


OF_CREATIONS = {"conflict"}  # adepoll creates no jobs


# --- service and loops --------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def service(*, timeout_of_requests=SOON, retry=RETRY, clock=time.time):
    """Yield an emulator and a client; at the end, no task and no socket may be left."""
    loop = asyncio.get_running_loop()
    tasks, sockets = asyncio.all_tasks(), watched_descriptors()
    complaints = []
    loop.set_exception_handler(lambda _loop, context: complaints.append(context))
    async with Emulator(seed=2, clock=clock) as ade:
        client = AdeClient(
            ade.api_key,
            base_url=ade.base_url,
            timeout=timeout_of_requests,
            retry=retry,
            max_body_bytes=300_000,
        )
        async with client, in_real_time(SAFETY):
            yield ade, client
            assert client.stats.in_flight == 0
        assert ade.truth.leaks == ()
        assert ade.truth.requests.leaks == 0
    for _ in range(5):  # a transport closes its socket one step after close()
        await asyncio.sleep(0)
    gc.collect(1)
    await asyncio.sleep(0)
    assert not complaints
    assert asyncio.all_tasks() == tasks
    assert watched_descriptors() == sockets, "a socket is left"


def in_real_time(seconds):
    """Return a timeout in real seconds, as a safeguard against tests that hang."""
    loop = asyncio.get_running_loop()
    if isinstance(loop, IdleSkippingLoop):
        return contextlib.nullcontext()  # all of its timers fire soon; pytest has a limit, too
    return asyncio.timeout(seconds * getattr(loop, "SPEED", 1.0))


class _FastSelector(selectors.DefaultSelector):
    def __init__(self, speed):
        super().__init__()
        self._speed = speed

    def select(self, timeout=None):
        return super().select(timeout and timeout / self._speed)


class FastLoop(asyncio.SelectorEventLoop):
    """A loop with real sockets in which time passes 1,000 times as fast."""

    SPEED = 1_000.0

    def __init__(self):
        super().__init__(_FastSelector(self.SPEED))

    def time(self):
        return time.monotonic() * self.SPEED


def run_fast(coroutine, loop_factory=FastLoop):
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(coroutine)


# --- a watch ------------------------------------------------------------------------------------


def submit_all_kinds(ade):
    """Submit the job with the fault, and others with every outcome, some of which end later."""
    victim = ade.submit(JobPlan(result_bytes=3_000), job_id="victim")
    others = [ade.submit(JobPlan(outcome=outcome)) for outcome in Outcome]
    others += [
        ade.submit(JobPlan(queue_time=0.02, processing_time=0.05, outcome=outcome))
        for outcome in (Outcome.COMPLETED, Outcome.FAILED)
    ]
    return victim, others


async def settle(ade, watcher, job_ids, within=None):
    """Watch jobs; return the causes of the unresolved jobs, and the error that ended the watch."""
    watch, ended, end = watcher.watch(job_ids, timeout=within), Counter(), None
    try:
        async for job in watch:
            ended[job.job_id] += 1
            truth = ade.truth(job.job_id)
            assert job.status is truth.outcome.status
            assert truth.finished_at <= ade.clock()
            if job.data is not None:
                body = ade.world.result(job.job_id)
                assert job.data.metadata.job_id == job.job_id
                assert hashlib.sha256(body.read()).hexdigest() == truth.result_sha256
    except (UnresolvedJobsError, PaymentRequiredError) as error:
        end = error
    causes = watch.unresolved
    assert set(ended.values()) <= {1}, "settled twice"
    assert not set(ended) & set(causes)
    assert {*ended, *causes} == set(job_ids), "lost"
    if isinstance(end, UnresolvedJobsError):
        assert end.causes == causes
    return causes, end


async def watch_with_fault(name, times, *, within, **options):
    expected = IN_A_WATCH[name]
    errors = expected.always if times is None else expected.once
    options = {"timeout_of_requests": longest_request(name), **options}
    async with service(**options) as (ade, client):
        victim, others = submit_all_kinds(ade)
        ade.faults.add(name, endpoints=["get"], jobs=[victim], times=times, **expected.options)
        if name == "rate-limit":
            await client.get_job(victim)  # takes the only token
        watcher = JobWatcher(
            client, schedule=Fixed(interval=0.01), not_found_grace=0.1, patience=0.1
        )
        async with watcher:
            if name == "unauthorized":
                await watcher.wait(ade.submit(JobPlan()))  # shows that the key works
            causes, end = await settle(ade, watcher, [victim, *others], within)
        assert ade.truth.faults[name] >= 1
        assert times is None or ade.truth.faults[name] == times
        if isinstance(end, PaymentRequiredError):
            assert isinstance(end, errors), "an account without credits ends the whole watch"
            assert {type(cause) for cause in causes.values()} == {type(end)}
            return
        assert isinstance(causes.pop(victim, None), errors or NOTHING)
        assert not causes, "the fault must not affect other jobs"


@faults_of(Endpoint.GET, without=THROTTLING)
async def test_every_job_of_a_watch_settles_once_or_has_a_cause(name, times):
    by_time = JobTimeoutError in IN_A_WATCH[name].always and times is None
    await watch_with_fault(name, times, within=2.0 if by_time else None)


@faults_of(Endpoint.GET, without=set(FAULT_NAMES) - THROTTLING)
def test_a_watch_outlasts_a_429_or_ends_with_its_timeout(name, times):
    within = None if times else 1_000.0
    run_fast(watch_with_fault(name, times, within=within, timeout_of_requests=LONG))


@pytest.mark.parametrize("form", ["absent", "seconds", "date", "absurd"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("rate-limit", {"rate": 0.05, "burst": 3}),
        ("too-many-requests", {"chance": 0.3, "wait": 7.2}),
        ("server-error", {"chance": 0.3, "wait": 7.2}),
    ],
)
def test_no_request_is_sent_before_the_end_of_a_retry_after(name, options, form):
    async def main():
        clock = asyncio.get_running_loop().time
        retry = RetryPolicy(budget=1_000.0)
        async with service(
            clock=lambda: EPOCH + clock(), timeout_of_requests=LONG, retry=retry
        ) as (ade, client):
            ade.faults.add(name, retry_after=form, **options)
            job_ids = [ade.submit() for _ in range(12)]
            # One request at a time, so that no other is on its way when a Retry-After arrives. A
            # sweep that is cancelled can leave one on its way, so there are none.
            async with JobWatcher(client, concurrency=1, patience=LONG, discovery="get") as watcher:
                assert await settle(ade, watcher, job_ids) == ({}, None)
            assert ade.truth.faults[name] >= 1
            assert ade.truth.early_requests == ()

    run_fast(main(), IdleSkippingLoop)


async def test_a_429_delays_all_following_requests():
    async with service(timeout_of_requests=SAFETY) as (ade, client):
        # A busy machine exceeds this rate as well.
        ade.faults.add("rate-limit", rate=10.0, burst=8, retry_after="seconds")
        job_ids = [ade.submit(JobPlan()) for _ in range(40)]
        async with JobWatcher(client, concurrency=8, schedule=Fixed(interval=0.01)) as watcher:
            assert await settle(ade, watcher, job_ids) == ({}, None)
        assert ade.truth.refused[429] >= 1
        # Only requests that were on the wire when the client read the first 429.
        assert ade.truth.early < 8


async def test_all_faults_together_by_chance():
    fatal = {"unauthorized", "payment-required"}
    async with service(timeout_of_requests=SAFETY) as (ade, client):
        for name in IN_A_WATCH.keys() - fatal - TIMING_OUT - THROTTLING:
            options = IN_A_WATCH[name].options
            ade.faults.add(name, endpoints=["get"], chance=0.03, **options)
        job_ids = [ade.submit(JobPlan(processing_time=0.01 * n)) for n in range(60)]
        watcher = JobWatcher(client, schedule=Fixed(interval=0.01), patience=SAFETY)
        async with watcher:
            causes, _ = await settle(ade, watcher, job_ids)
        once = tuple(kind for name in IN_A_WATCH for kind in IN_A_WATCH[name].once)
        assert all(isinstance(cause, once) for cause in causes.values())
        assert len(causes) < len(job_ids)
        assert len(ade.truth.faults) > 10


# --- a watch that sweeps the list ----------------------------------------------------------------


async def settle_by_list(name, **options):
    """Watch jobs, the last of which ends after a request for the list has met the fault."""
    async with service(**options) as (ade, client):
        job_ids = [ade.submit(JobPlan(processing_time=0.01 * n)) for n in range(12)]
        last = ade.submit(JobPlan(processing_time=math.inf))
        ade.faults.add(name, endpoints=["list"], **IN_A_LIST[name].options)
        if name == "rate-limit":
            await client.list_jobs()  # takes the only token
        schedule = Adaptive(target_lag=0.02, minimum=0.01)
        async with JobWatcher(client, discovery="list", schedule=schedule) as watcher:
            async with asyncio.TaskGroup() as group:
                settling = group.create_task(settle(ade, watcher, [*job_ids, last]))
                # In seconds of the loop, which may be fast; `service` limits the real time.
                await until(lambda: ade.truth.faults[name] >= 1, longest=LONG)
                end_now(ade.world, last)
                watcher.poll_now(last)
            assert settling.result() == ({}, None)


LEFT_OUT = {*THROTTLING, *NONSENSE[2:], *BREAKS[2:]}
"""Faults left out of the sweep tests: similar to a tested one, or tested in the fast loop."""


@pytest.mark.parametrize("name", [n for n in possible_at(Endpoint.LIST) if n not in LEFT_OUT])
async def test_every_job_settles_although_the_list_is_wrong(name):
    await settle_by_list(name)


@pytest.mark.parametrize("name", sorted(THROTTLING))
def test_every_job_settles_although_the_list_is_always_refused(name):
    run_fast(settle_by_list(name, timeout_of_requests=LONG))


# --- the list -----------------------------------------------------------------------------------


async def listed(client):
    """Read the list; return the ids in their order, and the error that ended it."""
    job_ids = []
    try:
        async for job in client.iter_jobs():
            job_ids.append(job.job_id)
            assert len(job_ids) < 10_000, "endless"
    except AdePollError as error:
        return job_ids, error
    return job_ids, None


@faults_of(Endpoint.LIST)
async def test_a_list_is_read_to_its_end_or_raises_the_right_error(name, times):
    expected = IN_A_LIST[name]
    errors = expected.always if times is None else expected.once
    async with service(timeout_of_requests=longest_request(name)) as (ade, client):
        submitted = {ade.submit(JobPlan()) for _ in range(230)}
        ade.faults.add(name, endpoints=["list"], times=times, **expected.options)
        if name == "rate-limit":
            await client.list_jobs()  # takes the only token
        job_ids, end = await listed(client)
        assert isinstance(end, errors or NOTHING)
        assert ade.truth.faults[name] >= 1
        assert len(job_ids) == len(set(job_ids)), "a job twice"
        assert set(job_ids) <= submitted
        if end is None and not expected.changes:
            assert set(job_ids) == submitted
        assert ade.truth.requests.list < 20


# --- results ------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def storage(name, times):
    """Yield a fetcher, and a completed job; the fault applies to its result."""
    # This clock advances by 1 s at each reading, so that every poll returns a new presigned URL.
    async with service(clock=itertools.count(EPOCH).__next__) as (ade, client):
        job_id = ade.submit(JobPlan(result_bytes=LARGE))
        options = AT_A_RESULT[name].options
        ade.faults.add(name, endpoints=["result"], times=times, **options)
        async with ResultFetcher(client, patience=0, read_timeout=longest_request(name)) as fetcher:
            yield ade, fetcher, await client.get_job(job_id)
        assert ade.world.traffic.leaks == 0
        assert ade.truth.faults[name] >= 1
        assert times is None or ade.truth.faults[name] == times


def error_of_a_result(name, times):
    expected = AT_A_RESULT[name]
    return (expected.always if times is None else expected.once) or NOTHING


@faults_of(Endpoint.RESULT)
async def test_a_file_appears_completely_or_not_at_all(name, times, tmp_path):
    path, error = tmp_path / "result.json", None
    async with storage(name, times) as (ade, fetcher, job):
        try:
            report = await fetcher.download(job, path)
        except ResultError as raised:
            error = raised
        # A download that is refused requests the whole result once more, without a redirect then.
        survives = name == "redirect" and times is not None
        # If the excess arrives after the last byte of the result was read, nobody reads it.
        may_survive = name == "never-ending" and error is None
        expected = NOTHING if survives or may_survive else error_of_a_result(name, times)
        assert isinstance(error, expected)
        if error is not None:
            assert error.job_id == job.job_id
            # Hidden files allow the next download of the job to resume.
            assert {entry.name[0] for entry in tmp_path.iterdir()} <= {"."}, "a part of a file"
            return
        truth = ade.truth(job.job_id)
        assert hashlib.sha256(path.read_bytes()).hexdigest() == truth.result_sha256
        assert (report.sha256, report.bytes) == (truth.result_sha256, truth.result_bytes)
        assert list(tmp_path.iterdir()) == [path]


@faults_of(Endpoint.RESULT)
async def test_a_result_in_memory_is_complete_or_raises_the_right_error(name, times):
    error = None
    async with storage(name, times) as (ade, fetcher, job):
        try:
            result = await fetcher.result(job)
        except ResultError as raised:
            error = raised
        assert isinstance(error, error_of_a_result(name, times))
        if error is None:
            assert result == v1_extract.decode_result(ade.world.result(job.job_id).read())


@faults_of(Endpoint.RESULT)
async def test_a_stream_yields_correct_bytes_and_ends_without_error_only_after_the_last(
    name, times
):
    received, error = [], None
    async with storage(name, times) as (ade, fetcher, job):
        try:
            async with fetcher.stream(job) as chunks:
                async for chunk in chunks:
                    received.append(chunk)  # noqa: PERF401 - keeps the chunks before an error
        except ResultError as raised:
            error = raised
        whole, body = ade.world.result(job.job_id).read(), b"".join(received)
        if error is None:
            assert body == whole
            return
        # Chunks that were yielded before the error stay: for example, blanks after the end.
        expected = AT_A_RESULT[name]
        assert isinstance(error, expected.once or expected.always if times else expected.always)
        assert times is None or received or expected.once
        assert whole.startswith(body.rstrip())
        assert len(body) < 4 * LARGE


async def test_an_announced_length_that_is_one_byte_short_is_detected(tmp_path):
    path = tmp_path / "result.json"
    async with service() as (ade, client):
        job_id = ade.submit(JobPlan(result_bytes=LARGE))
        ade.faults.add("wrong-length", endpoints=["result"], by=-1, times=1)
        async with ResultFetcher(client, patience=0) as fetcher:
            report = await fetcher.download(job_id, path)
        assert report.sha256 == ade.truth(job_id).result_sha256
