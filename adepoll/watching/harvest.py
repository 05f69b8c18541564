"""Harvest: what becomes of very many jobs, for a consumer who remembers them himself.

A Feed that forgets what it has told, and an outlet that gives it in lots. Imports feeds.
"""

import asyncio
from collections.abc import Mapping
from typing import TypeAlias

from attrs import frozen

from adepoll.api.models import JobSnapshot
from adepoll.errors import AdePollError, InvalidJobIdError
from adepoll.watching.subscriptions import Feed, Stream


@frozen
class Unresolved:
    """A job that was given up.

    Attributes:
        job_id: The job.
        error: Why.
    """

    job_id: str
    error: AdePollError


End: TypeAlias = JobSnapshot | Unresolved
"""How a job ended, for who watched it."""


class HarvestFeed(Feed):
    """A feed that knows nothing more of a job once it has told how it ended."""

    def __init__(self, *, limit: int, window: int) -> None:
        """Make a feed.

        Args:
            limit: Most snapshots held, those reserved by looks under way counted.
            window: Most jobs followed at once; more are taken as these end, and as those that were
                given up are told.
        """
        super().__init__(limit=limit, every_change=False)
        self._window = window
        self._taken = 0
        self._has_place = asyncio.Event()
        self._seen: dict[str, str] = {}

    @property
    def known(self) -> int:
        """How many ids were taken so far."""
        return self._taken

    def admit(self, job_id: str) -> None:
        """Start to follow a job."""
        super().admit(job_id)
        self._taken += 1

    def refuse(self, error: InvalidJobIdError) -> None:
        """An id that cannot be one is given up at once."""
        self.causes[error.job_id] = error
        self.ready.set()

    async def wait_for_place(self) -> None:
        """Wait until one more job may be followed."""
        while self.open + len(self.causes) >= self._window:
            self._has_place.clear()
            await self._has_place.wait()

    def take(self, snapshot: JobSnapshot) -> bool:
        """Buffer the snapshot of an ended job; of another, note its status."""
        job_id = snapshot.job_id
        if not snapshot.status.is_terminal and self._jobs[job_id] != snapshot.status_text:
            self._jobs[job_id] = self._seen[job_id] = snapshot.status_text
        taken = super().take(snapshot)
        self._has_place.set()
        return taken

    def give_up(self, job_id: str, error: AdePollError) -> None:
        """The job ends as unresolved."""
        super().give_up(job_id, error)
        self._has_place.set()

    def pop_ends(self) -> tuple[End, ...]:
        """Give what has become of jobs, and forget these."""
        ends: list[End] = []
        while (snapshot := self.pop()) is not None:
            ends.append(snapshot)
            self._forget(snapshot.job_id)
        for job_id, error in self.causes.items():
            ends.append(Unresolved(job_id, error))
            self._forget(job_id)
        self.causes.clear()
        self._has_place.set()
        return tuple(ends)

    def pop_seen(self) -> Mapping[str, str]:
        """Give the status text of jobs that go on, where it is news."""
        seen, self._seen = self._seen, {}
        return seen

    def _forget(self, job_id: str) -> None:
        self._jobs.pop(job_id, None)
        self._seen.pop(job_id, None)


class Harvest(Stream[HarvestFeed]):
    """An async iterator of what becomes of jobs, some at a time, and an async context manager.

    Each job that was given comes once. The iteration ends when all have come, whether they were
    resolved or not; for what else ends it, and for when it looks, see `Watch`.
    """

    async def __anext__(self) -> tuple[End, ...]:
        """Give how jobs ended, all of which that is known, as soon as it is of one."""
        if self._finished:
            raise StopAsyncIteration
        self._start()
        while not (ends := self._feed.pop_ends()):
            await self._wait_for_news()
        self._owner.made_room(self._feed)
        return ends

    def pop_seen(self) -> Mapping[str, str]:
        """Give the status text of jobs that go on, where it has become another since."""
        return self._feed.pop_seen()

    @property
    def open(self) -> int:
        """How many jobs are looked at."""
        return self._feed.open
