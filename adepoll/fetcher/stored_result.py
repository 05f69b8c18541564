"""One result in a storage: its URL, which is renewed when it has expired, and requests of it."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from functools import partial
from inspect import isawaitable
from typing import Final, TypeAlias

from attrs import evolve

from adepoll.api.client import AdeClient
from adepoll.api.job_kind import JobRef
from adepoll.api.models import JobSnapshot
from adepoll.common.redaction import REDACTED
from adepoll.errors import ResultChangedError, ResultExpiredError, ResultUrlError
from adepoll.fetcher.completed_job import request_completed
from adepoll.fetcher.patience import StorageOrigins, TransferRetries
from adepoll.fetcher.response_body import ResponseBody
from adepoll.fetcher.sequential_reader import SequentialReader
from adepoll.fetcher.statistics import Counters
from adepoll.fetcher.storage_client import StorageClient
from adepoll.fetcher.storage_rules import ObjectVersion, Range

ResolveUrl: TypeAlias = Callable[[JobSnapshot], str | Awaitable[str]]
"""Returns the URL from which the result of a job can be read."""

_MAX_EXPIRED_URLS: Final = 2  # renewals in a row without a successful request


class PresignedUrl:
    """The presigned URL of one result, which can be renewed when it has expired.

    All readers of the result share one object.
    """

    def __init__(
        self,
        client: AdeClient,
        ref: JobRef,
        job: JobSnapshot,
        resolve_url: ResolveUrl | None,
        counters: Counters,
    ) -> None:
        """Create an object for the URL in `job`, or for the URL that `resolve_url(job)` returns."""
        self._counters = counters
        self._client = client
        self._ref = ref
        self._job = job
        self._resolve_url = resolve_url
        self._lock = asyncio.Lock()
        self._url: str | None = None  # None before the first call of `current`
        self._not_renewable: str | None = None  # an expired URL that the service returned again
        self._renewals = 0  # renewals after the last successful request

    async def current(self) -> str:
        """Return the present URL of the result; raise `ResultUrlError` if it has no URL."""
        async with self._lock:
            if self._url is None:
                self._url = await self._url_of(self._job)
            if not self._url:
                raise self._url_error("resolve_url returned no URL")
            return self._url

    def confirm(self) -> None:
        """Record that a request of the present URL has succeeded."""
        self._renewals = 0

    async def renew(self, expired: str, error: ResultExpiredError) -> None:
        """Replace the URL `expired`; do nothing if another reader has already replaced it.

        Args:
            expired: The URL that the storage has refused.
            error: The error with which the storage refused the URL.

        Raises:
            ResultExpiredError: `error` is raised if the service returns the same URL again, or if
                the storage has also refused the last two new URLs.
            AdePollError: As for `request_completed`.
        """
        async with self._lock:
            if self._url != expired:
                return
            if self._renewals >= _MAX_EXPIRED_URLS or self._not_renewable == expired:
                raise error
            self._counters.renewed_urls += 1
            job = await request_completed(self._client, self._ref)
            self._renewals += 1  # a failed request has renewed nothing
            url = await self._url_of(job)
            if not url or url == expired:
                # The service returned `output_save_url`, which the caller passed when the job was
                # created. The service never renews such a URL.
                self._not_renewable = expired
                raise error
            self._url = url

    async def _url_of(self, job: JobSnapshot) -> str:
        """Return the URL of the result: `output_url`, or the URL that `resolve_url` returns.

        Return an empty text if there is no URL.
        """
        if self._resolve_url is None:
            return job.output_url or ""
        url: object = self._resolve_url(job)
        if isawaitable(url):
            url = await url
        if url is not None and not isinstance(url, str):
            raise self._url_error(f"resolve_url returned {type(url).__name__} instead of str")
        return url or ""

    def _url_error(self, reason: str) -> ResultUrlError:
        return ResultUrlError(job_id=self._ref.job_id, url=REDACTED, reason=reason)


class StoredResult:
    """One result in storage, which can be requested any number of times.

    Attributes:
        job_id: The job.
        retries: Decides whether the transfer of this result goes on after a failure.
    """

    def __init__(
        self,
        storage: StorageClient,
        url: PresignedUrl,
        retries: TransferRetries,
        origins: StorageOrigins,
        *,
        job_id: str,
        in_bulk: bool = False,
    ) -> None:
        """Create an object that has not sent a request yet.

        Args:
            storage: Sends the requests.
            url: The URL of the result, which can be renewed.
            retries: Decides whether the transfer of this result goes on after a failure.
            origins: Knows which storages are down.
            job_id: The job.
            in_bulk: True to read large chunks, which need several megabytes of memory.
        """
        self.job_id = job_id
        self.retries = retries
        self._in_bulk = in_bulk
        self._storage = storage
        self._url = url
        self._origins = origins

    async def reader(self, start: int = 0, stop: int | None = None) -> SequentialReader:
        """Return a reader of the bytes of the result from `start` to `stop`.

        A negative `start` counts from the end of the result; then the size is requested first.

        Raises:
            ResultError: The size could not be requested, for a reason that `SequentialReader.read`
                documents.
            RequestError: The API failed when a new URL was requested.
        """
        if start >= 0:
            return SequentialReader(self, start=start, stop=stop)
        version = await self._find_size()
        start = max(0, start + (version.size or 0))
        reader = SequentialReader(self, start=start, stop=stop, version=version)
        try:
            await reader.begin()
        except ResultChangedError as changed:
            # The object need not have changed: replicas in a storage can have different ETags, or
            # the storage can misunderstand If-Match. So request the whole object, of any version.
            reader = SequentialReader(self, start=start, stop=stop, ranges_work=False)
            await reader.begin()
            if reader.version.size is None:
                reader.version = evolve(reader.version, size=version.size)
            elif reader.version.size != version.size:  # `start` is wrong for this version
                await reader.aclose()
                raise changed from None
        return reader

    @asynccontextmanager
    async def open(
        self, *, requested: Range | None = None, version: ObjectVersion | None = None
    ) -> AsyncGenerator[ResponseBody, None]:
        """Request the result as `StorageClient.open` does, and renew its URL if it has expired.

        Raises:
            RequestError: The API failed when a new URL was requested.
            AdePollError: As for `StorageClient.open`.
        """
        async with AsyncExitStack() as stack:
            while True:
                url = await self._url.current()
                opening = self._storage.open(
                    self.job_id, url, requested=requested, version=version, in_bulk=self._in_bulk
                )
                origin = self.retries.origin = self._origins.of(url)
                try:
                    async with origin.request(self.retries, job_id=self.job_id):
                        body = await stack.enter_async_context(opening)
                except ResultExpiredError as error:
                    await self.retries.until_answered(partial(self._url.renew, url, error))
                else:
                    break
            self._url.confirm()
            yield body

    async def _find_size(self) -> ObjectVersion:
        """Return the version of the object, including its size.

        Request one byte. If the response does not state the size of the object, read the whole
        object.
        """
        async with aclosing(SequentialReader(self, stop=1)) as reader:
            await reader.begin()
        if reader.version.size is not None:
            return reader.version
        async with aclosing(SequentialReader(self)) as reader:
            while await reader.read():
                pass
        return evolve(reader.version, size=reader.received)
