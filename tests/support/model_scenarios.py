"""Scenarios of the model test, and how one is played; `model_draws` draws them."""

import asyncio
import gc
from contextlib import suppress
from random import Random

from attrs import define, field
from internals import timers
from model_checks import check_all
from model_faults import Behaviour
from model_limits import BudgetedSource, CountingSemaphore, OwnRequests
from model_source import (
    ModelService,
    ModelSource,
    StoppableLoop,
    TimedModelSource,
)

from adepoll import JobWatcher
from adepoll.scheduling.durations import Durations
from adepoll.throttling.rate_limiter import RateLimiter
from adepoll.throttling.request_sender import RequestSender

SLACK = 7_200.0
"""Virtual seconds after the last job, pause and outage, within which all consumers must end."""


@define(kw_only=True, eq=False)
class Scenario:
    """All that happens, drawn from a seed.

    Attributes:
        watchers: For each watcher, its options, but for the semaphore that some of them share.
            "timed": True if its source knows the service's clock. "budget": Requests per second
            of its client; None without a client. "learnt": Mean duration of the jobs that it knows
            from before; None if it knows nothing.
        shared_budget: Requests per second of one budget for all watchers and for the user's own
            requests; None if each watcher has its own budget.
        own_requests: Times at which the user's own code sends a request in that budget.
        polled_now: Times and ids at which `poll_now` is called.
        stops: Time and duration of each stop of the process.
        close_at: Time at which the first watcher is closed; None for the end.
        eager: True for eager tasks.
    """

    seed: int
    behaviour: Behaviour
    jobs: list
    watchers: list
    shared_semaphore: int | None
    shared_budget: float | None
    own_requests: list
    actors: list
    polled_now: list
    stops: list
    close_at: float | None
    eager: bool
    service: ModelService | None = None
    sources: list = field(factory=list)

    @property
    def horizon(self):
        """Time at which everything should have ended."""
        ends = [job.ended_at for job in self.jobs if job.ended_at < 1e8]
        begins = [actor.start + (actor.timeout or 0.0) for actor in self.actors]
        slow = sum(actor.slow * (3 * len(actor.ids) + 3) for actor in self.actors)
        outages = sum(end - begin for begin, end in self.behaviour.outages)
        stops = sum(stop for _, stop in self.stops)
        # Behind a dead service, jobs of a small window end one after the other.
        dead = sum(job.fault == "down" for job in self.jobs) * 13 * 300.0
        return max([*ends, *begins]) + slow + outages + stops + dead + SLACK

    def play(self):
        """Play the scenario; return the violated invariants."""
        loops = []

        def make_loop():
            loops.append(StoppableLoop())
            if self.eager:
                loops[0].set_task_factory(asyncio.eager_task_factory)
            return loops[0]

        with asyncio.Runner(loop_factory=make_loop) as runner:
            try:
                runner.run(self._main())
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - a violation itself
                text = f"the scenario ends with {error!r}"
                self.service.violations.append(text)
        return self.service.violations

    def report(self):
        """Return the scenario, the violations and the last events as text."""
        jobs = [
            f"  {j.job_id}: {j.received_at:.1f} to {j.ended_at:.1f} {j.final} {j.fault or ''}"
            for j in self.jobs[:12]
        ]
        lines = [
            f"seed {self.seed}",
            *(f"VIOLATION {text}" for text in self.service.violations[:8]),
            f"{self.behaviour}",
            f"watchers {self.watchers}, shared semaphore {self.shared_semaphore}",
            f"eager {self.eager}, stops {self.stops}, closed at {self.close_at}",
            f"poll_now {self.polled_now[:5]}",
            *jobs,
            *(f"  {actor.describe()}" for actor in self.actors),
            "first and last events:",
            *(f"  {at:9.2f} {text}" for at, text in self._events()),
        ]
        return "\n".join(lines)

    def _events(self):
        """Return the events near the first violation."""
        log = self.service.log
        first = next((n for n, (_, text) in enumerate(log) if "VIOLATION" in text), len(log))
        return log[max(first - 25, 0) : first + 5]

    async def _main(self):
        loop = asyncio.get_running_loop()
        service = self.service = ModelService(behaviour=self.behaviour, rng=Random(self.seed))
        service.jobs = {job.job_id: job for job in self.jobs}
        loop.set_exception_handler(
            lambda _loop, context: service.violate(f"5: the loop complains: {context}")
        )
        shared = None if self.shared_semaphore is None else CountingSemaphore(self.shared_semaphore)
        shared_limiter = None
        if self.shared_budget is not None:
            shared_limiter = RateLimiter(max_rate=self.shared_budget, rng=Random(self.seed))
        watchers = []
        for number, options in enumerate(self.watchers):
            limit = shared.places if shared else options["concurrency"]
            make = TimedModelSource if options["timed"] else ModelSource
            source = make(service=service, name=f"watcher {number}", limit=limit, semaphore=shared)
            self.sources.append(source)
            given = {name: options[name] for name in ("discovery", "buffer", "patience")}
            rng = Random(self.seed + number)
            if options["budget"] is not None:
                limiter = shared_limiter or RateLimiter(max_rate=options["budget"], rng=rng)
                source = BudgetedSource.make(source, limiter=limiter, rng=rng)
            watchers.append(
                JobWatcher(
                    source,
                    rng=rng,
                    concurrency=shared or options["concurrency"],
                    durations=_taught(options["learnt"]),
                    **given,
                )
            )
        # For each watcher its workers and sweeps, for each consumer itself and a reader of ids.
        service.most_tasks = (
            3
            + len(self.own_requests)
            + 2 * len(self.actors)
            + sum(
                min(source.limit if shared is None else 256, len(self.jobs)) + 12
                for source in self.sources
            )
        )
        tasks = {}
        for actor in self.actors:
            number = actor.source
            actor.source, actor.watcher = self.sources[number], watchers[number]
            tasks[actor] = loop.create_task(actor.run(), name=actor.name)
        chaos = [loop.create_task(self._chaos(tasks, watchers))]
        if shared_limiter is not None:
            own = OwnRequests(
                sender=RequestSender(shared_limiter, rng=Random(self.seed)),
                service=service,
                rate=self.shared_budget,
                others=len(watchers),
                excused=bool(self.behaviour.stray or self.behaviour.outages),
            )
            chaos += [loop.create_task(_send_at(at, own)) for at in self.own_requests]
        pending = (await asyncio.wait([*tasks.values()], timeout=self.horizon))[1]
        task = None
        for task in pending:
            service.violate(f"progress: {task.get_name()} has not ended after {loop.time():.0f} s")
            task.cancel()
        for actor in self.actors:
            actor.cancelled |= tasks[actor] in pending
        for task in chaos:
            task.cancel()
        await asyncio.wait([*tasks.values(), *chaos], timeout=60.0)
        del task, tasks, chaos, pending  # exceptions of tasks keep the watches in their frames
        await self._end(watchers)

    async def _end(self, watchers):
        service = self.service
        before = service.now()
        for watcher, source in zip(watchers, self.sources, strict=True):
            await watcher.aclose()
            source.closed = True
        if service.now() > before:
            service.violate(f"5: closing takes {service.now() - before} s")
        for _ in range(3):
            await asyncio.sleep(0)
        gc.collect(1)
        await asyncio.sleep(0)
        for watcher, source in zip(watchers, self.sources, strict=True):
            stats = watcher.stats
            if (stats.watched, stats.in_flight, stats.subscribers) != (0, 0, 0):
                service.violate(f"5: {source.name} keeps something: {stats}")
        if tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            service.violate(f"5: tasks are left: {tasks}")
        if left := timers():
            service.violate(f"5: timers are left: {left}")
        check_all(self)

    async def _chaos(self, tasks, watchers):
        """Cancel, close, stop and poll at the times that were drawn."""
        loop = asyncio.get_running_loop()
        events = [(at, "poll", job_id) for at, job_id in self.polled_now]
        events += [(at, "stop", seconds) for at, seconds in self.stops]
        events += [(a.cancel_at, "cancel", a) for a in tasks if a.cancel_at is not None]
        if self.close_at is not None:
            events.append((self.close_at, "close", watchers[0]))
        for at, what, subject in sorted(events, key=lambda event: event[0]):
            if at > loop.time():
                await asyncio.sleep(at - loop.time())
            match what:
                case "poll":
                    for watcher in watchers:
                        if not watcher.is_closed:
                            watcher.poll_now(subject)
                case "stop":
                    self.service.note(f"the process is stopped for {subject:.0f} s")
                    self.service.stops.append((loop.time(), loop.time() + subject))
                    loop.stop_process(subject)
                case "cancel":
                    await self._cancel(subject, tasks[subject])
                case "close":
                    self.service.note("watcher 0 is closed")
                    await subject.aclose()

    async def _cancel(self, actor, task):
        if task.done():
            return
        before = self.service.now()
        actor.cancelled = True
        self.service.note(f"{actor.name} is cancelled")
        task.cancel()
        await asyncio.wait([task], timeout=60.0)
        if task.cancelled():
            with suppress(asyncio.CancelledError):
                task.result()  # as a caller would: only then, the task drops what was raised
        if not task.done() or self.service.now() > before:
            self.service.violate(f"5: {actor.name} takes a while to be cancelled")
        elif not task.cancelled():
            self.service.violate(f"5: {actor.name} swallows CancelledError: {actor.outcome}")


async def _send_at(at, own):
    """Send a request of the user at the time `at`."""
    await asyncio.sleep(at - asyncio.get_running_loop().time())
    await own.send()


def _taught(mean):
    """Return durations learnt from 300 jobs of about this duration; None without a duration."""
    if mean is None:
        return None
    durations = Durations()
    for number in range(300):
        seen = mean * (0.8 + 0.4 * number / 300)
        durations.begin()
        durations.extend(0.0, seen)  # otherwise the job would count as active with -1 for ever
        durations.end(0.0, seen, seen + 1.0)
    return durations
