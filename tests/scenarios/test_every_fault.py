"""Every fault of the catalogue, over real sockets: adepoll bears it, or says what it was.

Whoever adds a fault to the emulator says here what adepoll makes of it, at each endpoint: a fault
without an expectation fails. In passing means once; for good means every time, for one job.
"""

import asyncio
import contextlib
import gc
import hashlib
import itertools
import selectors
import time
from collections import Counter

import pytest
from attrs import field, frozen

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
from adepoll.scheduling.policies import Adaptive, Fixed

LARGE = 1_200_000
SOON = 0.2  # seconds until what is silent is given up
SAFETY = 60.0  # seconds after which a test has hung
LONG = 1e6  # where nothing is to be given up
NOTHING = type(None)
THROTTLING = {"rate-limit", "too-many-requests"}
RETRY = RetryPolicy(attempts=3, base=0.001, max_wait=0.01)


@frozen(kw_only=True)
class Expected:
    """What adepoll makes of a fault at one endpoint.

    Attributes:
        options: Of the fault.
        once: The kinds of error where the fault happens once; none where it is borne.
        always: The kinds of error where it happens every time; none where it is borne.
        changes: Whether a list comes with less in it than there is.
    """

    options: dict = field(factory=dict)
    once: tuple = ()
    always: tuple = ()
    changes: bool = False


def borne(**options):
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
    "nan",
    "huge-integer",
    "deep-nesting",
)

# What one request to the API comes to, of one job or of the list.
OF_THE_API = {
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
    "lone-surrogate": borne(),
}
# A watch that is told a status that is no end goes on, and 429 says nothing of the job: both end
# with the time that the caller gave.
OF_A_WATCH = {
    **OF_THE_API,
    "rate-limit": retried(JobTimeoutError, rate=1e-6, burst=1, retry_after="absent"),
    "too-many-requests": retried(JobTimeoutError),
    "not-found": retried(JobNotFoundError),
    "wrong-job-id": retried(WrongJobError),
    "unknown-status": retried(JobTimeoutError),
    "backward-status": retried(JobTimeoutError),
    "duplicate-keys": borne(),
}
OF_A_LIST = {
    **OF_THE_API,
    "rate-limit": retried(RateLimitedError, rate=1e-6, burst=1, retry_after="absent"),
    "too-many-requests": retried(RateLimitedError),
    "not-found": refused(JobNotFoundError),
    "unknown-status": borne(),
    "duplicate-keys": borne(),
    "missing-items": Expected(changes=True),
    "missing-page": Expected(changes=True),
    "shifting-pages": Expected(changes=True),
    "endless-list": borne(),
}
# Blanks; more than was announced; and, to a stream that asks for the bytes behind those, another
# object than before.
OVER_THE_END = (ResultMalformedError, ResultTransferError, ResultChangedError)
OF_A_RESULT = {
    "latency": retried(ResultTransferError, **LATE),
    "silent": retried(ResultTransferError),
    "stalled": retried(ResultTransferError),
    "slow-body": borne(rate=20_000_000.0),
    "server-error": retried(ResultServerError),
    # The first leads to a host for which the URL was not signed; together they lead nowhere.
    "redirect": Expected(once=(ResultForbiddenError,), always=(ResultUrlError,)),
    "overlong": retried(*OVER_THE_END),
    "never-ending": retried(*OVER_THE_END),
    "wrong-length": retried(ResultTransferError, by=-50),
    **dict.fromkeys(BREAKS, retried(ResultTransferError)),
    # The second of these is the refusal of an expired URL, cut off before it has said so.
    "expired-mid-download": retried(ResultTransferError, ResultForbiddenError, ResultExpiredError),
    "changing-etag": borne(),
    "range-ignored": borne(),
    "unrequested-gzip": borne(),
}
EXPECTATIONS = {
    Endpoint.GET: OF_A_WATCH,
    Endpoint.LIST: OF_A_LIST,
    Endpoint.RESULT: OF_A_RESULT,
}


def possible_at(endpoint):
    return [name for name in FAULT_NAMES if endpoint in make_fault(name).effect.endpoints]


def faults_of(endpoint, *, without=()):
    """Give a test every fault of an endpoint, in passing and for good."""
    names = [name for name in possible_at(endpoint) if name not in without]
    cases = [(name, times) for name in names for times in (1, None)]
    ids = [f"{name}-{'for-good' if times is None else 'in-passing'}" for name, times in cases]
    return pytest.mark.parametrize(("name", "times"), cases, ids=ids)


@pytest.mark.parametrize("endpoint", EXPECTATIONS, ids=lambda endpoint: endpoint.value)
def test_each_fault_has_its_expectation_and_there_are_no_others(endpoint):
    assert set(EXPECTATIONS[endpoint]) == set(possible_at(endpoint))


def test_each_fault_can_be_met_by_a_library_that_submits_nothing():
    assert {name for expected in EXPECTATIONS.values() for name in expected} == set(FAULT_NAMES)


# --- the place where it happens -----------------------------------------------------------------


@contextlib.asynccontextmanager
async def service(*, timeout_of_requests=SOON, retry=RETRY, clock=time.time):
    """Give a service and a client of it; at the end, nothing of either may be left."""
    loop = asyncio.get_running_loop()
    tasks, sockets = asyncio.all_tasks(), set(loop._selector.get_map())
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
    for _ in range(5):  # a transport closes its socket one step after it is told to
        await asyncio.sleep(0)
    gc.collect(1)
    await asyncio.sleep(0)
    assert not complaints
    assert asyncio.all_tasks() == tasks
    assert set(loop._selector.get_map()) == sockets, "a socket is left"


def in_real_time(seconds):
    """Only a net: nothing here is expected to take so long."""
    speed = getattr(asyncio.get_running_loop(), "SPEED", 1.0)
    return asyncio.timeout(seconds * speed)


class _HurriedSelector(selectors.DefaultSelector):
    def __init__(self, speed):
        super().__init__()
        self._speed = speed

    def select(self, timeout=None):
        return super().select(timeout and timeout / self._speed)


class HurriedLoop(asyncio.SelectorEventLoop):
    """A loop with real sockets whose clock, and whose sleeps with it, run 1,000 times too fast."""

    SPEED = 1_000.0

    def __init__(self):
        super().__init__(_HurriedSelector(self.SPEED))

    def time(self):
        return time.monotonic() * self.SPEED


class LessHurriedLoop(HurriedLoop):
    """One for tests to which a busy machine's milliseconds must not be seconds."""

    SPEED = 100.0


def hurried(coroutine, loop_factory=HurriedLoop):
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(coroutine)


# --- a watch ------------------------------------------------------------------------------------


def submit_all_kinds(ade):
    """Submit the job that meets the fault, and others that end in each way, some of them later."""
    victim = ade.submit(JobPlan(result_bytes=3_000), job_id="victim")
    others = [ade.submit(JobPlan(outcome=outcome)) for outcome in Outcome]
    others += [
        ade.submit(JobPlan(queue_time=0.02, processing_time=0.05, outcome=outcome))
        for outcome in (Outcome.COMPLETED, Outcome.FAILED)
    ]
    return victim, others


async def settle(ade, watcher, job_ids, within=None):
    """Watch jobs to the end; give the causes of those that were given up, and what ended it."""
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
    except (UnresolvedJobsError, AuthenticationError, PermissionDeniedError) as error:
        end = error
    causes = watch.unresolved
    assert set(ended.values()) <= {1}, "settled twice"
    assert not set(ended) & set(causes)
    assert {*ended, *causes} == set(job_ids), "lost"
    if isinstance(end, UnresolvedJobsError):
        assert end.causes == causes
    return causes, end


async def meet_in_a_watch(name, times, *, within, **options):
    expected = OF_A_WATCH[name]
    given = expected.always if times is None else expected.once
    async with service(**options) as (ade, client):
        victim, others = submit_all_kinds(ade)
        ade.faults.add(name, endpoints=["get"], jobs=[victim], times=times, **expected.options)
        if name == "rate-limit":
            await client.get_job(victim)  # takes the only token
        watcher = JobWatcher(
            client, schedule=Fixed(interval=0.01), not_found_grace=0.1, patience=0.1
        )
        async with watcher:
            causes, end = await settle(ade, watcher, [victim, *others], within)
        assert ade.truth.faults[name] >= 1
        assert times is None or ade.truth.faults[name] == times
        if isinstance(end, AuthenticationError | PermissionDeniedError):
            assert isinstance(end, given), "a key that is refused ends all of it"
            assert {type(cause) for cause in causes.values()} == {type(end)}
            return
        assert isinstance(causes.pop(victim, None), given or NOTHING)
        assert not causes, "the others are none of its business"


@faults_of(Endpoint.GET, without=THROTTLING)
async def test_a_watch_settles_once_or_says_why_not(name, times):
    by_time = JobTimeoutError in OF_A_WATCH[name].always and times is None
    await meet_in_a_watch(name, times, within=0.5 if by_time else None)


@faults_of(Endpoint.GET, without=set(FAULT_NAMES) - THROTTLING)
def test_a_watch_waits_out_a_429_or_as_long_as_it_may(name, times):
    within = None if times else 1_000.0
    hurried(meet_in_a_watch(name, times, within=within, timeout_of_requests=LONG))


@pytest.mark.parametrize("form", ["absent", "seconds", "date", "absurd"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("rate-limit", {"rate": 0.05, "burst": 3}),
        ("too-many-requests", {"chance": 0.3, "wait": 7.2}),
        ("server-error", {"chance": 0.3, "wait": 7.2}),
    ],
)
def test_nobody_comes_back_before_the_time_that_a_refusal_told(name, options, form):
    async def main():
        clock = asyncio.get_running_loop().time
        retry = RetryPolicy(budget=1_000.0)
        async with service(
            clock=lambda: EPOCH + clock(), timeout_of_requests=LONG, retry=retry
        ) as (ade, client):
            ade.faults.add(name, retry_after=form, **options)
            job_ids = [ade.submit() for _ in range(12)]
            # One at a time, so that none is on its way when the others are told to wait.
            async with JobWatcher(client, concurrency=1, patience=LONG) as watcher:
                assert await settle(ade, watcher, job_ids) == ({}, None)
            assert ade.truth.faults[name] >= 1
            assert ade.truth.early == 0

    hurried(main(), LessHurriedLoop)


async def test_a_429_holds_back_all_that_would_have_followed_at_once():
    async with service(timeout_of_requests=SAFETY) as (ade, client):
        ade.faults.add("rate-limit", rate=200.0, burst=8, retry_after="seconds")
        job_ids = [ade.submit(JobPlan()) for _ in range(40)]
        async with JobWatcher(client, concurrency=20, schedule=Fixed(interval=0.01)) as watcher:
            assert await settle(ade, watcher, job_ids) == ({}, None)
        assert ade.truth.refused[429] >= 1
        assert ade.truth.early == 0


async def test_all_of_them_by_chance_over_the_wire():
    ending = {"unauthorized", "forbidden"}
    slow = {"latency", "silent", "stalled", "slow-body"}  # each costs its timeout
    async with service() as (ade, client):
        for name in OF_A_WATCH.keys() - ending - slow - THROTTLING:
            options = OF_A_WATCH[name].options
            ade.faults.add(name, endpoints=["get"], chance=0.03, **options)
        job_ids = [ade.submit(JobPlan(processing_time=0.01 * n)) for n in range(60)]
        watcher = JobWatcher(client, schedule=Fixed(interval=0.01), patience=SAFETY)
        async with watcher:
            causes, _ = await settle(ade, watcher, job_ids)
        once = tuple(kind for name in OF_A_WATCH for kind in OF_A_WATCH[name].once)
        assert all(isinstance(cause, once) for cause in causes.values())
        assert len(causes) < len(job_ids)
        assert len(ade.truth.faults) > 10


# --- a watch that sweeps the list ----------------------------------------------------------------


async def settle_by_list(name, **options):
    async with service(**options) as (ade, client):
        job_ids = [ade.submit(JobPlan(processing_time=0.01 * n)) for n in range(12)]
        ade.faults.add(name, endpoints=["list"], **OF_A_LIST[name].options)
        if name == "rate-limit":
            await client.list_jobs()  # takes the only token
        schedule = Adaptive(target_lag=0.02, minimum=0.01)
        async with JobWatcher(client, discovery="list", schedule=schedule) as watcher:
            assert await settle(ade, watcher, job_ids) == ({}, None)
            assert watcher.stats.list_requests >= 1
        assert ade.truth.faults[name] >= 1


ALIKE = {*THROTTLING, *NONSENSE[2:], *BREAKS[2:]}
"""Faults that come to much the same for a sweep as one that stays, and those that take long."""


@pytest.mark.parametrize("name", [n for n in possible_at(Endpoint.LIST) if n not in ALIKE])
async def test_whatever_is_wrong_with_the_list_each_job_of_a_watch_settles(name):
    await settle_by_list(name)


@pytest.mark.parametrize("name", sorted(THROTTLING))
def test_a_list_that_is_refused_for_ever_keeps_no_job_from_settling(name):
    hurried(settle_by_list(name, timeout_of_requests=LONG))


# --- the list -----------------------------------------------------------------------------------


async def listed(client):
    """Go through the list; give the ids as they came, and what ended it."""
    job_ids = []
    try:
        async for job in client.iter_jobs():
            job_ids.append(job.job_id)
            assert len(job_ids) < 10_000, "without end"
    except AdePollError as error:
        return job_ids, error
    return job_ids, None


@faults_of(Endpoint.LIST)
async def test_a_list_is_read_to_its_end_or_says_why_not(name, times):
    expected = OF_A_LIST[name]
    given = expected.always if times is None else expected.once
    async with service() as (ade, client):
        submitted = {ade.submit(JobPlan()) for _ in range(230)}
        ade.faults.add(name, endpoints=["list"], times=times, **expected.options)
        if name == "rate-limit":
            await client.list_jobs()  # takes the only token
        job_ids, end = await listed(client)
        assert isinstance(end, given or NOTHING)
        assert ade.truth.faults[name] >= 1
        assert len(job_ids) == len(set(job_ids)), "a job twice"
        assert set(job_ids) <= submitted
        if end is None and not expected.changes:
            assert set(job_ids) == submitted
        assert ade.truth.requests.list < 20


# --- results ------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def storage(name, times):
    """Give a fetcher, and a completed job at whose result the fault happens."""
    # Each look at this clock moves it by a second: a URL is presigned for one, and is new the next.
    async with service(clock=itertools.count(EPOCH).__next__) as (ade, client):
        job_id = ade.submit(JobPlan(result_bytes=LARGE))
        options = OF_A_RESULT[name].options
        ade.faults.add(name, endpoints=["result"], times=times, **options)
        async with ResultFetcher(client, read_timeout=SOON) as fetcher:
            yield ade, fetcher, await client.get_job(job_id)
        assert ade.world.traffic.leaks == 0
        assert ade.truth.faults[name] >= 1
        assert times is None or ade.truth.faults[name] == times


def error_of_a_result(name, times):
    expected = OF_A_RESULT[name]
    return (expected.always if times is None else expected.once) or NOTHING


@faults_of(Endpoint.RESULT)
async def test_a_file_appears_whole_or_not_at_all(name, times, tmp_path):
    path, error = tmp_path / "result.json", None
    async with storage(name, times) as (ade, fetcher, job):
        try:
            report = await fetcher.download(job, path)
        except ResultError as raised:
            error = raised
        assert isinstance(error, error_of_a_result(name, times))
        if error is not None:
            assert error.job_id == job.job_id
            # What is hidden is for the next download of that job to go on with.
            assert {entry.name[0] for entry in tmp_path.iterdir()} <= {"."}, "a piece of a file"
            return
        truth = ade.truth(job.job_id)
        assert hashlib.sha256(path.read_bytes()).hexdigest() == truth.result_sha256
        assert (report.sha256, report.bytes) == (truth.result_sha256, truth.result_bytes)
        assert list(tmp_path.iterdir()) == [path]


@faults_of(Endpoint.RESULT)
async def test_a_result_comes_into_memory_whole_or_not_at_all(name, times):
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
async def test_a_stream_gives_the_bytes_that_there_are_and_ends_well_only_after_the_last(
    name, times
):
    received, error = [], None
    async with storage(name, times) as (ade, fetcher, job):
        try:
            async with fetcher.stream(job) as chunks:
                async for chunk in chunks:
                    received.append(chunk)  # noqa: PERF401 - what came before an error, too
        except ResultError as raised:
            error = raised
        whole, body = ade.world.result(job.job_id).read(), b"".join(received)
        if error is None:
            assert body == whole
            return
        # What has been handed out cannot be taken back: what came over the end, for one.
        expected = OF_A_RESULT[name]
        assert isinstance(error, expected.once or expected.always if times else expected.always)
        assert times is None or received or expected.once
        assert whole.startswith(body.rstrip())
        assert len(body) < 4 * LARGE


async def test_a_length_that_is_one_short_is_noticed(tmp_path):
    path = tmp_path / "result.json"
    async with service() as (ade, client):
        job_id = ade.submit(JobPlan(result_bytes=LARGE))
        ade.faults.add("wrong-length", endpoints=["result"], by=-1, times=1)
        async with ResultFetcher(client) as fetcher:
            report = await fetcher.download(job_id, path)
        assert report.sha256 == ade.truth(job_id).result_sha256
