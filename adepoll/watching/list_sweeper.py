"""Sweeps the job list: requests its pages, to find watched jobs that are no longer active.

One task runs the sweeps. During a sweep, up to eight further tasks request pages. A list request
that gets a 429 is repeated here after `Retry-After`.
"""

import asyncio
import logging
import math
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from contextvars import Context
from itertools import islice
from typing import Final

from adepoll.api.models import JobPage, JobStatus
from adepoll.api.source import JobSource, for_polling
from adepoll.common.tasks import first_error, start
from adepoll.errors import RateLimitedError, RequestError, TransportError
from adepoll.watching.listing import PAGE_SIZE, Sweep
from adepoll.watching.sweep_policy import Situation, SweepPolicy
from adepoll.watching.turns import PageTurns
from adepoll.watching.watched_jobs import WatchedJobs

_log = logging.getLogger(__name__)


class ListSweeper:
    """Sweeps the list when `SweepPolicy` says so, and passes the pages to `ListHints`.

    Attributes:
        sweeps: Number of finished sweeps.
        requests: Number of requests for a page.
        turns: Knows which requests wait to be sent, and how long requests take.
    """

    def __init__(
        self,
        watched_jobs: WatchedJobs,
        source: JobSource,
        policy: SweepPolicy,
        *,
        semaphore: AbstractAsyncContextManager[object],
        on_due: Callable[[], None],
        on_fatal: Callable[[BaseException], None],
        poll_duration: Callable[[], float] = lambda: 0.0,
        max_requests: int = 64,
        newest_first: bool = False,
    ) -> None:
        """Create a sweeper; no request is sent yet.

        Args:
            watched_jobs: The jobs that are compared with the list.
            source: The source of the list.
            policy: Decides whether and when to sweep.
            semaphore: Held during each list request.
            on_due: Called when jobs may have become due.
            on_fatal: Called with an error that ends all watches and waits.
            poll_duration: Returns the mean duration of polls in seconds; 0 if it is not known.
            max_requests: Maximum number of requests in flight, polls included.
            newest_first: True if the list shows the newest jobs first. Then a sweep requests no
                further page of a status after a page whose jobs are all older than the oldest
                watched job.
        """
        self._watched_jobs = watched_jobs
        self.turns = PageTurns(semaphore)
        self._source = for_polling(source, self.turns)
        self._newest_first = newest_first
        self._poll_duration = poll_duration
        # Pages to request at the same time while it is not known whether requests hang: at most a
        # quarter of all requests, so that polls go on.
        self._first_pages = min(max(max_requests // 4, 1), _PAGES_IN_FLIGHT)
        self._policy = policy
        self._on_due = on_due
        self._on_fatal = on_fatal
        self._tasks: set[asyncio.Task[None]] = set()
        self._running = False
        self._retry: asyncio.TimerHandle | None = None
        self._closed = False
        self._page_received = False  # True after the first page of the list
        self.sweeps = 0
        self.requests = 0

    def pump(self) -> None:
        """Start to sweep if that saves requests. Call this when jobs were added."""
        if self._running or self._closed:
            return
        if self._policy.should_sweep(self._situation()):
            self._running = True
            hints = self._watched_jobs.list_hints
            if self._policy.is_trial:
                # Jobs are polled by schedule until the list is proven.
                hints.checks.accuracy.restart()
            elif not self._policy.pauses:
                hints.start_sweeping()  # now, so that new jobs wait for the list, not for polls
            task = start(self._run(), self._tasks)
            task.add_done_callback(self._run_ended, context=Context())

    def cancel_all(self) -> list[asyncio.Task[None]]:
        """Cancel and return the running tasks. Sweeping starts again when jobs are added."""
        for task in self._tasks:
            task.cancel()
        return list(self._tasks)

    def close(self) -> set[asyncio.Task[None]]:
        """Stop sweeping, and never sweep again. The caller must await the returned tasks."""
        self._closed = True
        if self._retry is not None:
            self._retry.cancel()
        self.cancel_all()
        return set(self._tasks)

    def _situation(self) -> Situation:
        """Return the numbers on which the decisions of `SweepPolicy` depend."""
        watched_jobs = self._watched_jobs
        accuracy = watched_jobs.list_checks.accuracy
        throughput = watched_jobs.schedule_calls.throughput
        now = asyncio.get_running_loop().time()
        return Situation(
            now=now,
            watched=len(watched_jobs),
            settled=watched_jobs.counts.settled,
            wasted_polls=watched_jobs.list_trust.wasted_polls,
            pending_confirmation=watched_jobs.list_trust.pending_confirmation,
            polls=watched_jobs.counts.polls,
            mean_delay=watched_jobs.schedule_calls.mean_delay,
            poll_wait=watched_jobs.list_checks.poll_wait,
            list_is_bad=accuracy.is_bad or self.turns.mean_duration > _SLOW * accuracy.limit,
            list_is_proven=accuracy.is_proven,
            compare_at=accuracy.compare_at,
            replaces_waits=now < watched_jobs.list_hints.waits_replaced_until,
            pages_wait=self.turns.last_wait > _LONG,
            polls_per_page=self._polls_per_page(),
            settled_share=throughput.settled_share if throughput.is_short else 0.0,
        )

    def _polls_per_page(self) -> float:
        """Return how many polls could be made in the time of a request for a page.

        Return 1 if the semaphore does not limit the requests.
        """
        duration = self._poll_duration()
        if not (duration and self.turns.takes_last_places):
            return 1.0
        return max(self.turns.mean_duration / duration, 1.0)

    async def _run(self) -> None:
        """Sweep repeatedly, as long as that saves requests; then poll by schedule."""
        loop = asyncio.get_running_loop()
        hints = self._watched_jobs.list_hints
        while self._policy.should_sweep(at := self._situation()):
            sweep = self._policy.start(at)
            self.turns.restart()
            if await self._sweep(sweep):
                self.sweeps += 1
                if sweep.is_complete:
                    if self._is_useful(sweep.started):
                        hints.start_sweeping()
                    waited = self.turns.last_wait > _LONG
                    for _ in hints.sweep_ended(sweep.started, loop.time(), pages_waited=waited):
                        self._on_due()
                        await asyncio.sleep(0)
                    self._on_due()
                at = self._situation()
                self._policy.record_end(sweep, at)
                self._watched_jobs.list_trust.sweep_rate = self._policy.short_rate(sweep, at)
            else:
                self._policy.record_failure(self._situation())
            while self._policy.should_sweep(at := self._situation()):
                self._policy.target_lag = self._watched_jobs.schedule_calls.aim
                delay = self._policy.delay(at)
                if not delay:
                    break
                await asyncio.sleep(min(delay, _MAX_SLEEP))
        for _ in hints.stop_sweeping(loop.time()):
            self._on_due()
            await asyncio.sleep(0)
        self._on_due()

    def _is_useful(self, started: float) -> bool:
        """Judge the list after a complete sweep; return True if the list may replace polls.

        Args:
            started: Time at which the sweep began.
        """
        accuracy = self._watched_jobs.list_checks.accuracy
        accuracy.record_sweep(started)
        return accuracy.is_proven if self._policy.is_trial else not accuracy.is_bad

    async def _sweep(self, sweep: Sweep) -> bool:
        """Request all pages, up to eight at the same time; return False if the sweep failed.

        A sweep fails after an error, or after 30 seconds in which no page arrives.
        """
        failure: BaseException | None = None
        silence = asyncio.timeout(_PAGE_TIMEOUT)
        # The service received no watched job before this Unix time. Jobs that are added during the
        # sweep can be older: the sweep may not show them.
        oldest = -math.inf
        self._watched_jobs.list_hints.sweep_started()
        if self._newest_first:
            oldest = self._watched_jobs.list_hints.oldest(asyncio.get_running_loop().time())
        try:
            async with silence:
                at_first = self._first_pages if self._policy.last is None else _PAGES_IN_FLIGHT
                while pages := list(islice(iter(sweep.next_page, None), at_first)):
                    async with asyncio.TaskGroup() as group:
                        for page in pages:
                            group.create_task(
                                self._request_pages(group, sweep, page, silence, oldest)
                            )
        except* (RequestError, NotImplementedError) as errors:
            failure = first_error(errors)
        except* TimeoutError:
            if not silence.expired():
                raise
        if failure is not None:
            refused = not (isinstance(failure, RequestError) and failure.transient)
            if refused and not self._policy.pauses:
                _log.info("polling each job by schedule, as jobs cannot be listed now: %s", failure)
            return False
        return not silence.expired() and (sweep.is_complete or sweep.is_too_long)

    async def _request_pages(
        self,
        group: asyncio.TaskGroup,
        sweep: Sweep,
        page: tuple[JobStatus, int] | None,
        silence: asyncio.Timeout,
        oldest: float,
    ) -> None:
        """Request pages of a sweep one after the other, until no page is left.

        Up to eight tasks of a sweep run this method at the same time, and share the pages.

        Args:
            group: The tasks of the sweep; this method may add one.
            sweep: Chooses the pages, and records them.
            page: Status and number of the first page to request; None if no page is left.
            silence: Time limit of the sweep; each received page restarts it.
            oldest: Unix time before which the service received no watched job; see
                `Sweep.record_page`.
        """
        loop = asyncio.get_running_loop()
        hints = self._watched_jobs.list_hints
        # With eager tasks, this code runs while the caller still starts the tasks of a group. If a
        # task failed now, the group could not start the others. So go on in the next step.
        await asyncio.sleep(0)
        while page is not None:
            status, number = page
            requested_at = loop.time()
            self._watched_jobs.list_trust.record_request()
            listed = await self._request(status, number)
            if not silence.expired():
                silence.reschedule(loop.time() + _PAGE_TIMEOUT)
            self._page_received = True
            self._watched_jobs.failure_rules.record_accepted_key()
            sweep.record_page(status, number, listed, oldest=oldest)
            sweep.max_pages = self._policy.max_pages(self._situation())
            now = loop.time()
            hints.page_listed(status, number, listed, requested_at, now)
            page = sweep.next_page()
            if page is None or sweep.in_flight >= _PAGES_IN_FLIGHT:
                continue
            if (another := sweep.next_page()) is not None:  # the list is longer than expected
                group.create_task(self._request_pages(group, sweep, another, silence, oldest))

    async def _request(self, status: JobStatus, number: int) -> JobPage:
        """Request one page; repeat the request after an error.

        The 20th 429 is raised, and the third error of another kind. An error that is not temporary,
        such as a 403, is raised the second time if no page was ever received: then the list can
        probably not be read. A request without an answer is cancelled after some time, so that it
        does not hold the semaphore. It counts as two errors.
        """
        tries = throttled = 0
        rules = self._watched_jobs.failure_rules
        while True:
            self.requests += 1
            limit = self._watched_jobs.list_checks.accuracy.limit
            longest = min(_HANGING * limit, _PAGE_TIMEOUT)
            try:
                async with asyncio.timeout(None) as timeout:
                    with self.turns.request(timeout, longest):
                        return await self._source.list_jobs(
                            page=number, page_size=PAGE_SIZE, status=status
                        )
            except RateLimitedError as error:
                throttled += 1
                if throttled >= _MAX_THROTTLED:
                    raise
                # A client waits for its request budget before the next request. Other sources may
                # have no request budget.
                await asyncio.sleep(error.retry_after or _RETRY_DELAY)
            except RequestError as error:
                rules.record_failed_page(error, asyncio.get_running_loop().time())
                tries += 1
                can_be_read = error.transient or self._page_received
                if tries >= (_MAX_TRIES if can_be_read else _MAX_TRIES_OF_UNREAD_LIST):
                    raise
                await asyncio.sleep(_PAGE_RETRY_DELAY)
            except TimeoutError as error:  # after RequestError, because AnswerTimeoutError is both
                if not timeout.expired():
                    raise
                what = f"no page of the list arrived in {longest:.0f} s"
                failure = TransportError(what, job_id=None)
                rules.record_failed_page(failure, asyncio.get_running_loop().time())
                tries += _TRIES_OF_HANGING
                if tries >= _MAX_TRIES:
                    raise failure from error

    def _run_ended(self, task: asyncio.Task[None]) -> None:
        """Handle the end of the sweeping task: report its error, or plan the next sweep."""
        self._running = False
        self._watched_jobs.list_hints.forget_sweeps()
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._on_fatal(first_error(error))
        if self._closed:
            return
        loop = asyncio.get_running_loop()
        now = loop.time()
        if error is not None or task.cancelled():
            # The task was cancelled or failed before it could stop sweeping itself. If jobs were
            # added, `pump` starts a new task.
            self._watched_jobs.list_hints.stop_sweeping_in_one_step(now)
            self._on_due()
            self.pump()
        elif len(self._watched_jobs):
            if self._retry is not None:
                self._retry.cancel()
            pause = self._policy.paused_until - now
            delay = pause if pause > 0 else _NEXT_CHECK
            self._retry = loop.call_later(delay, self.pump, context=Context())


# List requests are too slow if they take more than this factor times `ListAccuracy.limit`.
_SLOW: Final = 1.25
# A request for a page hangs if it takes more than this factor times `ListAccuracy.limit`.
_HANGING: Final = 1.6
_TRIES_OF_HANGING: Final = 2  # tries for which a request that hangs counts
_LONG: Final = 0.1  # seconds; if pages wait longer for their turn, there is time between them
_PAGES_IN_FLIGHT: Final = 8
_MAX_SLEEP: Final = 0.25  # maximum seconds between two checks whether to sweep now
_PAGE_TIMEOUT: Final = 30.0  # seconds without a page; then the pages of the sweep are out of date
_MAX_THROTTLED: Final = 20  # after this number of 429s for one page, the sweep fails
_MAX_TRIES: Final = 3  # after this number of other failures for one page, the sweep fails
_MAX_TRIES_OF_UNREAD_LIST: Final = 2  # the same, if no page was ever received
_RETRY_DELAY: Final = 1.0  # seconds until the request is repeated after a 429 without Retry-After
_PAGE_RETRY_DELAY: Final = 0.25  # seconds until a request is repeated after another error
_NEXT_CHECK: Final = 60.0  # seconds until the sweeper checks whether to sweep again
