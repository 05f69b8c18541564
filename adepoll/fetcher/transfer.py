"""One transfer: how long it goes on, and where its URL comes from. Imports storage and client."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from inspect import isawaitable
from random import Random
from typing import Final, TypeAlias

from adepoll.api.client import AdeClient
from adepoll.api.models import JobSnapshot
from adepoll.errors import ResultError, ResultExpiredError
from adepoll.fetcher.answers import Answer, Range, Version
from adepoll.fetcher.stats import Tally
from adepoll.fetcher.storage import Storage
from adepoll.throttling.retrying import RetryPolicy

_log = logging.getLogger(__name__)

ResolveUrl: TypeAlias = Callable[[JobSnapshot], str | Awaitable[str]]
"""Gives the URL from which the result of a job can be read."""

_MOST_FRESH_URLS: Final = 2  # in a row that had expired when they came
_MORE_FOR: Final = 2**24
_MOST_MORE: Final = 2**10  # a size is what a storage says
_PROGRESS: Final = 2**20


class Persistence:
    """How long a transfer goes on after failures; all its connections share one.

    The retry policy's attempts, and one more for each 16 MiB of the result: a long transfer meets
    more trouble than a short one, and one that gets nowhere comes to its end all the same. Bytes
    that arrive give nothing back.
    """

    def __init__(
        self,
        retry: RetryPolicy,
        rng: Random,
        *,
        check_open: Callable[[], None],
        tally: Tally | None = None,
    ) -> None:
        """`check_open` raises where there is no point in going on; `tally` counts goings on."""
        self._tally = tally or Tally()
        self._retry = retry
        self._rng = rng
        self._check_open = check_open
        self._waits: Iterator[float] = retry.waits(rng)
        self._failures = 0
        self._last_at = -1.0
        self._until = 0.0

    async def endure(
        self, error: ResultError, *, began: float, gained: int, size: int | None
    ) -> None:
        """Wait until it may be tried again, or raise the error.

        What connections meet at the same time is one failure: one that a request met which had
        begun before the last failure is no news.

        Args:
            error: What a request came to.
            began: When that request began, in seconds of the loop.
            gained: Bytes that it had brought.
            size: Of the result; None where it is not known.
        """
        self._check_open()
        if not error.transient:
            raise error
        now = asyncio.get_running_loop().time()
        if began >= self._last_at:
            self._failures += 1
            self._last_at = now
            if gained >= _PROGRESS:
                self._waits = self._retry.waits(self._rng)
            self._until = now + next(self._waits)
        more = min((size or 0) // _MORE_FOR, _MOST_MORE)
        if self._failures >= self._retry.attempts + more:
            raise error
        _log.debug("attempt %d failed, will go on: %s", self._failures, error)
        await asyncio.sleep(self._until - now)
        self._tally.resumed += 1


class Link:
    """The URL of one result, made fresh for all who read it when it has expired."""

    def __init__(
        self, client: AdeClient, job: JobSnapshot, resolve: ResolveUrl | None, tally: Tally
    ) -> None:
        """Ask nobody yet; `job` has the URL with which to begin."""
        self._tally = tally
        self._client = client
        self._job = job
        self._resolve = resolve
        self._lock = asyncio.Lock()
        self._url: str | None = None
        self._hopeless: str | None = None
        self._fresh = 0

    async def url(self) -> str:
        """Give the URL that is thought to work."""
        async with self._lock:
            if self._url is None:
                self._url = await self._resolved(self._job)
            return self._url

    def works(self) -> None:
        """Say that a request of it was answered."""
        self._fresh = 0

    async def renew(self, expired: str, error: ResultExpiredError) -> None:
        """See that `url` gives another one than that; raises the error where there is none."""
        async with self._lock:
            if self._url != expired:
                return  # somebody else has done it
            if self._fresh >= _MOST_FRESH_URLS or self._hopeless == expired:
                raise error
            self._fresh += 1
            self._tally.fresh_urls += 1
            job = await self._client.get_job(self._job.job_id)
            url = await self._resolved(job)
            if not url or url == expired:
                # The caller's own output_save_url is given out as it is, however old.
                self._hopeless = expired
                raise error
            self._url = url

    async def _resolved(self, job: JobSnapshot) -> str:
        if self._resolve is None:
            return job.output_url or ""
        url = self._resolve(job)
        return await url if isawaitable(url) else url


class StoredResult:
    """A result in storage, to be asked for as often as it takes."""

    def __init__(self, storage: Storage, link: Link, *, job_id: str, in_bulk: bool = False) -> None:
        """Ask nobody yet; `in_bulk` as for `Storage.open`."""
        self.job_id = job_id
        self._in_bulk = in_bulk
        self._storage = storage
        self._link = link

    @asynccontextmanager
    async def open(
        self, *, asked: Range | None = None, version: Version | None = None
    ) -> AsyncGenerator[Answer, None]:
        """As `Storage.open`, with a fresh URL where the one at hand has expired.

        Raises:
            RequestError: The service could not be asked for a fresh URL.
        """
        async with AsyncExitStack() as stack:
            while True:
                url = await self._link.url()
                opening = self._storage.open(
                    self.job_id, url, asked=asked, version=version, in_bulk=self._in_bulk
                )
                try:
                    answer = await stack.enter_async_context(opening)
                except ResultExpiredError as error:
                    await self._link.renew(url, error)
                else:
                    break
            self._link.works()
            yield answer
