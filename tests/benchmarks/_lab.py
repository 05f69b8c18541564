"""Plays the rows of the laboratory in virtual time, with the real watcher.

The laboratory is a set of workloads, and each workload is a row of a table. Times are seconds. A
lag begins at the end of a job, or when the watcher gets its id if that is later. It ends when the
consumer gets the snapshot of the job.
"""

import asyncio
import contextlib
import math
import pickle
from collections.abc import AsyncIterator, Callable, Sequence
from random import Random
from typing import TypeAlias
from uuid import UUID

from _lab_source import JobListing, LabService, LabSource
from _references import (
    Job,
    Played,
    play_clairvoyant,
    play_official,
    play_plain_loop,
)
from attrs import evolve, frozen

from adepoll import JobWatcher
from adepoll.emulator import run
from adepoll.errors import JobTimeoutError, UnresolvedJobsError
from adepoll.scheduling.durations import Durations
from adepoll.throttling.rate_limiter import RateLimiter
from adepoll.throttling.request_sender import RequestSender

Draw: TypeAlias = Callable[[Random, float], float]
"""Returns the random duration of a job. The float is the share of jobs submitted before the job."""

HONEST = JobListing()
TARGET_LAG = 2.0
# A lag may exceed its goal by this number of seconds plus twice the standard error.
NOISE_SECONDS = 0.02
PRODUCT = 1.05
PLAIN_LOOP = 1.1
SWEEP_REQUESTS = 1.5
PATIENCE = 14_400.0  # virtual seconds from the end of the last job until a row is stopped


@frozen(kw_only=True)
class Group:
    """Jobs that take about the same time.

    Attributes:
        draw: Returns the random duration of a job, from its arrival to its end.
        jobs: Number of jobs.
        bursts: Number of equal batches in which the jobs are submitted; 0 for one after the other.
        spread: Seconds over which the jobs are submitted.
        pending_share: Share of its duration for which a job is pending.
        end_at: Seconds after the start at which all jobs end; None if `draw` decides.
        measured: True if the figures of the row include these jobs.
        awaited: True if there is a separate call of `wait` for each of these jobs, beside a watch
            of the other jobs.
    """

    draw: Draw
    jobs: int = 300
    bursts: int = 0
    spread: float = 0.0
    pending_share: float = 0.0
    end_at: float | None = None
    measured: bool = True
    awaited: bool = False

    def make_jobs(self, rng: Random, *, handed_after: float, first: int) -> list[Job]:
        """Create the jobs with random durations; their numbers begin at `first`."""
        made = []
        for number in range(self.jobs):
            share = number / self.jobs
            if self.bursts:
                share = number * self.bursts // self.jobs / self.bursts
            received_at = share * self.spread
            duration = max(self.draw(rng, number / self.jobs), 0.0)
            if self.end_at is not None:
                duration = max(self.end_at - received_at, 0.0)
            made.append(
                Job(
                    number=first + number,
                    received_at=received_at,
                    started_at=received_at + duration * self.pending_share,
                    ended_at=received_at + duration,
                    handed_at=received_at + handed_after,
                    measured=self.measured,
                    awaited=self.awaited,
                )
            )
        return made


@frozen(kw_only=True)
class Row:
    """A row of the laboratory: a workload, the options of the watcher, and the goals.

    Attributes:
        name: Name of the row in the table, and for ``--only``.
        groups: The jobs.
        alone: True if a separate watcher waits for each job with `wait`, without other jobs.
        waits: True if one watcher waits for all jobs, each with its own call of `wait`.
        concurrency: Maximum number of requests in flight; None for the default.
        wait_timeout: Seconds after which each of these calls is ended and repeated; None for no
            limit.
        discovery: The option `discovery` of `JobWatcher`.
        learnt: A batch from which the watcher has learnt durations before; None without one.
        handed_after: Seconds from the arrival of a job to the moment the watcher gets its id.
        budget: Requests per second that all players may send; None for no limit.
        listing: The errors of the list.
        received_at: Seconds that are added to each `received_at`; None if jobs have no such time.
        clock_ahead: Seconds by which the service's `Date` header is later than the true time.
        last_share: The figures include only this share of the jobs: those that end last.
        meets_target: True if the row must reach the target lag with few requests.
    """

    name: str
    groups: tuple[Group, ...]
    alone: bool = False
    waits: bool = False
    concurrency: int | None = None
    wait_timeout: float | None = None
    discovery: str = "auto"
    learnt: Group | None = None
    handed_after: float = 0.0
    budget: float | None = None
    listing: JobListing = HONEST
    received_at: float | None = 0.0
    clock_ahead: float = 0.0
    last_share: float = 1.0
    meets_target: bool = False

    def scaled(self, scale: float) -> "Row":
        """Return the row with more or fewer jobs; a row with a budget keeps its jobs."""
        if self.budget is not None:
            return self
        groups = (evolve(g, jobs=max(round(g.jobs * scale), 1)) for g in self.groups)
        return evolve(self, groups=tuple(groups))

    def make_jobs(self, seed: int) -> list[Job]:
        """Create the jobs, in the order in which the watcher gets their ids."""
        rng = Random(f"{seed}/{self.name}")
        jobs: list[Job] = []
        for group in self.groups:
            jobs += group.make_jobs(rng, handed_after=self.handed_after, first=len(jobs))
        if self.last_share < 1:
            by_end = sorted(jobs, key=lambda job: job.ended_at)
            last = {job.number for job in by_end[-max(round(len(jobs) * self.last_share), 1) :]}
            jobs = [evolve(job, measured=job.number in last) for job in jobs]
        return sorted(jobs, key=lambda job: job.handed_at)

    def play(self, *, seed: int, scale: float) -> "Result":
        """Play the row with adepoll, and with each way of polling that it is compared with."""
        row = self.scaled(scale)
        jobs = row.make_jobs(seed)
        durations = Durations()
        if row.learnt is not None:
            taught = Row(name="learnt", groups=(row.learnt,), discovery="get")
            watch_jobs(taught, taught.make_jobs(seed), seed, durations)
        rng = Random(seed)
        result = Result(
            name=row.name,
            has_budget=row.budget is not None,
            meets_target=row.meets_target,
            sweeps=row.discovery != "get",
            ours=row.play_watcher(jobs, seed, durations),
            sdk=row.play_official(jobs, rng),
        )
        if row.budget is None:
            return result
        return evolve(
            result,
            plain=None
            if row.alone or row.discovery == "get"
            else play_plain_loop(
                jobs,
                rng,
                budget=row.budget,
                list_lag=row.listing.lag,
                foreign=row.listing.foreign,
            ),
            clairvoyant=play_clairvoyant(jobs, budget=row.budget),
        )

    def play_watcher(self, jobs: Sequence[Job], seed: int, durations: Durations) -> Played:
        """Play the row with adepoll."""
        if not self.alone:
            play = wait_for_jobs if self.waits else watch_jobs
            if any(group.awaited for group in self.groups):
                play = wait_beside_a_watch
            return play(self, jobs, seed, durations)
        known = pickle.dumps(durations)
        single = [
            wait_for_job(self, evolve(job, number=0), seed + job.number, pickle.loads(known))
            for job in jobs
        ]
        return Played(
            lags=sorted(lag for played in single for lag in played.lags),
            requests=sum(played.requests for played in single) / len(single),
            note=next((played.note for played in single if played.note), ""),
        )

    def play_official(self, jobs: Sequence[Job], rng: Random) -> Played:
        """Play the row with the waiter of the official SDK."""
        if not self.alone or self.budget is None:
            return play_official(jobs, rng, budget=self.budget, places=self.concurrency)
        single = [play_official([job], rng, budget=self.budget) for job in jobs]
        return Played(
            lags=sorted(played.lags[0] for played in single),
            requests=sum(played.requests for played in single) / len(single),
        )


@frozen(kw_only=True)
class Result:
    """The figures of a row.

    `ours` is adepoll, and `sdk` the official SDK. `plain` and `clairvoyant` are None if the row has
    no budget. `plain` is also None in rows without list sweeps, and if each job is played alone.
    The other attributes are those of `Row`.
    """

    name: str
    has_budget: bool
    meets_target: bool
    sweeps: bool
    ours: Played
    sdk: Played
    plain: Played | None = None
    clairvoyant: Played | None = None

    @property
    def product(self) -> float:
        """Requests multiplied by the mean lag, relative to the same product of the SDK."""
        return self.ours.requests * self.ours.mean / (self.sdk.requests * self.sdk.mean)

    def missed(self) -> list[str]:
        """Return the names of the goals that adepoll has missed."""
        ours, sdk = self.ours, self.sdk
        noise = 2 * math.hypot(ours.standard_error, sdk.standard_error) + NOISE_SECONDS
        checks = {
            "all jobs": not ours.note,
            "mean": ours.mean <= sdk.mean + noise,
            "p95": ours.p95 <= sdk.p95 + noise,
            "product": self.has_budget or self.product <= PRODUCT * (1 + noise / sdk.mean),
        }
        if self.plain is not None:
            checks["plain loop"] = ours.mean <= PLAIN_LOOP * self.plain.mean + NOISE_SECONDS
        if self.meets_target:
            checks["target lag"] = ours.mean <= 1.2 * TARGET_LAG
            if self.sweeps:
                checks["requests"] = ours.requests <= SWEEP_REQUESTS
        return [name for name, met in checks.items() if not met]


@frozen(kw_only=True)
class Setting:
    """The service with the jobs of a row, and the source with which a watcher polls them."""

    service: LabService
    source: LabSource

    @classmethod
    def make(cls, row: Row, jobs: Sequence[Job], seed: int) -> "Setting":
        """Create the service. The running event loop must have virtual time."""
        rng = Random(seed)
        service = LabService(
            jobs={str(UUID(int=rng.getrandbits(128), version=4)): job for job in jobs},
            # Jobs arrive at fractions of a second, which the times of the service do not show.
            start=rng.random(),
            listing=row.listing,
            received_at=row.received_at,
            clock_ahead=row.clock_ahead,
            rng=rng,
        )
        sender = RequestSender(RateLimiter(max_rate=row.budget, rng=rng), rng=rng)
        return cls(service=service, source=LabSource(service=service, sender=sender))

    def now(self) -> float:
        """Return the seconds since the start."""
        return self.service.now()

    async def hand_over(self) -> AsyncIterator[str]:
        """Yield each id at the time at which the watcher must get it."""
        for job_id, job in self.service.jobs.items():
            if (wait := job.handed_at - self.now()) > 0:
                await asyncio.sleep(wait)
            yield job_id

    def played(self, lags: dict[str, float], note: str = "") -> Played:
        """Return the figures of the measured jobs."""
        service = self.service
        measured = {job_id for job_id, job in service.jobs.items() if job.measured}
        gets = sum(service.gets.get(job_id, 0) for job_id in measured)
        pages = service.pages * len(measured) / len(service.jobs)
        lost = len(measured - lags.keys())
        return Played(
            lags=sorted(lags[job_id] for job_id in measured & lags.keys()) or [float("inf")],
            requests=(gets + pages) / len(measured),
            note=note or (f"{lost} not settled" if lost else ""),
        )

    def watcher(self, row: Row, durations: Durations, seed: int) -> JobWatcher:
        """Create the watcher of a row."""
        concurrency = {} if row.concurrency is None else {"concurrency": row.concurrency}
        return JobWatcher(
            self.source,
            durations=durations,
            rng=Random(seed),
            discovery=row.discovery,
            **concurrency,
        )


def watch_jobs(row: Row, jobs: Sequence[Job], seed: int, durations: Durations) -> Played:
    """Watch all jobs with one watcher."""

    async def main() -> Played:
        setting = Setting.make(row, jobs, seed)
        lags: dict[str, float] = {}
        note = ""
        longest = max(job.ended_at for job in jobs) + PATIENCE
        try:
            async with (
                asyncio.timeout(longest),
                setting.watcher(row, durations, seed) as watcher,
                watcher.watch(setting.hand_over()) as watch,
            ):
                async for job in watch:
                    lags[job.job_id] = setting.service.jobs[job.job_id].lag(setting.now())
        except TimeoutError:
            note = f"stopped after {longest:.0f} s"
        except UnresolvedJobsError as error:
            note = str(error).splitlines()[0]
        return setting.played(lags, note)

    return run(main())


def wait_for_jobs(row: Row, jobs: Sequence[Job], seed: int, durations: Durations) -> Played:
    """Wait for each job separately, with one watcher."""

    async def main() -> Played:
        setting = Setting.make(row, jobs, seed)
        lags: dict[str, float] = {}
        longest = max(job.ended_at for job in jobs) + PATIENCE

        async def wait(job_id: str) -> None:
            settled = None
            while settled is None:
                with contextlib.suppress(JobTimeoutError):
                    settled = await watcher.wait(job_id, timeout=row.wait_timeout)
            lags[job_id] = setting.service.jobs[job_id].lag(setting.now())

        try:
            async with (
                asyncio.timeout(longest),
                setting.watcher(row, durations, seed) as watcher,
                asyncio.TaskGroup() as group,
            ):
                async for job_id in setting.hand_over():
                    group.create_task(wait(job_id))
        except TimeoutError:
            return setting.played(lags, f"stopped after {longest:.0f} s")
        return setting.played(lags)

    return run(main())


def wait_beside_a_watch(row: Row, jobs: Sequence[Job], seed: int, durations: Durations) -> Played:
    """Wait for each awaited job separately, and watch the other jobs, with one watcher."""

    async def main() -> Played:
        setting = Setting.make(row, jobs, seed)
        lags: dict[str, float] = {}
        by_id = setting.service.jobs

        async def wait(job_id: str) -> None:
            await watcher.wait(job_id)
            lags[job_id] = by_id[job_id].lag(setting.now())

        async def watched() -> AsyncIterator[str]:
            async for job_id in setting.hand_over():
                if by_id[job_id].awaited:
                    group.create_task(wait(job_id))
                else:
                    yield job_id

        async with (
            setting.watcher(row, durations, seed) as watcher,
            asyncio.TaskGroup() as group,
            watcher.watch(watched()) as watch,
        ):
            async for job in watch:
                lags[job.job_id] = by_id[job.job_id].lag(setting.now())
        return setting.played(lags)

    return run(main())


def wait_for_job(row: Row, job: Job, seed: int, durations: Durations) -> Played:
    """Wait for one job."""
    job = evolve(
        job,
        received_at=0.0,
        started_at=job.started_at - job.received_at,
        ended_at=job.ended_at - job.received_at,
        handed_at=job.handed_at - job.received_at,
    )

    async def main() -> Played:
        setting = Setting.make(row, [job], seed)
        [job_id] = setting.service.jobs
        async with setting.watcher(row, durations, seed) as watcher:
            await asyncio.sleep(max(job.handed_at - setting.now(), 0.0))
            try:
                async with asyncio.timeout(job.ended_at + PATIENCE):
                    await watcher.wait(job_id)
            except TimeoutError:
                return setting.played({}, "a wait never returned")
            return setting.played({job_id: job.lag(setting.now())})

    return run(main())
