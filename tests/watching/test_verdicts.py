"""When a watcher gives a job up and when it ends everything, in virtual time."""

import asyncio
from random import Random

import pytest
from scripted import snapshot
from watching import now, watcher_of

from adepoll.api.client import AdeClient
from adepoll.api.protocol import status_error
from adepoll.emulator import Emulator, JobPlan, run
from adepoll.errors import (
    AuthenticationError,
    JobNotFoundError,
    JobTimeoutError,
    MalformedAnswerError,
    PaymentRequiredError,
    PermissionDeniedError,
    RequestError,
    ServerError,
    ServiceDownError,
    UnresolvedJobsError,
)
from adepoll.scheduling.schedules import Adaptive, Fixed
from adepoll.watching.watcher import JobWatcher


class Service:
    """Answers polls by a function of job and time; sends at most `rate` requests per second.

    Each job takes `takes` seconds.
    """

    def __init__(self, problem, *, rate=None, takes=60.0):
        self.problem, self.takes = problem, takes
        self.interval = 0.0 if rate is None else 1 / rate
        self.next_turn = 0.0
        self.polls = 0
        self.stopped_until = 0.0

    async def get_job(self, job_id):
        self.polls += 1
        turn = max(self.next_turn, now())
        self.next_turn = turn + self.interval
        await asyncio.sleep(turn - now() + 0.05)
        if (error := self.problem(job_id, now())) is not None:
            raise error
        return snapshot(job_id, "completed" if now() >= self.takes else "processing")

    async def list_jobs(self, *, page=0, page_size=100, status=None):
        raise NotImplementedError


def adaptive(source, **options):
    return watcher_of(source, **({"schedule": Adaptive()} | options))


async def settle(watch):
    """Return the ids of the settled jobs, and the error at the end."""
    settled = []
    try:
        async for job in watch:
            settled.append(job.job_id)  # noqa: PERF401 - an error must not lose them
    except (UnresolvedJobsError, AuthenticationError, PaymentRequiredError) as error:
        return settled, error
    return settled, None


def ids(number):
    return [f"job{n}" for n in range(number)]


def broken(job_id):
    return ServerError(status=502, job_id=job_id)


def test_single_errors_under_a_short_budget_give_no_job_up(replay):
    async def script():
        rng = Random(1)
        source = Service(lambda j, _: broken(j) if rng.random() < 0.05 else None, rate=1.0)
        async with adaptive(source) as watcher:
            settled, error = await settle(watcher.watch(ids(300)))
        assert (len(settled), error) == (300, None)

    replay(script)


@pytest.mark.parametrize("jobs", [1, 20, 60])
def test_an_outage_of_ten_minutes_gives_no_job_up(replay, jobs):
    async def script():
        source = Service(lambda j, t: broken(j) if 30 < t < 630 else None)
        async with adaptive(source) as watcher:
            settled, error = await settle(watcher.watch(ids(jobs)))
        assert (len(settled), error) == (jobs, None)

    replay(script)


@pytest.mark.parametrize("patience", [0.5, 2])
def test_a_bad_job_is_no_outage_for_good_jobs_that_are_polled_rarely(replay, patience):
    """The pauses of the good jobs are longer than `outage_patience`."""

    async def script():
        source = Service(lambda j, _: broken(j) if j == "bad" else None, takes=200.0)
        async with watcher_of(source, schedule=Fixed(interval=60), patience=patience) as watcher:
            settled, error = await settle(watcher.watch([*ids(20), "bad"]))
        assert (sorted(settled), [*error.causes]) == (sorted(ids(20)), ["bad"])

    replay(script)


@pytest.mark.parametrize("status", [403, 404])
@pytest.mark.parametrize("found", [False, True])
def test_without_patience_a_job_that_is_not_found_has_its_grace(replay, status, found):
    def problem(job_id, time):
        if job_id == "good" or (found and time < 2):
            return None
        return status_error(status, {}, b"", job_id=job_id)

    async def script():
        source = Service(problem, takes=100.0)
        async with adaptive(source, patience=0) as watcher, watcher.watch(["good"]) as watch:
            with pytest.raises((JobNotFoundError, PermissionDeniedError)):
                await watcher.wait("bad")
            assert 15 <= now() < 22
            assert [job.job_id async for job in watch] == ["good"]

    replay(script)


def test_a_wait_outlasts_an_outage_of_ten_minutes(replay):
    async def script():
        source = Service(lambda j, t: broken(j) if t < 600 else None)
        async with adaptive(source) as watcher:
            assert (await watcher.wait("a")).job_id == "a"

    replay(script)


def test_a_single_job_with_a_dead_service_is_given_up_after_the_documented_time(replay):
    async def script():
        async with adaptive(Service(lambda j, _: broken(j)), patience=50) as watcher:
            with pytest.raises(ServerError):
                await watcher.wait("a")
        assert 600 <= now() < 700

    replay(script)


def test_many_jobs_are_given_up_soon_after_the_outage_patience(replay):
    """Like a client in an outage, the source sends few requests, and few polls wait for it."""

    async def script():
        source = Service(lambda j, _: broken(j), rate=1 / 8)
        limits = {"patience": 10, "outage_patience": 120, "concurrency": 4}
        async with adaptive(source, **limits) as watcher:
            settled, error = await settle(watcher.watch(ids(100)))
        assert (settled, len(error.causes)) == ([], 100)
        assert {type(cause) for cause in error.causes.values()} == {ServerError, ServiceDownError}
        assert 120 <= now() < 150

    replay(script)


@pytest.mark.parametrize("jobs", [50, 300])
def test_jobs_of_a_client_are_given_up_soon_after_a_short_outage_patience(jobs):
    """The first failures are of list requests, and in an outage a request is sent every 10 s."""

    async def main():
        loop = asyncio.get_running_loop()
        async with Emulator() as ade, AdeClient(ade.api_key, base_url=ade.base_url) as client:
            submitted = [ade.submit(JobPlan(processing_time=1e6)) for _ in range(jobs)]
            loop.call_later(100, ade.faults.add, "server-error")
            begun = loop.time()
            async with JobWatcher(client, patience=60, outage_patience=60) as watcher:
                settled, error = await settle(watcher.watch(submitted))
            assert (settled, len(error.causes)) == ([], jobs)
            assert 160 <= loop.time() - begun < 190

    run(main())


@pytest.mark.parametrize("patience", [1.0, 5.0, 20.0])
def test_a_short_outage_patience_is_kept(replay, patience):
    """No pause between two polls is longer than the tenth of it that counts."""

    async def script():
        service = Service(lambda job_id, _: broken(job_id))
        async with adaptive(service, patience=1.0, outage_patience=patience) as watcher:
            with pytest.raises(ServerError):
                await watcher.wait("a")
            assert patience <= now() <= 1.2 * patience + 2.0

    replay(script)


def test_one_failing_job_beside_good_ones_is_given_up_after_the_patience(replay):
    async def script():
        source = Service(lambda j, _: broken(j) if j == "bad" else None, takes=400.0)
        async with adaptive(source) as watcher:
            times = {}
            async for end in watcher.watch([*ids(20), "bad"], errors="yield"):
                times[end.job_id] = now()
        assert 300 <= times["bad"] < 360

    replay(script)


def test_failing_jobs_that_are_left_at_the_end_are_no_outage(replay):
    async def script():
        bad = [f"bad{n}" for n in range(12)]
        source = Service(lambda j, _: broken(j) if j in bad else None, takes=90.0)
        async with adaptive(source) as watcher:
            settled, error = await settle(watcher.watch([*bad, *ids(40)]))
        assert len(settled) == 40
        assert sorted(error.causes) == sorted(bad)
        assert 300 <= now() < 400

    replay(script)


def test_malformed_jobs_end_soon_and_do_not_slow_down_others(replay):
    async def script():
        def problem(job_id, _):
            if job_id.startswith("bad"):
                return MalformedAnswerError(["no JSON @ $"], job_id=job_id)
            return None

        bad = [f"bad{n}" for n in range(12)]
        async with adaptive(Service(problem, takes=5.0), patience=10) as watcher:
            settled, error = await settle(watcher.watch([*bad, *ids(40)]))
        assert sorted(settled) == sorted(ids(40))
        assert sorted(error.causes) == sorted(bad)
        assert 10 <= now() < 13

    replay(script)


STRANGE = [204, 302, 308, 400, 405, 409, 410, 418, 423, 425, 451, 499]


@pytest.mark.parametrize("status", STRANGE)
def test_a_few_answers_with_an_undocumented_status_give_no_job_up(replay, status):
    async def script():
        source = Service(lambda j, t: strange(j, status) if 10 < t < 20 else None)
        async with adaptive(source) as watcher:
            settled, error = await settle(watcher.watch(ids(30)))
        assert (len(settled), error) == (30, None)

    replay(script)


@pytest.mark.parametrize("status", STRANGE)
def test_a_job_that_always_has_an_undocumented_status_ends_like_a_malformed_one(replay, status):
    async def script():
        source = Service(lambda j, _: strange(j, status) if j == "bad" else None, takes=5.0)
        async with adaptive(source) as watcher:
            settled, error = await settle(watcher.watch(["bad", *ids(30)]))
        assert len(settled) == 30
        assert error.causes["bad"].status == status
        assert 60 <= now() < 75

    replay(script)


def strange(job_id, status):
    return status_error(status, {}, b"", job_id=job_id)


# --- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [AuthenticationError, PermissionDeniedError])
@pytest.mark.parametrize("seconds", [0.06, 5.0])
def test_a_key_that_works_survives_short_refusals(replay, cls, seconds):
    async def script():
        status = 401 if cls is AuthenticationError else 403
        source = Service(
            lambda j, t: cls(status=status, job_id=j) if 20 < t < 20 + seconds else None
        )
        async with adaptive(source) as watcher:
            settled, error = await settle(watcher.watch(ids(60)))
        assert (len(settled), error) == (60, None)

    replay(script)


def test_a_revoked_key_ends_everything_once(replay):
    async def script():
        source = Service(lambda j, t: AuthenticationError(status=401, job_id=j) if t > 20 else None)
        async with adaptive(source) as watcher:
            wait = asyncio.create_task(watcher.wait("other"))
            _, error = await settle(watcher.watch(ids(60)))
            assert isinstance(error, AuthenticationError)
            with pytest.raises(AuthenticationError):
                await wait
            assert 30 <= now() < 45
            polls = source.polls
            await asyncio.sleep(1_000)
            assert source.polls == polls

    replay(script)


def test_one_forbidden_job_concerns_no_other(replay):
    async def script():
        source = Service(
            lambda j, _: PermissionDeniedError(status=403, job_id=j) if j == "bad" else None
        )
        async with adaptive(source) as watcher:
            waits = [asyncio.create_task(watcher.wait(job_id)) for job_id in ("bad", *ids(3))]
            settled, error = await settle(watcher.watch(["bad", *ids(20)]))
            assert len(settled) == 20
            assert isinstance(error.causes["bad"], PermissionDeniedError)
            ends = await asyncio.gather(*waits, return_exceptions=True)
            assert [type(end).__name__ for end in ends] == [
                "PermissionDeniedError",
                *["JobSnapshot"] * 3,
            ]

    replay(script)


@pytest.mark.parametrize("good", [3, 30])
@pytest.mark.parametrize(
    ("cls", "status", "found"),
    [
        (PermissionDeniedError, 403, False),
        (PermissionDeniedError, 403, True),
        (JobNotFoundError, 404, False),
        (JobNotFoundError, 404, True),
    ],
)
def test_refused_jobs_that_are_left_at_the_end_are_given_up(replay, cls, status, found, good):
    async def script():
        def problem(job_id, at):
            is_bad = job_id.startswith("bad") and (at > 5 or not found)
            return cls(status=status, job_id=job_id) if is_bad else None

        bad = [f"bad{n}" for n in range(5)]
        async with adaptive(Service(problem), patience=60) as watcher:
            settled, error = await settle(watcher.watch([*bad, *ids(good)]))
        assert len(settled) == good
        assert sorted(error.causes) == bad
        assert now() < 180, "like an outage"  # which lasts 720 s at most

    replay(script)


def test_an_account_without_credits_is_one_stop(replay):
    async def script():
        source = Service(
            lambda j, t: PaymentRequiredError(status=402, job_id=j) if t > 20 else None
        )
        async with adaptive(source) as watcher:
            watch = watcher.watch(ids(60))
            _, error = await settle(watch)
            assert isinstance(error, PaymentRequiredError)
            assert len(watch.unresolved) == 60

    replay(script)


# --- long polling -------------------------------------------------------------------------------


async def wait_repeatedly(watcher, most):
    """Wait 5 seconds again and again; return the errors until one is no timeout of the wait."""
    errors = []
    while len(errors) < most:
        try:
            await watcher.wait("a", timeout=5)
        except JobTimeoutError as error:
            errors.append(error)
        except RequestError as error:
            return [*errors, error]
        await asyncio.sleep(1)
    return errors


def test_short_waits_for_an_unknown_job_end_after_its_grace(replay):
    async def script():
        source = Service(lambda j, _: JobNotFoundError(status=404, job_id=j))
        async with adaptive(source) as watcher:
            errors = await wait_repeatedly(watcher, 10)
            assert isinstance(errors[-1], JobNotFoundError)
            assert len(errors) <= 5
            assert isinstance(errors[0].last_error, JobNotFoundError)
            assert (errors[0].last_status, errors[1].polls > errors[0].polls) == (None, True)
            again = await wait_repeatedly(watcher, 10)
            assert [type(error) for error in again] == [JobNotFoundError], "known by now"

    replay(script)


def test_short_waits_end_after_the_documented_time_while_the_service_is_down(replay):
    async def script():
        async with adaptive(Service(lambda j, _: broken(j)), patience=10) as watcher:
            errors = await wait_repeatedly(watcher, 100)
            assert isinstance(errors[-1], ServerError)
            assert 120 <= now() < 150
            assert all(isinstance(error.last_error, ServerError) for error in errors[:-1])
            assert "502" in str(errors[0])

    replay(script)


@pytest.mark.parametrize("ends", [300, 320, 335, 350])
def test_jobs_that_end_in_an_outage_are_noticed_soon_after_it(replay, ends):
    """The pauses grow to a minute during the outage. When it ends, one answer is enough."""

    async def script():
        def down(job_id, at):
            return ServerError(status=503, job_id=job_id) if 20 <= at < ends else None

        async with adaptive(Service(down, takes=100.0)) as watcher:
            late = [now() - ends async for _ in watcher.watch([f"j-{n}" for n in range(40)])]
        assert len(late) == 40
        assert max(late) - min(late) <= 16.0

    replay(script)
