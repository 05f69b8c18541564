"""Patrol: the asyncio shell around sweeps of the list. Imports roster, sweep and source.

It runs one task, and a few more while a sweep is under way.
"""

import asyncio
import logging
from collections.abc import Callable
from itertools import islice
from typing import Any, Final

from adepoll.api.models import JobPage, JobStatus
from adepoll.api.source import JobSource
from adepoll.errors import RateLimitedError, RequestError
from adepoll.watching.list_sweeps import PAGE_SIZE, Situation, Sweep, SweepPolicy
from adepoll.watching.pollers import start
from adepoll.watching.watched_jobs import WatchedJobs

_log = logging.getLogger(__name__)


class ListSweeper:
    """Sweeps the list while that pays, and tells the roster what it says."""

    def __init__(
        self,
        watched_jobs: WatchedJobs,
        source: JobSource,
        policy: SweepPolicy,
        *,
        on_news: Callable[[], None],
        on_end: Callable[[BaseException], None],
    ) -> None:
        """Ask for nothing yet.

        Args:
            watched_jobs: Is told what the list says.
            source: Is asked for the list.
            policy: Says whether to sweep, and when.
            on_news: Called when a job may have become due.
            on_end: Called with an error that ends everything.
        """
        self._watched_jobs = watched_jobs
        self._source = source
        self._policy = policy
        self._on_news = on_news
        self._on_end = on_end
        self._tasks: set[asyncio.Task[None]] = set()
        self._walking = False
        self._again: asyncio.TimerHandle | None = None
        self._closed = False
        self.sweeps = 0
        self.requests = 0

    def pump(self) -> None:
        """Begin to sweep, if that pays; to be called when jobs have come."""
        if not self._walking and not self._closed and self._policy.wants(self._situation()):
            self._walking = True
            self._watched_jobs.begin_sweeps()  # before anything is looked at
            start(self._walk(), self._tasks).add_done_callback(self._walked)

    def halt(self) -> None:
        """Break off what runs; it begins anew when jobs come."""
        for task in self._tasks:
            task.cancel()

    def close(self) -> set[asyncio.Task[None]]:
        """Never sweep again; give the tasks that are still to end."""
        self._closed = True
        if self._again is not None:
            self._again.cancel()
        self.halt()
        return set(self._tasks)

    def _situation(self) -> Situation:
        watched_jobs = self._watched_jobs
        return Situation(
            now=asyncio.get_running_loop().time(),
            watched=len(watched_jobs),
            settled=watched_jobs.tally.settled,
            wasted_polls=watched_jobs.hints.wasted_polls,
            urgent=watched_jobs.hints.urgent,
            polls=watched_jobs.tally.polls,
            mean_wait=watched_jobs.mean_wait,
        )

    async def _walk(self) -> None:
        """Sweep again and again; when that does not pay any more, look at jobs by schedule."""
        loop = asyncio.get_running_loop()
        while self._policy.wants(at := self._situation()):
            sweep = self._policy.begin(at)
            if await self._sweep(sweep):
                self.sweeps += 1
                if sweep.is_whole:
                    self._watched_jobs.missing(sweep.started, loop.time())
                    self._on_news()
                self._policy.ended(sweep, self._situation())
            else:
                self._policy.failed(self._situation())
            while self._policy.wants(at := self._situation()):
                wait = self._policy.wait(at)
                if not wait:
                    break
                await asyncio.sleep(min(wait, _LONGEST_NAP))
        for _ in self._watched_jobs.end_sweeps(loop.time()):
            self._on_news()
            await asyncio.sleep(0)
        self._on_news()

    async def _sweep(self, sweep: Sweep) -> bool:
        """Ask for all pages, a few at a time; False if an error or a long silence broke it off."""
        failure: RequestError | NotImplementedError | None = None
        silence = asyncio.timeout(_LONGEST_SILENCE)
        try:
            async with silence:
                while first := list(islice(iter(sweep.next_page, None), _PAGES_AT_ONCE)):
                    async with asyncio.TaskGroup() as group:
                        for page in first:
                            group.create_task(self._turn_pages(sweep, page, silence))
        except* (RequestError, NotImplementedError) as errors:
            failure = _first(errors)
        except* TimeoutError:
            if not silence.expired():
                raise
        if failure is not None:
            if isinstance(failure, NotImplementedError) or not failure.transient:
                self._policy.forbidden = True
                _log.info("looking at jobs one by one, as the list is not to be had: %s", failure)
            return False
        return not silence.expired() and (sweep.is_whole or sweep.is_too_long)

    async def _turn_pages(
        self, sweep: Sweep, page: tuple[JobStatus, int] | None, silence: asyncio.Timeout
    ) -> None:
        loop = asyncio.get_running_loop()
        while page is not None:
            status, number = page
            asked_at = loop.time()
            listed = await self._ask(status, number)
            if not silence.expired():
                silence.reschedule(loop.time() + _LONGEST_SILENCE)
            sweep.take(status, number, listed)
            sweep.most_pages = self._policy.most_pages(self._situation())
            for job in listed.jobs:
                self._watched_jobs.listed(job, asked_at, loop.time())
            page = sweep.next_page()

    async def _ask(self, status: JobStatus, number: int) -> JobPage:
        """Ask for one page, again and again where that only comes too early."""
        tries = 0
        while True:
            self.requests += 1
            tries += 1
            try:
                return await self._source.list_jobs(page=number, page_size=PAGE_SIZE, status=status)
            except RateLimitedError as error:
                if tries >= _MOST_TRIES:
                    raise
                # A client has its own gate, and waits for it; another source may not.
                await asyncio.sleep(error.retry_after or _SHORT_WHILE)

    def _walked(self, task: asyncio.Task[None]) -> None:
        self._walking = False
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._on_end(_first(error))
        if self._closed:
            return
        if error is not None or task.cancelled():
            # It could not do that itself; and jobs may have come since it was broken off.
            for _ in self._watched_jobs.end_sweeps(asyncio.get_running_loop().time()):
                pass
            self._on_news()
            self.pump()
        elif len(self._watched_jobs):
            if self._again is not None:
                self._again.cancel()
            self._again = asyncio.get_running_loop().call_later(_PAUSE, self.pump)


def _first(error: BaseException) -> Any:
    """Give the first of the errors in a group, however deep."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


_PAGES_AT_ONCE: Final = 8
_LONGEST_NAP: Final = 1.0
_LONGEST_SILENCE: Final = 30.0  # until a page comes; then jobs are no more believed to be active
_MOST_TRIES: Final = 20
_SHORT_WHILE: Final = 1.0
_PAUSE: Final = 60.0
