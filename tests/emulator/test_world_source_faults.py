"""Faults in virtual time: each raises the error that a client would raise."""

import asyncio
import random

import attrs
import pytest

from adepoll import JobKind, errors
from adepoll.api.models import JobStatus
from adepoll.emulator import (
    EPOCH,
    FAULT_NAMES,
    JobPlan,
    World,
    WorldSource,
    loop_clock,
    make_fault,
    run,
)

LATENCY = 0.5


def replay(script, *faults, **options):
    async def main():
        world = World(clock=loop_clock(), seed=3)
        for job_id in ("one", "two"):
            world.submit(JobPlan(result_bytes=3_000), job_id=job_id, received_at=EPOCH - 10)
        for fault in faults:
            world.faults.add(fault)
        latency = (LATENCY, LATENCY)
        source = WorldSource(world=world, latency=latency, rng=random.Random(1), **options)
        return await script(world, source)

    return run(main())


def read(name, *, listed=False, **options):
    """Return the answer or the error of one request, and its time."""

    async def script(world, source):
        try:
            answer = await (source.list_jobs() if listed else source.get_job("one"))
        except errors.AdePollError as error:
            answer = error
        requests = world.traffic.list if listed else world.truth("one").polls
        if name not in {"redirect", "foreign-redirect"}:
            refused = isinstance(answer, errors.StatusError)
            assert world.request_log.statuses.total() == refused
        return answer, loop_clock(0.0)(), requests

    answer, now, count = replay(script, make_fault(name, **options))
    assert count == 1, "every request is counted, answered or not"
    return answer, now


@pytest.mark.parametrize(
    ("name", "cls"),
    [
        ("unauthorized", errors.AuthenticationError),
        ("payment-required", errors.PaymentRequiredError),
        ("forbidden", errors.PermissionDeniedError),
        ("not-found", errors.JobNotFoundError),
        ("request-timeout", errors.ServerTimeoutError),
        ("too-many-requests", errors.RateLimitedError),
        ("server-error", errors.ServerError),
        ("redirect", errors.RedirectRefusedError),
        ("reset-before-headers", errors.TransportError),
        ("reset-in-headers", errors.TransportError),
        ("reset-after-headers", errors.TransportError),
        ("reset-in-body", errors.TransportError),
        ("truncated", errors.TransportError),
        ("overlong", errors.AnswerTooLargeError),
        ("never-ending", errors.AnswerTooLargeError),
        ("wrong-length", errors.TransportError),
        ("html", errors.MalformedAnswerError),
        ("invalid-json", errors.MalformedAnswerError),
        ("empty-body", errors.MalformedAnswerError),
        ("not-an-object", errors.MalformedAnswerError),
        ("missing-status", errors.MalformedAnswerError),
        ("deep-nesting", errors.MalformedAnswerError),
        ("wrong-job-id", errors.WrongJobError),
    ],
)
def test_a_fault_raises_the_error_of_a_client_with_the_job_id(name, cls):
    error, now = read(name)
    assert type(error) is cls
    assert error.job_id == "one"
    assert now <= LATENCY
    if name not in {"wrong-job-id", "missing-status"}:  # they concern single jobs only
        error, _ = read(name, listed=True, endpoints=["list"])
        assert type(error) is cls
        assert error.job_id is None


@pytest.mark.parametrize("name", ["silent", "stalled"])
def test_a_silent_answer_ends_with_the_timeout(name):
    error, now = read(name)
    assert type(error) is errors.AnswerTimeoutError
    assert (error.timeout, now) == (30.0, LATENCY / 2 + 30.0)


def test_a_latency_is_added_and_can_exceed_the_timeout():
    job, now = read("latency", median=7.0, sigma=0.0)
    assert job.status is JobStatus.COMPLETED
    assert now == 7.0 + LATENCY
    error, now = read("latency", median=31.0, sigma=0.0)
    assert type(error) is errors.AnswerTimeoutError
    assert now == 30.0 + LATENCY / 2


def test_a_slow_body_takes_its_time_and_can_exceed_the_timeout():
    job, now = read("slow-body", rate=1_000.0)
    assert job.is_terminal
    assert 3.0 < now < 6.0
    error, _ = read("slow-body", rate=10.0)
    assert type(error) is errors.AnswerTimeoutError


def test_an_announced_length_that_is_too_large_is_a_transport_error():
    error, _ = read("wrong-length", by=5)
    assert type(error) is errors.TransportError


def test_readable_nonsense_is_read():
    job, _ = read("unknown-status")
    assert job.status is JobStatus.UNKNOWN
    job, _ = read("backward-status")
    assert job.status is JobStatus.PROCESSING
    job, _ = read("duplicate-keys")
    assert job.status is JobStatus.COMPLETED
    job, _ = read("nan")
    assert (job.is_terminal, job.progress) == (True, None)
    job, _ = read("huge-integer")
    assert (job.is_terminal, job.received_at, [*job.extra]) == (True, None, ["received_at"])
    job, _ = read("lone-surrogate")
    assert job.org_id.startswith("lone ")


def test_an_overlong_body_within_the_limit_is_read():
    job, _ = read("overlong", extra_bytes=1_000)
    assert job.is_terminal


def test_an_overlong_answer_about_a_v2_job_is_read():
    async def script(world, source):
        job_id = world.submit(JobPlan(), kind="v2-parse")
        assert (await source.for_kind(JobKind.V2_PARSE).get_job(job_id)).job_id == job_id

    replay(script, make_fault("overlong"))


@pytest.mark.parametrize("kind", ["v1-parse", "v2-parse"])
def test_an_overlong_page_of_any_kind_is_refused(kind):
    async def script(_world, source):
        with pytest.raises(errors.AnswerTooLargeError):
            await source.for_kind(JobKind.named(kind)).list_jobs()

    replay(script, make_fault("overlong"))


def test_list_distortions_change_pages():
    assert read("missing-page", listed=True)[0].jobs == ()
    assert read("endless-list", listed=True)[0].has_more
    assert len(read("missing-items", listed=True)[0].jobs) <= 2
    assert len(read("shifting-pages", listed=True)[0].jobs) <= 2


@pytest.mark.parametrize(
    ("options", "least", "most"),
    [
        ({"retry_after": "absent"}, None, None),
        ({"retry_after": "seconds", "wait": 7.2}, 8.0, 8.0),
        ({"retry_after": "date", "wait": 7.2}, 7.2, 8.3),
        ({"retry_after": "seconds", "wait": 1e6}, 300.0, 300.0),
    ],
)
def test_retry_after_is_read_in_each_form(options, least, most):
    error, _ = read("too-many-requests", **options)
    if least is None:
        assert error.retry_after is None
    else:
        assert least <= error.retry_after <= most


def test_an_absurd_retry_after_is_shortened_or_ignored():
    async def script(world, source):
        waits = set()
        for _ in range(100):
            with pytest.raises(errors.RateLimitedError) as caught:
                await source.get_job("one")
            waits.add(caught.value.retry_after)
        return waits

    fault = make_fault("too-many-requests", retry_after="absurd")
    assert replay(script, fault) == {None, 0.0, 300.0}


def test_a_bucket_runs_on_virtual_time_and_early_requests_are_counted():
    async def impatient(world, source):
        refused = 0
        for _ in range(10):
            try:
                await source.get_job("one")
            except errors.RateLimitedError:
                refused += 1
        return refused, world.request_log.early

    async def patient(world, source):
        for _ in range(10):
            try:
                await source.get_job("one")
            except errors.RateLimitedError as error:
                await asyncio.sleep(error.retry_after)
        return world.request_log.early

    async def together(world, source):
        source = attrs.evolve(source, latency=(0.0, 2.0))
        requests = [source.get_job("one") for _ in range(10)]
        answers = await asyncio.gather(*requests, return_exceptions=True)
        assert sum(isinstance(answer, errors.RateLimitedError) for answer in answers) > 3
        return world.request_log.early

    for options in ({"rate": 0.2}, {"rate": 1.0, "wait_min": 5.0, "wait_max": 9.0}):
        limit = make_fault("rate-limit", burst=2, **options)
        refused, early = replay(impatient, limit)
        assert refused > 3
        assert 0 < early < 10
        assert replay(patient, limit) == replay(together, limit) == 0


def test_the_same_seed_gives_the_same_answers():
    async def script(world, source):
        seen = []
        for number in range(200):
            try:
                job = await source.get_job(("one", "two")[number % 2])
                seen.append((loop_clock(0.0)(), job.status_text))
            except errors.AdePollError as error:
                seen.append((loop_clock(0.0)(), str(error)))
        return seen, dict(world.faults.counts)

    faults = [
        make_fault(name, chance=0.05)
        for name in FAULT_NAMES
        if "get" in {endpoint.value for endpoint in make_fault(name).effect.endpoints}
    ]
    first, counts = replay(script, *faults)
    assert (first, counts) == replay(script, *faults)
    assert len(counts) > 20
