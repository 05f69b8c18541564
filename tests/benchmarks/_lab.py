"""Plays the rows of the laboratory on the real watcher, in virtual time over the emulator's world.

Times are seconds. A lag is counted from the end of a job, or from the moment at which the watcher
got its id if that was later, to the moment at which its consumer has the snapshot.
"""

import asyncio
import pickle
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from datetime import UTC, datetime, timedelta
from random import Random
from typing import TypeAlias
from zlib import crc32

from _references import (
    LATENCY,
    Job,
    Played,
    play_clairvoyant,
    play_official,
    play_plain_loop,
)
from attrs import evolve, field, frozen

from adepoll import JobWatcher
from adepoll.api.models import JobPage, JobSnapshot, JobStatus, JobSummary
from adepoll.emulator import EPOCH, JobPlan, World, WorldSource, loop_clock, run
from adepoll.errors import UnresolvedJobsError
from adepoll.scheduling.durations import Durations
from adepoll.throttling.rate_limiter import RateLimiter
from adepoll.throttling.retrying import RetryPolicy

Draw: TypeAlias = Callable[[Random, float], float]
"""Draws how long a job takes; the number is the share of the jobs that were submitted before."""

TARGET_LAG = 2.0
NOISE = 1.02  # ratio that is not told from 1
NOISE_SECONDS = 0.02
PRODUCT = 1.05
PLAIN_LOOP = 1.1
SWEEP_REQUESTS = 1.5
PATIENCE = 14_400.0  # virtual seconds after the last job's end at which a row is stopped


@frozen(kw_only=True)
class Group:
    """Jobs that take about the same time.

    Attributes:
        draw: Draws how long a job takes from its arrival to its end.
        jobs: Number of jobs.
        bursts: Number of equal batches in which they are submitted; 0 for one after the other.
        spread: Seconds over which they are submitted.
        pending_share: Share of its time that a job is pending.
        end_at: Seconds after the start at which all jobs end; None if each ends after its own time.
        measured: True if the figures of the row include these jobs.
    """

    draw: Draw
    jobs: int = 300
    bursts: int = 0
    spread: float = 0.0
    pending_share: float = 0.0
    end_at: float | None = None
    measured: bool = True

    def make_jobs(self, rng: Random, *, handed_after: float, first: int) -> list[Job]:
        """Draw the jobs."""
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
                )
            )
        return made


@frozen(kw_only=True)
class JobListing:
    """How the list behaves.

    Attributes:
        lag: Seconds by which it is behind.
        foreign: Active jobs of somebody else.
        keeps_settled: True if jobs stay in the list of active jobs for ever.
        missing: Share of the active jobs that the list never shows.
    """

    lag: float = 0.0
    foreign: int = 0
    keeps_settled: bool = False
    missing: float = 0.0

    @property
    def is_honest(self) -> bool:
        """True if it shows exactly the active jobs."""
        return not (self.lag or self.keeps_settled or self.missing)


@frozen(kw_only=True)
class Row:
    """A row of the laboratory: a workload, how it is watched, and what is required.

    Attributes:
        name: Shown, and selected with ``--only``.
        groups: The jobs.
        alone: True if each job is played alone, with a watcher of its own, and awaited by `wait`.
        discovery: As for `JobWatcher`.
        learnt: A batch that was watched before; its durations are known.
        handed_after: Seconds from the arrival of a job to the moment the watcher gets its id.
        budget: Requests per second that all players may send; None for no limit.
        listing: How the list behaves.
        received_at: Seconds to add to every `received_at`; None for 0, which means absent.
        clock_ahead: Seconds by which the service's `Date` header is ahead of the truth.
        last_share: Share of the jobs, the last ones to end, to which the figures are limited.
        meets_target: True if the row must reach the target lag with few requests.
    """

    name: str
    groups: tuple[Group, ...]
    alone: bool = False
    discovery: str = "auto"
    learnt: Group | None = None
    handed_after: float = 0.0
    budget: float | None = None
    listing: JobListing = JobListing()
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
        """Draw the jobs, in the order in which the watcher gets them."""
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
        """Play the row with all players."""
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
            if row.listing.keeps_settled
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
            return watch_jobs(self, jobs, seed, durations)
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
        """Play the row with the official SDK's policy."""
        if not self.alone or self.budget is None:
            return play_official(jobs, rng, budget=self.budget)
        single = [play_official([job], rng, budget=self.budget) for job in jobs]
        return Played(
            lags=sorted(played.lags[0] for played in single),
            requests=sum(played.requests for played in single) / len(single),
        )


@frozen(kw_only=True)
class Result:
    """How the players did in a row; None where the row has no such player.

    The other attributes are those of the row.
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
        """Requests x mean lag, relative to the SDK's."""
        return self.ours.requests * self.ours.mean / (self.sdk.requests * self.sdk.mean)

    def missed(self) -> list[str]:
        """Return what the row requires and adepoll did not reach."""
        ours, sdk = self.ours, self.sdk
        checks = {
            "all jobs": not ours.note,
            "mean": ours.mean <= NOISE * sdk.mean + NOISE_SECONDS,
            "p95": ours.p95 <= NOISE * sdk.p95 + NOISE_SECONDS,
            "product": self.has_budget or self.product <= PRODUCT,
        }
        if self.plain is not None:
            checks["plain loop"] = ours.mean <= PLAIN_LOOP * self.plain.mean + NOISE_SECONDS
        if self.meets_target:
            checks["target lag"] = ours.mean <= 1.2 * TARGET_LAG
            if self.sweeps:
                checks["requests"] = ours.requests <= SWEEP_REQUESTS
        return [name for name, met in checks.items() if not met]


@frozen(kw_only=True)
class LabSource:
    """A world behind the request budget of a client, with the faults of a row."""

    source: WorldSource
    row: Row
    limiter: RateLimiter
    submitted: list[str]
    slot: AbstractAsyncContextManager[object] = field(factory=nullcontext)

    def for_polling(self, slot: AbstractAsyncContextManager[object]) -> "LabSource":
        """As `AdeClient.for_polling`."""
        return evolve(self, slot=slot)

    def service_time(self) -> float:
        """As `AdeClient.service_time`."""
        return self.source.service_time() + self.row.clock_ahead

    async def get_job(self, job_id: str) -> JobSnapshot:
        """As the view that `AdeClient.for_polling` gives: tried once."""
        job = await self.limiter.call_once(lambda _at: self.source.get_job(job_id), self.slot)
        return evolve(job, received_at=self._received(job.received_at))

    async def list_jobs(
        self, *, page: int = 0, page_size: int = 100, status: JobStatus | None = None
    ) -> JobPage:
        """As `get_job`."""
        listed = await self.limiter.call_once(
            lambda _at: self.source.list_jobs(page=page, page_size=page_size, status=status),
            self.slot,
        )
        if self.row.listing.keeps_settled and status is JobStatus.PROCESSING:
            first = page * page_size
            listed = JobPage(
                jobs=tuple(map(self._frozen, self.submitted[first : first + page_size])),
                has_more=first + page_size < len(self.submitted),
            )
        if self.row.listing.missing:
            shown = tuple(job for job in listed.jobs if self._is_shown(job.job_id))
            listed = evolve(listed, jobs=shown)
        if self.row.received_at == 0:
            return listed
        return evolve(
            listed,
            jobs=tuple(
                evolve(job, received_at=self._received(job.received_at)) for job in listed.jobs
            ),
        )

    def _received(self, at: datetime) -> datetime:
        if self.row.received_at is None:
            return datetime.fromtimestamp(0, UTC)
        return at + timedelta(seconds=self.row.received_at)

    def _is_shown(self, job_id: str) -> bool:
        return crc32(job_id.encode()) / 2**32 >= self.row.listing.missing

    def _frozen(self, job_id: str) -> JobSummary:
        return JobSummary(
            job_id=job_id,
            status=JobStatus.PROCESSING,
            status_text="processing",
            received_at=datetime.fromtimestamp(
                int(self.source.world.truth(job_id).received_at), UTC
            ),
            progress=0.0,
        )


@frozen(kw_only=True)
class Setting:
    """A world with the jobs of a row, submitted in advance, and its source."""

    world: World
    start: float
    by_id: dict[str, Job]
    source: LabSource

    @classmethod
    def make(cls, row: Row, jobs: Sequence[Job], seed: int) -> "Setting":
        """Create the world; it needs a running virtual loop."""
        world = World(clock=loop_clock(), seed=seed, list_lag=row.listing.lag)
        rng = Random(seed)
        # A job arrives at any fraction of a second, which the service omits.
        start = EPOCH + max(row.listing.lag, 1.0) + (rng.random() if row.alone else 0.0)
        for number in range(row.listing.foreign):
            world.submit(JobPlan(processing_time=1e9), received_at=start - 1 - number / 100)
        by_id = {}
        for job in jobs:
            plan = JobPlan(
                queue_time=job.started_at - job.received_at,
                processing_time=job.ended_at - job.started_at,
                result_bytes=200,
            )
            by_id[world.submit(plan, received_at=start + job.received_at)] = job
        source = LabSource(
            source=WorldSource(world=world, latency=LATENCY, rng=rng),
            row=row,
            limiter=RateLimiter(
                retry=RetryPolicy(), rng=rng, max_rate=row.budget, max_connections=256
            ),
            submitted=list(by_id),
        )
        return cls(world=world, start=start, by_id=by_id, source=source)

    def now(self) -> float:
        """Return the seconds since the start."""
        return self.world.now() - self.start

    async def hand_over(self) -> AsyncIterator[str]:
        """Yield each id when the watcher is to get it."""
        for job_id, job in self.by_id.items():
            if (wait := job.handed_at - self.now()) > 0:
                await asyncio.sleep(wait)
            yield job_id

    def played(self, lags: dict[str, float], note: str = "") -> Played:
        """Return the figures of the measured jobs."""
        measured = {truth for truth, job in self.by_id.items() if job.measured}
        gets = sum(t.gets for t in self.world.truths() if t.job_id in measured)
        pages = self.world.traffic.list * len(measured) / len(self.by_id)
        lost = len(measured - lags.keys())
        return Played(
            lags=sorted(lags[job_id] for job_id in measured & lags.keys()) or [float("inf")],
            requests=(gets + pages) / len(measured),
            note=note or (f"{lost} not settled" if lost else ""),
        )

    def watcher(self, row: Row, durations: Durations, seed: int) -> JobWatcher:
        """Create the watcher of a row."""
        return JobWatcher(
            self.source, durations=durations, rng=Random(seed), discovery=row.discovery
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
                    lags[job.job_id] = setting.by_id[job.job_id].lag(setting.now())
        except TimeoutError:
            note = f"stopped after {longest:.0f} s"
        except UnresolvedJobsError as error:
            note = str(error).splitlines()[0]
        return setting.played(lags, note)

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
        [job_id] = setting.by_id
        async with setting.watcher(row, durations, seed) as watcher:
            await asyncio.sleep(job.handed_at - setting.now())
            try:
                async with asyncio.timeout(job.ended_at + PATIENCE):
                    await watcher.wait(job_id)
            except TimeoutError:
                return setting.played({}, "a wait never returned")
            return setting.played({job_id: job.lag(setting.now())})

    return run(main())
