"""Intake: how the job ids of feeds come in, and for how long each feed is followed.

Runs one task for each feed whose ids are being taken. Imports feeds and lookout.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Collection, Iterable
from typing import Final, TypeAlias

from attrs import define

from adepoll.api.job_ids import check_job_id
from adepoll.errors import InvalidJobIdError, JobTimeoutError
from adepoll.watching.job_state import Subscriber
from adepoll.watching.pollers import Pollers, finish, start
from adepoll.watching.subscriptions import Feed
from adepoll.watching.watched_jobs import WatchedJobs

JobIds: TypeAlias = Iterable[str] | AsyncIterable[str]


@define(eq=False, weakref_slot=False)
class _Coming:
    """The ids of one feed, until when it may take them, and what runs for it."""

    job_ids: JobIds
    timeout: float | None
    pull: asyncio.Task[None] | None = None
    deadline: asyncio.TimerHandle | None = None

    def stop(self) -> None:
        if self.deadline is not None:
            self.deadline.cancel()
        if self.pull is not None:
            self.pull.cancel()


class Intake:
    """The feeds of one watcher: takes their ids in, and lets go of what nobody follows.

    Attributes:
        pulls: The tasks that take ids in.
    """

    def __init__(
        self, watched_jobs: WatchedJobs, pollers: Pollers, *, pump: Callable[[], None]
    ) -> None:
        """Take nothing in yet.

        Args:
            watched_jobs: Is told what to follow.
            pollers: Breaks off looks at what nobody follows.
            pump: Called when jobs have come.
        """
        self.pulls: set[asyncio.Task[None]] = set()
        self._watched_jobs = watched_jobs
        self._pollers = pollers
        self._pump = pump
        self._feeds: dict[Feed, _Coming] = {}

    def __len__(self) -> int:
        """How many feeds there are."""
        return len(self._feeds)

    def begin(self, feed: Feed, job_ids: JobIds, timeout: float | None) -> None:
        """Take ids in, for so many seconds at most, and have them looked at."""
        coming = self._feeds[feed] = _Coming(job_ids, timeout)
        if timeout is not None:
            loop = asyncio.get_running_loop()
            coming.deadline = loop.call_later(timeout, self._expire, feed, timeout)
        coming.pull = start(self._pull(feed, job_ids), self.pulls)
        coming.pull.add_done_callback(lambda task: _pulled(feed, task))

    def made_room(self, feed: Feed) -> None:
        """The consumer took a snapshot: look at what waited for that."""
        if feed.stalled and self._watched_jobs.made_room(feed, asyncio.get_running_loop().time()):
            self._pollers.pump()

    def drop(self, feed: Feed) -> list[asyncio.Task[None]]:
        """Forget a feed; give the tasks that end because of it."""
        coming = self._feeds.pop(feed, None)
        if coming is None:
            return []
        coming.stop()
        ending = [] if coming.pull is None else [coming.pull]
        for job_id in feed.open_ids():
            ending += self.unsubscribe(job_id, feed)
        return ending

    def unsubscribe(self, job_id: str, subscriber: Subscriber) -> list[asyncio.Task[None]]:
        """Remove `subscriber` from a job; return the poll that ends because of it."""
        orphan = self._watched_jobs.unsubscribe(job_id, subscriber)
        task = None if orphan is None else self._pollers.abandon(orphan)
        return [] if task is None else [task]

    def end(self, error: BaseException) -> None:
        """End all feeds with an error, after what they have buffered."""
        for feed, coming in self._feeds.items():
            coming.stop()
            feed.fail(error)

    async def _pull(self, feed: Feed, job_ids: JobIds) -> None:
        """Take ids in, a few hundred at a time, so that the first looks need not wait for all."""
        loop = asyncio.get_running_loop()
        taken = 0
        if isinstance(job_ids, AsyncIterable):
            try:
                async for job_id in job_ids:
                    await feed.wait_for_place()
                    self._admit(feed, job_id, loop.time())
                    self._pump()
                    taken += 1
                    if taken % _IDS_AT_ONCE == 0:
                        await asyncio.sleep(0)
            finally:
                if isinstance(job_ids, AsyncGenerator):
                    await job_ids.aclose()  # else the collector would, in a task of its own
            return
        for job_id in job_ids:
            self._admit(feed, job_id, loop.time())
            taken += 1
            if taken % _IDS_AT_ONCE == 0:
                self._pump()
                await asyncio.sleep(0)
        self._pump()

    def _admit(self, feed: Feed, job_id: str, now: float) -> None:
        coming = self._feeds.get(feed)
        if feed.complete or coming is None:
            return  # it is over, and an iterable that does not heed being cancelled goes on
        try:
            check_job_id(job_id)
        except InvalidJobIdError as error:
            feed.refuse(error)
            return
        if job_id not in feed:
            feed.admit(job_id)
            can_wait = (
                coming.timeout is None and not feed.every_change and feed.known > _FIRST_OF_A_WATCH
            )
            feed.greet(
                self._watched_jobs.subscribe(job_id, feed, feed.alone, now, can_wait=can_wait)
            )

    def _expire(self, feed: Feed, timeout: float) -> None:
        if feed in self._feeds:
            job_ids = self._feeds[feed].job_ids
            if not feed.complete and isinstance(job_ids, Collection):
                now = asyncio.get_running_loop().time()
                for job_id in job_ids:  # those not taken yet were given all the same
                    self._admit(feed, job_id, now)
            for job_id in feed.open_ids():
                entry = self._watched_jobs.get(job_id)
                last_status = None if entry is None else entry.status
                feed.give_up(
                    job_id, JobTimeoutError(job_id=job_id, timeout=timeout, last_status=last_status)
                )
                self.unsubscribe(job_id, feed)
            self._feeds[feed].stop()
            feed.end_of_input()


class Desk:
    """What an outlet may ask of the intake, for the one feed that it is the end of."""

    def __init__(
        self,
        intake: Intake,
        job_ids: JobIds,
        timeout: float | None,
        *,
        check_open: Callable[[], None],
    ) -> None:
        """Take nothing in yet; `check_open` raises where nothing may begin any more."""
        self._intake = intake
        self._job_ids = job_ids
        self._timeout = timeout
        self._check_open = check_open
        self._loop: asyncio.AbstractEventLoop | None = None

    def start_feed(self, feed: Feed) -> None:
        """Take ids in, and look at them."""
        self._loop = asyncio.get_running_loop()
        self._check_open()
        self._intake.begin(feed, self._job_ids, self._timeout)

    def made_room(self, feed: Feed) -> None:
        """The consumer took a snapshot."""
        self._intake.made_room(feed)

    def drop_feed(self, feed: Feed) -> None:
        """Nobody consumes the feed any more: forget its jobs, soon."""
        # The collector calls this, in the middle of anything and in any thread.
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._intake.drop, feed)

    async def close_feed(self, feed: Feed) -> None:
        """As `drop_feed`, and wait until nothing of it runs."""
        await finish(self._intake.drop(feed))


def check_ids(job_ids: JobIds) -> None:
    """Refuse what is no iterable of ids, a single id above all; raises `TypeError`."""
    if isinstance(job_ids, str | bytes):
        raise TypeError("job_ids must be an iterable of ids, not one id; use [job_id], or wait()")
    if not isinstance(job_ids, Iterable | AsyncIterable):
        raise TypeError(f"job_ids must be an iterable of ids, got {type(job_ids).__name__}")


def _pulled(feed: Feed, task: asyncio.Task[None]) -> None:
    """The ids have all been taken, or the caller's iterable raised."""
    if task.cancelled():
        if not feed.complete:  # not by the watcher: something that the iterable waited for was
            feed.fail(asyncio.CancelledError("the iterable of job ids was cancelled"))
    elif (error := task.exception()) is not None:
        feed.fail(error)
    else:
        feed.end_of_input()


_IDS_AT_ONCE: Final = 500
_FIRST_OF_A_WATCH: Final = 8  # jobs that are looked at at once: the caller may be another
