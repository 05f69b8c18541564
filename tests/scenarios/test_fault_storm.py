"""All faults of the emulator together, in virtual time: no job is lost or settled twice.

Each seed draws its own world, faults, watcher and consumers. The default run plays 7 seeds.
`nox -s thorough` plays the others below 500, or below the number in `ADEPOLL_SEEDS`. The name of a
failing test contains its seed, which reproduces it:
``pytest -m "" "tests/scenarios/test_fault_storm.py::test_nothing_is_lost_in_a_storm[17]"``.
"""

import asyncio
import gc
from collections import Counter
from random import Random

import pytest
from amounts import seeds
from internals import at_risk
from watching import now

from adepoll.api.models import JobStatus
from adepoll.emulator import (
    FAULT_NAMES,
    Endpoint,
    JobPlan,
    ListOrder,
    Profile,
    World,
    WorldSource,
    loop_clock,
    make_fault,
    run,
)
from adepoll.errors import (
    AdePollError,
    AnswerError,
    JobNotFoundError,
    JobTimeoutError,
    RateLimitedError,
    RequestError,
    ServiceDownError,
    UnresolvedJobsError,
)
from adepoll.scheduling.schedules import Adaptive, Exponential, Fixed
from adepoll.watching.watcher import JobWatcher

REPLAYED = range(5, 10)  # these seeds together meet every fault
SEEDS = seeds("ADEPOLL_SEEDS", default=range(20, 22), most=500)
WEEK = 7 * 86_400.0
TIMEOUT = 1_500.0  # all but the jobs that never end are settled or given up by then
FATAL = {"unauthorized", "payment-required"}
UNENDING = {"too-many-requests", "rate-limit", "unknown-status", "backward-status"}
"""Faults that a watch tolerates without limit, so that it can end only with its timeout."""

AT_POLLS = [n for n in FAULT_NAMES if Endpoint.GET in make_fault(n).effect.endpoints]
AT_THE_LIST_ONLY = [n for n in FAULT_NAMES if make_fault(n).effect.endpoints == {Endpoint.LIST}]
AT_THE_LIST = [n for n in FAULT_NAMES if Endpoint.LIST in make_fault(n).effect.endpoints]


def draw_options(rng, name):
    form = rng.choice(["absent", "seconds", "date", "absurd"])
    return {
        "latency": {"shape": rng.choice(["uniform", "exponential", "lognormal"]), "median": 3.0},
        "rate-limit": {"rate": rng.uniform(0.5, 9), "burst": rng.uniform(1, 9)},
        "too-many-requests": {"retry_after": form, "wait": rng.uniform(0, 20)},
        "server-error": {"retry_after": form, "wait": rng.uniform(0, 20)},
        "overlong": {"extra_bytes": rng.choice([1_000, 64_000_000])},
        "wrong-length": {"by": rng.choice([-1, 5])},
        "slow-body": {"rate": rng.choice([10.0, 1_000.0])},
    }.get(name, {})


class RecordingSource:
    """The source that the watcher polls; it records the errors and the time of failing polls.

    Like a client, it retries transient errors if it controls the slot.
    """

    def __init__(self, storm, slot=None):
        self.storm, self.slot = storm, slot
        if storm.slotted:
            self.for_polling = lambda slot: RecordingSource(storm, slot)
        if storm.timed:
            self.service_time = storm.source.service_time

    async def get_job(self, job_id):
        storm = self.storm
        try:
            job = await self.poll(job_id)
        except AdePollError as error:
            storm.errors.setdefault(job_id, []).append(error)
            storm.failing_since.setdefault(job_id, now())
            failed_for = now() - storm.failing_since[job_id]
            storm.failed_for[job_id] = max(failed_for, storm.failed_for.get(job_id, 0.0))
            raise
        storm.failing_since.pop(job_id, None)
        return job

    async def list_jobs(self, **which):
        return await self.retry(lambda: self.storm.source.list_jobs(**which))

    async def poll(self, job_id):
        job = await self.retry(lambda: self.storm.source.get_job(job_id))
        if job.is_terminal:
            self.storm.proved.add(job_id)
        return job

    async def retry(self, request):
        storm = self.storm
        for wait in (1.0, 2.0, None):
            try:
                if self.slot is None:
                    return await storm.counting(request())
                async with self.slot:
                    return await storm.counting(request())
            except RequestError as error:
                if self.slot is None or wait is None or not error.transient:
                    raise
                await asyncio.sleep((error.retry_after or 0.0) + storm.rng.uniform(0, wait))
        raise AssertionError("unreachable")


class Storm:
    """One seed."""

    def __init__(self, seed):
        self.rng = rng = Random(seed)
        profile = Profile(
            median=rng.choice([2, 20, 120]),
            sigma=1.0,
            large=0.0,
            small_bytes=(1, 2),
            failed=0.1,
            cancelled=0.05,
            partial=0.05,
        )
        self.world = World(
            clock=loop_clock(),
            seed=seed,
            profile=profile,
            list_order=rng.choice([*ListOrder]),
            list_lag=rng.choice([0.0, 0.0, 3.0, 60.0]),
        )
        for _ in range(rng.choice([0, 0, 20, 250])):  # other people's jobs
            self.world.submit(JobPlan(processing_time=rng.choice([50, float("inf")])))
        self.proved = set()  # jobs that a poll has seen settled
        self.ending = [self.world.submit() for _ in range(rng.randrange(15, 45))]
        start = self.world.now()
        self.ending += [self.world.submit(received_at=start + rng.uniform(0, 9)) for _ in range(3)]
        self.never = [self.world.submit(JobPlan(processing_time=float("inf")))]
        self.missing = ["missing"]
        self.invalid = ["no/id", ""]
        self.truths = {job_id: self.world.truth(job_id) for job_id in self.ending + self.never}
        self.unending = set()
        self.is_fatal = False
        self.add_faults(rng)

        self.errors = {}  # job_id -> errors of its polls
        self.failing_since = {}
        self.failed_for = {}  # job_id -> longest time without a successful poll, in seconds
        self.in_flight = 0
        self.patience = rng.choice([60.0, 600.0])
        self.grace = rng.choice([5.0, 15.0])
        self.slotted, self.timed = rng.random() < 0.5, rng.random() < 0.5
        self.concurrency = rng.choice([1, 4, 64])
        self.buffer = rng.choice([1, 3, 128])
        self.source = WorldSource(world=self.world, rng=rng)
        self.watcher = JobWatcher(
            RecordingSource(self),
            concurrency=self.concurrency,
            buffer=self.buffer,
            schedule=rng.choice(
                [
                    None,
                    Adaptive(target_lag=0.5),
                    Exponential(),
                    Fixed(interval=7),
                    Exponential(factor=3),
                ]
            ),
            discovery=rng.choice(["auto", "list", "get"]),
            not_found_grace=self.grace,
            patience=self.patience,
            rng=rng,
        )

    def add_faults(self, rng):
        """Add faults by chance, faults in windows, and permanent faults of single jobs."""
        faults = self.world.faults
        for name in rng.sample(AT_POLLS, rng.choice([5, 15, len(AT_POLLS)])):
            if name in FATAL:
                if rng.random() < 0.1:
                    self.is_fatal = True
                    faults.add(name, endpoints=["get"], chance=0.01)
                continue
            chance = rng.choice([0.005, 0.02, 0.1])
            window = {}
            if rng.random() < 0.3:
                begin = rng.uniform(0, 60)
                window = {"window": (begin, begin + rng.uniform(1, 60)), "every": 300.0}
                chance *= 5
            if name == "rate-limit":
                chance = 1.0  # its bucket decides which requests it refuses
            faults.add(name, chance=chance, **window, **draw_options(rng, name))
        for job_id in rng.sample(self.ending, 3):
            name = rng.choice([name for name in AT_POLLS if name not in FATAL])
            faults.add(name, jobs=[job_id], **draw_options(rng, name))
            if name in UNENDING:
                self.unending.add(job_id)
        for name in AT_THE_LIST_ONLY:
            faults.add(name, chance=rng.choice([0.0, 0.2]))
        for name in rng.sample(AT_THE_LIST, rng.choice([0, 3, 10])):
            chance = rng.choice([0.02, 0.3, 1.0])
            begin = rng.uniform(0, 60)
            window = {"window": (begin, begin + rng.uniform(1, 200)), "every": 300.0}
            options = draw_options(rng, name) | rng.choice([{}, {}, window])
            faults.add(name, endpoints=["list"], chance=chance, **options)

    async def counting(self, request):
        self.in_flight += 1
        assert self.in_flight <= self.concurrency
        try:
            return await request
        finally:
            self.in_flight -= 1

    def draw_ids(self, *, bounded):
        """Return ids for one consumer, as a random kind of iterable.

        Some occur twice in a list. An iterator may only repeat ids of open jobs.
        """
        rng = self.rng
        job_ids = self.ending + self.missing + self.invalid + self.never
        if not bounded:
            job_ids = [i for i in job_ids if i not in self.unending and i not in self.never]
        job_ids = rng.sample(job_ids, rng.randrange(len(job_ids) // 2, len(job_ids) + 1))

        async def slowly():
            for job_id in job_ids:
                await asyncio.sleep(0.1)
                yield job_id

        kinds = (job_ids + job_ids[:3], dict.fromkeys(job_ids), iter(job_ids), slowly())
        return job_ids, rng.choice(kinds)

    def check_end(self, job):
        truth = self.truths[job.job_id]
        assert job.status is truth.outcome.status
        assert self.world.now() >= truth.finished_at
        assert job.job_id in self.proved, "only a GET of the job may settle it"

    def check_cause(self, job_id, cause):
        """Check that polls of a job really failed with the cause for which it was given up."""
        if job_id in self.invalid:
            return
        errors = self.errors[job_id]
        if isinstance(cause, ServiceDownError):
            # After `outage_patience`, a due job is given up without a poll of its own.
            errors = [error for errors in self.errors.values() for error in errors]
            assert str(cause.cause) in {str(error) for error in errors}
            return
        assert str(cause) in {str(error) for error in errors}
        assert not isinstance(cause, RateLimitedError), "a 429 says nothing about the job"
        failed_for = self.failed_for[job_id]
        if isinstance(cause, JobNotFoundError):
            assert job_id in self.missing or failed_for >= self.grace - 1e-6
        elif cause.transient:
            nonsense = [error for error in errors if isinstance(error, AnswerError)]
            assert len(nonsense) >= 3 or failed_for >= self.patience - 1e-6

    async def watch(self):
        rng = self.rng
        timeout = rng.choice([None, TIMEOUT, 40.0])
        job_ids, given = self.draw_ids(bounded=timeout is not None)
        all_taken = timeout != 40.0 or isinstance(given, list | dict)
        every_change = rng.random() < 0.3
        pause = rng.choice([0.0, 0.0, 0.5])
        begun = now()
        watch = (self.watcher.updates if every_change else self.watcher.watch)(
            given, timeout=timeout
        )
        ended, end = Counter(), None
        try:
            async for job in watch:
                assert job.job_id not in ended, "yielded after its end"
                assert watch.progress.buffered <= self.buffer
                if job.is_terminal or not every_change:
                    ended[job.job_id] += 1
                    self.check_end(job)
                if pause:
                    await asyncio.sleep(pause)
        except UnresolvedJobsError as error:
            end = error
        except RequestError as error:
            end, all_taken = error, False
        causes = watch.unresolved
        assert not {*ended} & {*causes}
        accounted = {*ended, *causes}
        assert accounted == set(job_ids) if all_taken else accounted <= set(job_ids)
        if end is None or isinstance(end, UnresolvedJobsError):
            assert causes == ({} if end is None else end.causes)
        else:
            assert self.is_fatal
            assert end.fatal
            assert None not in causes.values()
        for job_id, cause in causes.items():
            if isinstance(cause, JobTimeoutError):
                assert now() >= begun + timeout - 1e-6
            elif not cause.fatal:
                self.check_cause(job_id, cause)
        return len(ended)

    async def wait(self):
        await asyncio.sleep(self.rng.uniform(0, 60))
        job_id = self.rng.choice(self.ending)
        try:
            job = await self.watcher.wait(job_id, timeout=self.rng.choice([20.0, TIMEOUT]))
        except JobTimeoutError:
            return
        except RequestError as error:
            if not error.fatal:
                self.check_cause(job_id, error)
            return
        assert job.job_id == job_id
        self.check_end(job)

    async def leave_early(self):
        most = self.rng.randrange(8)
        _, given = self.draw_ids(bounded=True)
        async with self.watcher.watch(given, timeout=TIMEOUT) as watch:
            async for job in watch:
                self.check_end(job)
                if not (most := most - 1) > 0:
                    break

    async def browse(self):
        """Read the wrong list, and call `poll_now` for jobs that seem to have ended."""
        for _ in range(15):
            await asyncio.sleep(self.rng.uniform(0, 20))
            try:
                page = await self.source.list_jobs(status=JobStatus.PROCESSING)
            except RequestError:
                continue
            active = {job.job_id for job in page.jobs}
            for job_id in self.ending + self.missing:
                if job_id not in active:
                    self.watcher.poll_now(job_id)

    async def cancel_some(self, tasks):
        for task in tasks:
            await asyncio.sleep(self.rng.uniform(0, 20))
            if self.rng.random() < 0.4:
                task.cancel()

    async def play(self):
        """Run all consumers at the same time; return the number of yielded snapshots."""
        start = asyncio.create_task
        async with asyncio.timeout(WEEK), self.watcher:
            watches = [start(self.watch()) for _ in range(self.rng.randrange(1, 4))]
            others = [start(self.wait()) for _ in range(6)] + [start(self.leave_early())]
            helpers = [start(self.browse()), start(self.cancel_some(others))]
            ended = await asyncio.gather(*watches)
            for end in await asyncio.gather(*others, *helpers, return_exceptions=True):
                left = isinstance(end, asyncio.CancelledError | UnresolvedJobsError)
                if end is not None and not left and not getattr(end, "fatal", False):
                    raise end
            await asyncio.sleep(3)  # a poll can go on for two seconds after the timeout of its wait
            stats = self.watcher.stats
            assert (stats.watched, stats.in_flight, stats.subscribers) == (0, 0, 0)
            assert stats.pending_confirmation == 0
            await asyncio.sleep(10)  # after the last `wait`, its job is not forgotten before
            assert at_risk(self.watcher.durations) == (0, {})
        assert self.in_flight == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return sum(ended)


def play(seed):
    async def main():
        complaints = []
        asyncio.get_running_loop().set_exception_handler(
            lambda _loop, context: complaints.append(context)
        )
        storm = Storm(seed)
        ended = await storm.play()
        gc.collect(1)  # reports exceptions that were not retrieved
        await asyncio.sleep(0)
        assert not complaints
        traffic = storm.world.traffic
        return ended, now(), traffic.get, traffic.list, storm.world.faults.counts

    return run(main())


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_lost_in_a_storm(seed):
    play(seed)


def test_a_storm_replays_exactly_and_every_fault_happens():
    storms = [play(seed) for seed in REPLAYED]
    assert storms[:2] == [play(seed) for seed in REPLAYED[:2]]
    assert sum(ended for ended, *_ in storms) > 50
    applied = set().union(*(counts for *_, counts in storms))
    assert applied >= {*AT_POLLS, *AT_THE_LIST_ONLY} - FATAL
