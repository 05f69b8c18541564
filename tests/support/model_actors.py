"""The consumers of the model test: each follows jobs in one way, and records what it was given."""

import asyncio
import math
from collections import Counter

from attrs import define, field
from model_source import actor_name

from adepoll.errors import AdePollError, JobTimeoutError, UnresolvedJobsError

AFTER_BREAK = 40.0
"""Seconds for which a consumer keeps a watch that it has left by `break`."""


LONG_POLLS = 120


@define(kw_only=True, eq=False)
class Actor:
    """A consumer: what it does, and what came of it.

    Attributes:
        kind: "wait", "long_poll" (many waits with a short timeout), "watch", "updates" or
            "status_updates".
        ids: Ids as they are handed over; duplicates and invalid ids included.
        source_kind: "list", "iterator", "stream", "endless" (a stream that never ends), or "as they
            arrive" (a stream that has each id when the service has got the job).
        start: Time at which it starts.
        slow: Seconds that it needs for each item.
        leave: How it leaves early: "break", "break by name", "async with", "aclose"; None if it
            stays.
        leave_after: Number of items after which it leaves.
        cancel_at: Time at which it is cancelled; None if it is not.
        broken_after: Number of ids after which the iterator raises; None for a good one.
        broken_by: What it raises.
        outcome: "done", "unresolved", "failed", "left", "cancelled".
        items: Time and item of each that it was given.
        causes: Error of each unresolved job, in the order of giving up.
        handed: Number of times that each id was handed over.
    """

    name: str
    kind: str
    source: object
    watcher: object = None
    ids: list
    source_kind: str = "list"
    start: float = 0.0
    timeout: float | None = None
    window: int | None = None
    errors: str = "raise"
    slow: float = 0.0
    leave: str | None = None
    leave_after: int = 1
    cancel_at: float | None = None
    broken_after: int | None = None
    broken_by: type = LookupError
    cancelled: bool = False
    started: float = math.nan
    ended: float = math.nan
    outcome: str | None = None
    error: BaseException | None = None
    items: list = field(factory=list)
    causes: list = field(factory=list)
    handed: Counter = field(factory=Counter)
    follows: list = field(factory=list)
    most_buffered: int = 0
    most_open: int = 0

    @property
    def awaits(self):
        """True if invariant 10 promises this consumer the bound for awaited jobs."""
        return self.kind != "watch" or self.timeout is not None

    def describe(self):
        options = {
            name: getattr(self, name)
            for name in (
                "source_kind", "start", "timeout", "window", "errors", "slow", "leave",
                "leave_after", "cancel_at", "broken_after",
            )
        }  # fmt: skip
        given = {name: value for name, value in options.items() if value is not None}
        shown = ", ".join(f"{name}={value}" for name, value in given.items())
        outcome = f"{self.outcome} {self.error!r}" if self.error else self.outcome
        return (
            f"{self.name}: {self.kind} of {len(self.ids)} ids {self.ids[:6]} by {self.source.name};"
            f" {shown} -> {outcome}, {len(self.items)} items"
        )

    async def run(self):
        """Follow the jobs; raise only CancelledError."""
        actor_name.set(self.name)
        service = self.source.service
        await asyncio.sleep(self.start)
        self.started = service.now()
        service.note(f"{self.name} starts")
        try:
            await getattr(self, f"_{self.kind}")()
            self.outcome = self.outcome or "done"
        except UnresolvedJobsError as error:
            self.outcome = "unresolved"
            self.causes += [(service.now(), *cause) for cause in error.causes.items()]
        except asyncio.CancelledError:
            self.outcome = "cancelled"
            if not self.cancelled:
                service.violate(f"5: {self.name} gets a CancelledError that nobody requested")
            raise
        except Exception as error:  # noqa: BLE001 - the checks decide whether it is the right one
            # Its traceback would keep the watch, which should end now.
            self.outcome, self.error = "failed", error.with_traceback(None)
        finally:
            self._leave_all()
            self.ended = service.now()
            service.note(f"{self.name} ends: {self.outcome} {self.error or ''}")

    def _leave_all(self):
        for follow in self.follows:
            follow.ended = self.source.service.now()
        self.follows.clear()

    def _hand_over(self, job_id):
        self.handed[job_id] += 1
        self.follows.append(self.source.follow(job_id, self))
        return job_id

    def _make_ids(self):
        if self.source_kind == "list":
            return [self._hand_over(job_id) for job_id in self.ids]
        if self.source_kind == "iterator":
            return self._iterate()
        return self._stream()

    def _iterate(self):
        for number, job_id in enumerate(self.ids):
            if number == self.broken_after:
                raise self.broken_by("the ids end in an error")
            yield self._hand_over(job_id)

    async def _stream(self):
        for number, job_id in enumerate(self.ids):
            if number == self.broken_after:
                raise self.broken_by("the ids end in an error")
            service = self.source.service
            if self.source_kind == "as they arrive":
                await asyncio.sleep(max(service.jobs[job_id].received_at - service.now(), 0.0))
            elif number % 3 == 2:
                await asyncio.sleep(number % 7 / 2)
            yield self._hand_over(job_id)
        if self.source_kind == "endless":
            await asyncio.Event().wait()

    async def _wait(self):
        [job_id] = self.ids
        self._hand_over(job_id)
        try:
            snapshot = await self.watcher.wait(job_id, timeout=self.timeout)
        except AdePollError as error:
            if getattr(error, "job_id", None) != job_id:
                raise
            self.outcome = "unresolved"
            self.causes.append((self.source.service.now(), job_id, error))
        else:
            self._take(snapshot)

    async def _long_poll(self):
        [job_id] = self.ids
        for number in range(LONG_POLLS):
            self._hand_over(job_id)
            try:
                snapshot = await self.watcher.wait(job_id, timeout=5.0)
            except JobTimeoutError:
                self._leave_all()
                await asyncio.sleep(number % 3 / 2)
            except AdePollError as error:
                if getattr(error, "job_id", None) != job_id:
                    raise
                self.outcome = "unresolved"
                self.causes.append((self.source.service.now(), job_id, error))
                return
            else:
                self._take(snapshot)
                return
        self.outcome = "left"

    async def _watch(self):
        options = {"timeout": self.timeout, "window": self.window, "errors": self.errors}
        await self._iterate_over(self.watcher.watch(self._make_ids(), **options))

    async def _updates(self):
        await self._iterate_over(self.watcher.updates(self._make_ids(), timeout=self.timeout))

    async def _status_updates(self):
        await self._iterate_over(self.watcher.status_updates(self._make_ids()))

    async def _iterate_over(self, watch):
        if self.leave == "break by name":
            await self._consume(watch, watch)
            if self.outcome == "left":
                self._leave_all()
                await asyncio.sleep(AFTER_BREAK)
        elif self.leave in {"async with", "aclose"}:
            async with watch:
                await self._consume(watch, watch)
                if self.leave == "aclose":
                    await watch.aclose()
        else:
            unnamed = [watch]
            del watch
            async for item in unnamed.pop():
                if await self._handle(None, item):
                    break

    async def _consume(self, iterable, watch):
        async for item in iterable:
            if await self._handle(watch, item):
                break

    async def _handle(self, watch, item):
        """Record an item; return True if it is time to leave."""
        self._take(item)
        if watch is not None and self.kind != "status_updates":
            progress = watch.progress
            self.most_buffered = max(self.most_buffered, progress.buffered)
            self.most_open = max(self.most_open, progress.open)
        del watch
        if self.slow:
            await asyncio.sleep(self.slow)
        if self.leave is not None and len(self.items) >= self.leave_after:
            self.outcome = "left"
            return True
        return False

    def _take(self, item):
        now = self.source.service.now()
        if getattr(item, "error", None) is not None:  # an UnresolvedJob, or a StatusUpdate
            self.causes.append((now, item.job_id, item.error))
        self.items.append((now, item))
