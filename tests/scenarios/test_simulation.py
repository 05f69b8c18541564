"""Thousands of jobs with faults over hours of virtual time, with the real watcher: no job is lost.

Each seed draws its own world, options, consumers and faults. `nox -s thorough` runs 60 seeds, or
the number in `ADEPOLL_SEEDS`. The name of a failing test contains its seed, which reproduces it:
``pytest -m "" "tests/scenarios/test_simulation.py::test_everything_is_accounted_for[17]"``.
"""

import asyncio
import gc
from collections import Counter
from random import Random

import attrs
import pytest
from amounts import seeds
from internals import at_risk
from watching import free_slots, now

from adepoll.api.models import JobStatus
from adepoll.emulator import JobPlan, ListOrder, Profile, World, WorldSource, loop_clock, run
from adepoll.errors import (
    AnswerError,
    AnswerTimeoutError,
    AuthenticationError,
    InvalidJobIdError,
    JobNotFoundError,
    JobTimeoutError,
    MalformedAnswerError,
    PermissionDeniedError,
    RateLimitedError,
    ServerError,
    TransportError,
    UnresolvedJobsError,
    WrongJobError,
)
from adepoll.scheduling.schedules import Adaptive, Exponential, Fixed
from adepoll.watching.watcher import JobWatcher

SEEDS = seeds("ADEPOLL_SEEDS", default=range(2), most=60)
DAY = 86_400.0
GRACE = 15.0
PATIENCE = 600.0


def draw_fault(rng, job_id):
    """Return a random error of a poll that may succeed later."""
    return rng.choice(
        [
            lambda: TransportError("the connection was reset", job_id=job_id),
            lambda: AnswerTimeoutError(timeout=30.0, job_id=job_id),
            lambda: ServerError(status=500, job_id=job_id),
            lambda: ServerError(status=503, job_id=job_id, retry_after=2.0),
            lambda: RateLimitedError(status=429, job_id=job_id),
            lambda: RateLimitedError(status=429, job_id=job_id, retry_after=rng.uniform(0, 9)),
            lambda: JobNotFoundError(status=404, job_id=job_id),
            lambda: MalformedAnswerError(["no JSON @ $"], job_id=job_id),
            lambda: WrongJobError(job_id=job_id, answered="another"),
        ]
    )()


def draw_list_fault(rng):
    """Return a random error of a request for the list."""
    return rng.choice(
        [
            lambda: TransportError("the connection was reset", job_id=None),
            lambda: AnswerTimeoutError(timeout=30.0, job_id=None),
            lambda: ServerError(status=500),
            lambda: RateLimitedError(status=429, retry_after=rng.choice([None, 2.0, 60.0])),
            lambda: MalformedAnswerError(["no JSON @ $"], job_id=None),
        ]
    )()


LIST_ERRORS = {
    "403": lambda: PermissionDeniedError(status=403),
    "404": lambda: JobNotFoundError(status=404),
    "429": lambda: RateLimitedError(status=429, retry_after=5.0),
    "500": lambda: ServerError(status=500),
    "timeout": lambda: AnswerTimeoutError(timeout=30.0, job_id=None),
    "garbage": lambda: MalformedAnswerError(["no JSON @ $"], job_id=None),
    "unexpected": lambda: NotImplementedError("there is no list"),
}
LIST_LIES = ["empty", "loses some", "frozen", "all statuses", "never whole"]


class RetryingSource:
    """Retries transient errors, as a client does, and holds the slot only during requests."""

    def __init__(self, source, rng, slot=None):
        self.source, self.rng, self.slot = source, rng, slot
        if hasattr(source, "service_time"):
            self.service_time = source.service_time

    def for_polling(self, slot):
        return RetryingSource(self.source, self.rng, slot)

    async def get_job(self, job_id):
        return await self.retry(lambda: self.source.get_job(job_id))

    async def list_jobs(self, **which):
        return await self.retry(lambda: self.source.list_jobs(**which))

    async def retry(self, request):
        for attempt in range(4):
            try:
                async with self.slot:
                    return await request()
            except (TransportError, ServerError, RateLimitedError, AnswerError) as error:
                if attempt == 3:
                    raise
                await asyncio.sleep((error.retry_after or 0) + self.rng.uniform(0, 2**attempt))
        raise AssertionError("unreachable")


class Simulation:
    """One seed: a world, a watcher, and its consumers."""

    def __init__(self, seed, jobs):
        self.rng = rng = Random(seed)
        self.world = World(
            clock=loop_clock(),
            seed=seed,
            profile=Profile(
                median=rng.choice([2, 8, 60]), sigma=1.0, large=0.0, small_bytes=(1, 2), failed=0.1
            ),
            list_order=rng.choice([*ListOrder]),
            list_lag=rng.choice([0.0, 0.0, 1.0, 3.0, 20.0, 400.0]),
        )
        self.list_fault_rate = rng.choice([0.0, 0.0, 0.05, 0.3])
        self.list_error = rng.choice([None, None, None, None, *LIST_ERRORS])
        self.list_lie = rng.choice([None, None, None, None, *LIST_LIES])
        self.list_bad_at = rng.choice([0.0, 10.0, 60.0])  # time from which the list is wrong
        self.frozen = {}
        for _ in range(rng.choice([0, 0, 30, 300, 1_000])):  # other people's jobs
            self.world.submit(JobPlan(processing_time=rng.choice([5, 50, 500, float("inf")])))
        self.foreign = {truth.job_id for truth in self.world.truths()}
        self.proved = set()  # jobs that a poll has seen settled
        self.fault_rate = rng.choice([0.0, 0.02, 0.1, 0.4])
        self.outages = [
            (start, start + rng.uniform(1, 100))
            for start in (rng.uniform(0, 300) for _ in range(rng.choice([0, 1, 3])))
        ]
        self.revoked_at = DAY
        self.faults = {}  # job_id -> errors of its polls
        self.failing_since = {}  # job_id -> time of the first error since the last success
        self.failed_for = {}  # job_id -> longest time without success, in seconds
        self.in_flight = 0
        self.most_in_flight = 0

        settled = [self.world.submit() for _ in range(jobs)]
        start = self.world.now()
        self.late = [
            self.world.submit(received_at=start + rng.uniform(0, 12)) for _ in range(jobs // 20)
        ]
        self.ending = settled + self.late
        self.never = [
            self.world.submit(JobPlan(queue_time=5, processing_time=float("inf")))
            for _ in range(rng.randrange(4))
        ]
        self.missing = [f"missing-{number}" for number in range(rng.randrange(4))]
        self.invalid = ["no/id", "", 7][: rng.randrange(4)]
        self.truths = {
            truth.job_id: truth for truth in self.world.truths() if truth.job_id not in self.foreign
        }

        latency = rng.choice([(0.0, 0.0), (0.02, 0.2), (0.5, 5.0)])
        self.source = WorldSource(world=self.world, latency=latency, rng=rng, failures=self.fault)
        self.clock_offset = rng.choice([None, 0.0, 0.0, -40.0, 1e6])
        self.concurrency = rng.choice([1, 3, 16, 64])
        self.semaphore = asyncio.Semaphore(self.concurrency)
        self.buffer = rng.choice([1, 2, 10, 128])
        self.watcher = JobWatcher(
            RetryingSource(Counted(self), rng) if rng.random() < 0.5 else Counted(self),
            concurrency=self.semaphore if rng.random() < 0.5 else self.concurrency,
            buffer=self.buffer,
            schedule=rng.choice(
                [
                    None,
                    Adaptive(target_lag=0.3),
                    Adaptive(target_lag=20, maximum=30),
                    Exponential(),
                    Fixed(interval=3),
                    Fixed(interval=40),
                    Exponential(factor=3),
                ]
            ),
            discovery=rng.choice(["auto", "auto", "list", "get"]),
            not_found_grace=GRACE,
            patience=PATIENCE,
            rng=rng,
        )

    def fault(self, job_id):
        if now() >= self.revoked_at:
            return AuthenticationError(status=401, job_id=job_id)
        if job_id is None:
            return self.list_fault()
        if any(start <= now() < end for start, end in self.outages):
            error = ServerError(status=502, job_id=job_id)
        elif self.rng.random() < self.fault_rate:
            error = draw_fault(self.rng, job_id)
        else:
            return None
        since = self.failing_since.setdefault(job_id, now())
        self.failed_for[job_id] = max(self.failed_for.get(job_id, 0.0), now() - since)
        self.faults.setdefault(job_id, []).append(error)
        return error

    def list_fault(self):
        if any(start <= now() < end for start, end in self.outages):
            return ServerError(status=502)
        if self.list_error is not None and now() >= self.list_bad_at:
            return LIST_ERRORS[self.list_error]()
        return draw_list_fault(self.rng) if self.rng.random() < self.list_fault_rate else None

    async def list_jobs(self, *, page, page_size, status):
        """Return the page of the world, or a wrong one."""
        lie = self.list_lie if now() >= self.list_bad_at else None
        listed_status = None if lie == "all statuses" else status
        listed = await self.source.list_jobs(page=page, page_size=page_size, status=listed_status)
        if lie == "empty":
            return attrs.evolve(listed, jobs=(), has_more=self.rng.random() < 0.5)
        if lie == "loses some":
            kept = [job for job in listed.jobs if sum(job.job_id.encode()) % 3]
            return attrs.evolve(listed, jobs=tuple(kept))
        if lie == "frozen":
            return self.frozen.setdefault((page, status), listed)
        if lie == "never whole":
            return attrs.evolve(listed, has_more=True)
        return listed

    def draw_ids(self, *, bounded):
        """Return ids for one consumer, some of them twice; with a bound, some jobs never end."""
        pool = self.ending + self.missing + self.invalid + (self.never if bounded else [])
        job_ids = self.rng.sample(pool, self.rng.randrange(len(pool) // 2, len(pool) + 1))
        job_ids += self.rng.sample(job_ids, len(job_ids) // 10)
        self.rng.shuffle(job_ids)
        return job_ids

    def dress(self, job_ids):
        """Return the ids as one of the kinds of iterable that a watch accepts.

        Only a collection has duplicates: an id that comes again late from an iterator is watched
        anew.
        """
        unique = dict.fromkeys(job_ids)
        kind = self.rng.randrange(4)
        pause = self.rng.choice([0.0, 0.01, 0.2])

        async def slowly():
            for job_id in unique:
                if pause:
                    await asyncio.sleep(pause)
                yield job_id

        # A set of strings would have another order in each process.
        return (list(job_ids), unique, iter(unique), slowly())[kind]

    def check_end(self, job):
        truth = self.truths[job.job_id]
        assert job.is_terminal
        assert job.status is truth.outcome.status
        assert self.world.now() >= truth.finished_at
        assert job.job_id in self.proved, "only a GET of the job may settle it"

    def check_cause(self, job_id, cause, timed_out):
        """Check that the cause for which a job was given up is true."""
        if isinstance(cause, JobTimeoutError):
            assert timed_out, f"{job_id!r} was given up before its time"
        elif isinstance(cause, InvalidJobIdError):
            assert job_id in {str(i) for i in self.invalid} | {f"int {i}" for i in self.invalid}
        elif isinstance(cause, JobNotFoundError):
            errors = [e for e in self.faults.get(job_id, ()) if isinstance(e, JobNotFoundError)]
            # A job that arrives late was really missing at its first poll.
            assert job_id in self.missing or len(errors) >= (1 if job_id in self.late else 2)
        else:
            assert isinstance(cause, TransportError | ServerError | AnswerError), repr(cause)
            nonsense = [e for e in self.faults[job_id] if isinstance(e, AnswerError)]
            failed_for = self.failed_for[job_id]
            assert len(nonsense) >= 3 or failed_for >= PATIENCE - 10, f"given up for {cause!r}"

    # The consumers.

    async def watch(self, *, every_change):
        rng = self.rng
        timeout = rng.choice([None, None, 30.0, 2_000.0])
        job_ids = self.draw_ids(bounded=timeout is not None)
        ids = self.dress(job_ids)
        all_taken = timeout is None or isinstance(ids, list | dict)
        pause = rng.choice([0.0, 0.0, 0.05, 1.0])
        begun = now()
        make = self.watcher.updates if every_change else self.watcher.watch
        watch = make(ids, timeout=timeout)
        statuses, ended, causes = {}, Counter(), {}
        try:
            async for job in watch:
                assert watch.progress.buffered <= self.buffer
                yielded = statuses.setdefault(job.job_id, [])
                assert job.job_id not in ended, "yielded after its end"
                assert not yielded or yielded[-1] != job.status_text, "the same status twice"
                yielded.append(job.status_text)
                if job.is_terminal or not every_change:
                    ended[job.job_id] += 1
                    self.check_end(job)
                if pause:
                    await asyncio.sleep(rng.uniform(0, 2 * pause))
        except UnresolvedJobsError as error:
            causes = error.causes
        assert not set(ended) & set(causes)
        assert set(ended.values()) <= {1}
        given = {job_id if isinstance(job_id, str) else f"int {job_id}" for job_id in job_ids}
        accounted = {*ended, *causes}
        assert accounted == given if all_taken else accounted <= given
        assert watch.unresolved == causes
        assert watch.progress.known == len(accounted)
        for job_id, cause in causes.items():
            self.check_cause(job_id, cause, timeout is not None and now() >= begun + timeout - 1e-6)
        return len(ended)

    async def leave_early(self):
        """Leave a watch early, by a break with or without a context manager."""
        rng = self.rng
        seen, most = [], rng.randrange(20)
        ids = self.dress(self.draw_ids(bounded=True))
        if rng.random() < 0.5:
            async with asyncio.timeout(rng.uniform(0, 60)) as scope, self.watcher.watch(ids) as w:
                async for job in w:
                    seen.append(job.job_id)
                    if len(seen) > most:
                        break
                else:
                    pytest.fail("the watch cannot have ended")
                scope.reschedule(None)
        else:
            async for job in self.watcher.watch(ids, timeout=3_000):
                seen.append(job.job_id)
                if len(seen) > most:
                    break
        assert len(seen) == len(set(seen))

    async def wait(self):
        rng = self.rng
        await asyncio.sleep(rng.uniform(0, 60))
        job_id = rng.choice(self.ending)
        timeout = rng.choice([None, None, rng.uniform(0, 30)])
        begun = now()
        try:
            job = await self.watcher.wait(job_id, timeout=timeout)
        except JobTimeoutError:
            assert now() == pytest.approx(begun + timeout)
        except (AnswerError, JobNotFoundError, ServerError, TransportError) as error:
            self.check_cause(job_id, error, timed_out=False)
        else:
            assert job.job_id == job_id
            self.check_end(job)

    async def poll_now(self):
        for _ in range(200):
            await asyncio.sleep(self.rng.expovariate(2))
            self.watcher.poll_now(self.rng.choice(self.ending + self.missing))

    async def cancel_some(self, tasks):
        for task in tasks:
            await asyncio.sleep(self.rng.uniform(0, 10))
            if self.rng.random() < 0.3:
                task.cancel()

    async def play(self):
        """Run all consumers at the same time; return the number of yielded snapshots."""
        async with asyncio.timeout(DAY), self.watcher:
            watches = [
                asyncio.create_task(self.watch(every_change=self.rng.random() < 0.3))
                for _ in range(self.rng.randrange(1, 4))
            ]
            others = [
                *(asyncio.create_task(self.leave_early()) for _ in range(2)),
                *(asyncio.create_task(self.wait()) for _ in range(20)),
            ]
            helpers = [
                asyncio.create_task(work) for work in (self.poll_now(), self.cancel_some(others))
            ]
            ended = await asyncio.gather(*watches)
            ends = await asyncio.gather(*others, *helpers, return_exceptions=True)
            for end in ends:
                accepted = (type(None), TimeoutError, asyncio.CancelledError, UnresolvedJobsError)
                if not isinstance(end, accepted):
                    raise end
            del ends, others, helpers, end
            gc.collect()
            await asyncio.sleep(1)  # for watches that were garbage-collected
            stats = self.watcher.stats
            assert (stats.watched, stats.in_flight, stats.subscribers) == (0, 0, 0)
            await asyncio.sleep(60)  # a sweep that is under way ends
            requests = self.world.traffic.get + self.world.traffic.list
            await asyncio.sleep(1_000)
            assert self.world.traffic.get + self.world.traffic.list == requests
            assert at_risk(self.watcher.durations) == (0, {})
        await self.check_no_resources_are_left()
        return sum(ended)

    async def check_no_resources_are_left(self):
        assert self.in_flight == 0
        assert self.most_in_flight <= self.concurrency
        assert await free_slots(self.semaphore) == self.concurrency
        assert asyncio.all_tasks() == {asyncio.current_task()}


class Counted:
    """The source; it counts the requests in flight."""

    def __init__(self, simulation):
        self.simulation = simulation

        if simulation.clock_offset is not None:
            self.service_time = lambda: simulation.world.now() + simulation.clock_offset

    async def get_job(self, job_id):
        job = await self.counting(self.simulation.source.get_job(job_id))
        self.simulation.failing_since.pop(job_id, None)
        if job.is_terminal:
            self.simulation.proved.add(job_id)
        return job

    async def list_jobs(self, *, page=0, page_size=100, status=None):
        assert page_size == 100
        assert status in {JobStatus.PROCESSING, JobStatus.PENDING}
        return await self.counting(
            self.simulation.list_jobs(page=page, page_size=page_size, status=status)
        )

    async def counting(self, request):
        self.simulation.in_flight += 1
        self.simulation.most_in_flight = max(
            self.simulation.most_in_flight, self.simulation.in_flight
        )
        try:
            return await request
        finally:
            self.simulation.in_flight -= 1


def simulate(seed, jobs, play):
    async def main():
        complaints = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _loop, context: complaints.append(context))
        simulation = Simulation(seed, jobs)
        result = await play(simulation)
        assert not complaints
        return result, simulation.world.traffic.get, simulation.world.traffic.list, now()

    return run(main())


@pytest.mark.parametrize("seed", SEEDS)
def test_everything_is_accounted_for(seed):
    simulate(seed, 150, Simulation.play)


def test_a_seed_replays_exactly():
    assert simulate(7, 100, Simulation.play) == simulate(7, 100, Simulation.play)


@pytest.mark.thorough
@pytest.mark.parametrize(("seed", "jobs"), [(2, 1_500), (3, 5_000)])
def test_many_jobs_at_the_same_time(seed, jobs):
    async def play(simulation):
        async with asyncio.timeout(DAY), simulation.watcher:
            return await simulation.watch(every_change=False)

    yielded, polls, *_ = simulate(seed, jobs, play)
    assert yielded > 0.4 * jobs
    assert polls < 20 * (jobs + 250)


@pytest.mark.parametrize("seed", seeds("ADEPOLL_SEEDS", default=range(2), most=10))
def test_a_revoked_key_ends_each_consumer_once(seed):
    async def play(simulation):
        simulation.revoked_at = simulation.rng.uniform(0, 20)
        # Jobs that never end, so that no consumer finishes before the key is revoked.
        never = [simulation.world.submit(JobPlan(queue_time=float("inf"))) for _ in range(3)]
        seen = Counter()

        async def watch():
            async for job in simulation.watcher.watch(simulation.ending + never):
                seen[job.job_id] += 1

        async with asyncio.timeout(DAY), simulation.watcher:
            tasks = [asyncio.create_task(watch()) for _ in range(3)]
            tasks += [asyncio.create_task(simulation.watcher.wait(job_id)) for job_id in never]
            ends = await asyncio.gather(*tasks, return_exceptions=True)
            assert {type(end) for end in ends} == {AuthenticationError}
            assert len({id(end) for end in ends}) == 6
            assert set(seen.values()) <= {1, 2, 3}
            polls = simulation.world.traffic.get
            await asyncio.sleep(1_000)
            assert simulation.world.traffic.get == polls
            # The watcher works again with a valid key.
            simulation.revoked_at = DAY
            simulation.fault_rate = 0.0
            async for job in simulation.watcher.watch(simulation.ending):
                simulation.check_end(job)
        await simulation.check_no_resources_are_left()

    simulate(seed, 100, play)
