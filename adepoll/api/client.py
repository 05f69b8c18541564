"""AdeClient: the only module that talks to the API. Imports calls, protocol and below."""

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from random import Random
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import aiohttp
from yarl import URL

from adepoll.__about__ import __version__
from adepoll.api import protocol
from adepoll.api.config import read_base_url, read_key
from adepoll.api.models import JobPage, JobSnapshot, JobStatus, JobSummary
from adepoll.api.service_clock import ServiceClock
from adepoll.api.transport import USER_AGENT, Bearer, Connections, TimeLimit, describe, once
from adepoll.errors import (
    AnswerTimeoutError,
    AnswerTooLargeError,
    TransportError,
)
from adepoll.redaction import showable
from adepoll.throttling.calls import Calls, ClientStats, Send
from adepoll.throttling.rate_limiter import RetryPolicy

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class AdeClient:
    """Asks the ADE service about extract jobs: one job, a page of them, all of them.

    Use it as ``async with AdeClient() as client``, or close it with `aclose`. One client is one
    key, one region and one request budget; it serves any number of tasks of one event loop.
    """

    def __init__(
        self,
        api_key: str | None = None,
        *,
        region: str | None = None,
        base_url: str | None = None,
        session: aiohttp.ClientSession | None = None,
        timeout: float = 30.0,
        max_rate: float | None = None,
        retry: RetryPolicy | None = None,
        max_body_bytes: int = 8 * 2**20,
        max_connections: int = 256,
        rng: Random | None = None,
    ) -> None:
        """Make a client; nothing is sent, and no connection made, before the first call.

        Args:
            api_key: The key; None reads the environment variable ``VISION_AGENT_API_KEY``.
            region: ``us`` or ``eu``; None reads ``LANDINGAI_ADE_ENVIRONMENT`` (``production`` or
                ``eu``), and without that takes ``us``.
            base_url: Where the API is, instead of a region: a proxy, an emulator. Without either
                argument, ``LANDINGAI_ADE_BASE_URL`` goes before the region's variable, as it
                does in the official SDK.
            session: A session of your own, which stays yours to close. adepoll makes one that
                keeps no cookies and reads neither netrc nor proxy variables.
            timeout: Most seconds one request may take, connecting and body included.
            max_rate: Most requests per second over everything that goes through this client.
            retry: When to send a failed request again; None for the defaults.
            max_body_bytes: Largest answer taken, after decompression.
            max_connections: Most requests on the wire at once.
            rng: Source of jitter, to make runs replayable.

        Raises:
            MissingApiKeyError: There is no key.
            ConfigurationError: Key, region or base URL cannot be used.
            ValueError: A number is out of range.
        """
        if not (math.isfinite(timeout) and timeout > 0):
            raise ValueError(f"timeout must be a positive number, got {timeout}")
        if max_body_bytes < 1:
            raise ValueError(f"max_body_bytes must be positive, got {max_body_bytes}")
        self._headers = {
            "Authorization": Bearer(f"Bearer {read_key(api_key)}"),
            "Accept": "application/json",
            "User-Agent": USER_AGENT,
        }
        self._base_url = read_base_url(base_url, region)
        self._root = URL(self._base_url, encoded=True)
        self._root_path = self._root.raw_path.rstrip("/")
        self._connections = Connections("client", self._make_session, session)
        # A session of the caller's has headers and middlewares of its own, which it keeps.
        self._headers_of_request = None if session is None else self._headers
        self._clock = ServiceClock()
        self._time_limit = TimeLimit(timeout)
        self._max_body_bytes = max_body_bytes
        self._rng = rng or Random()  # noqa: S311 - jitter, not a secret
        self._retry = retry or RetryPolicy()
        self._calls = Calls(
            retry=self._retry, rng=self._rng, max_rate=max_rate, max_connections=max_connections
        )
        self._bytes = 0
        self._strange: set[str] = set()

    def __repr__(self) -> str:
        """Show where it points; never the key."""
        return f"AdeClient(base_url={self._base_url!r})"

    async def __aenter__(self) -> Self:
        """Give the client itself."""
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the client."""
        await self.aclose()

    async def aclose(self) -> None:
        """Close the client and a session of its own. All calls then raise ClosedError."""
        self._calls.close()
        await self._connections.aclose()

    @property
    def base_url(self) -> str:
        """Where the API is: scheme, host and maybe a path, without a slash at the end."""
        return self._base_url

    @property
    def retry(self) -> RetryPolicy:
        """When failed requests are sent again."""
        return self._retry

    @property
    def rng(self) -> Random:
        """The source of jitter."""
        return self._rng

    @property
    def stats(self) -> ClientStats:
        """What the client has done so far; a copy that does not change."""
        return self._calls.stats(bytes_received=self._bytes)

    def service_time(self) -> float | None:
        """Give the service's Unix time, now, as its Date headers tell; None before any answer."""
        return self._clock.unix_time(asyncio.get_running_loop().time())

    async def get_job(self, job_id: str) -> JobSnapshot:
        """Look at one job, once.

        Raises:
            InvalidJobIdError: The id cannot be one; nothing was sent.
            RequestError: No usable answer came; `StatusError` and its kin say what did come,
                `TransportError` that nothing did. Passing failures have been retried.
            ClosedError: The client is closed.
        """
        return await self._calls.call(self._look(job_id))

    def slotted(self, slot: AbstractAsyncContextManager[object]) -> "SlottedClient":
        """Give a view of this client for somebody who asks again and again, such as a watcher.

        It enters `slot` (a semaphore) for each request, and does not hold it while the request
        waits for the rate or the 429 gate. It tries once: who asks again anyway, by a schedule of
        his own, had better not sit out a retry.
        """
        return SlottedClient(self, self._calls, slot)

    async def list_jobs(
        self, *, page: int = 0, page_size: int = 100, status: JobStatus | None = None
    ) -> JobPage:
        """List one page of the key's jobs.

        Args:
            page: Counted from 0.
            page_size: 1 to 100.
            status: Only jobs of that status; None for all.

        Raises:
            ValueError: An argument is out of range; nothing was sent.
            RequestError: As for `get_job`.
        """
        return await self._calls.call(self._turn_to(page, page_size, status))

    async def iter_jobs(self, *, status: JobStatus | None = None) -> AsyncIterator[JobSummary]:
        """Go through all jobs of the key, page by page, each id once.

        The order is not documented, and jobs move while one pages: an item can be missed. Ends at
        the last page, and also where the service keeps promising more and brings nothing new.
        """
        seen: set[str] = set()
        page = barren = 0
        while barren < _MOST_BARREN_PAGES:
            listed = await self.list_jobs(page=page, status=status)
            fresh = [job for job in listed.jobs if job.job_id not in seen]
            for job in fresh:
                if job.job_id not in seen:
                    seen.add(job.job_id)
                    yield job
            if not listed.has_more or not listed.jobs:
                return
            barren = 0 if fresh else barren + 1
            page += 1

    def _look(self, job_id: str) -> Send[JobSnapshot]:
        """Give what looks at a job, a single time."""
        # Encoded once, by protocol: yarl must leave it, or "%25" would be sent for "%".
        url = self._root.with_path(self._root_path + protocol.job_path(job_id), encoded=True)
        self._connections.check_open()
        return partial(self._send, url, self._decipher_job, job_id)

    def _turn_to(self, page: int, page_size: int, status: JobStatus | None) -> Send[JobPage]:
        """Give what lists a page, a single time."""
        path = protocol.list_path(page=page, page_size=page_size, status=status)
        url = URL(self._base_url + path, encoded=True)
        self._connections.check_open()
        return partial(self._send, url, self._decipher_page, None)

    def _decipher_page(
        self, _job_id: None, status: int, headers: protocol.Headers, body: bytes, **told: Any
    ) -> JobPage:
        return protocol.decipher_page(status, headers, body, **told)

    def _decipher_job(
        self, job_id: str, status: int, headers: protocol.Headers, body: bytes, **told: Any
    ) -> JobSnapshot:
        snapshot = protocol.decipher_job(status, headers, body, job_id=job_id, **told)
        if snapshot.status is _UNKNOWN:
            self._warn_of(snapshot.status_text)
        return snapshot

    async def _send(
        self, url: URL, read: Callable[..., _T], job_id: str | None, sent_at: float
    ) -> _T:
        """Send one GET and read its answer; foreign errors become ours here and only here."""
        loop = self._connections.loop or asyncio.get_running_loop()  # who asks again pays again
        try:
            with self._time_limit.block(loop, sent_at):
                response = await self._connections.session().get(
                    url,
                    headers=self._headers_of_request,
                    allow_redirects=False,
                    raise_for_status=False,  # a session of the caller's may be set to
                    timeout=_NO_TIMEOUT,
                )
                headers = response.headers
                if sent_at >= self._clock.enough_until:
                    self._clock.heard(headers.get("Date"), sent_at, loop.time())
                if _log.isEnabledFor(logging.DEBUG):
                    milliseconds = 1000 * (loop.time() - sent_at)
                    _log.debug("%s: %d in %.0f ms", url.path_qs, response.status, milliseconds)
                if response.closed:  # its body came with it, and its connection is free again
                    body = response.content.read_nowait()
                else:
                    async with response:
                        body = await self._read(response)
        except TimeoutError:
            failure: TransportError = AnswerTimeoutError(
                timeout=self._time_limit.seconds, job_id=job_id
            )
        except (aiohttp.ClientError, OSError) as exc:
            failure = TransportError(describe(exc), job_id=job_id)
        else:
            if len(body) > self._max_body_bytes:
                raise AnswerTooLargeError(limit=self._max_body_bytes, job_id=job_id)
            self._bytes += len(body)
            if response.status == _OK:
                return read(job_id, _OK, headers, body)
            # Only an error page may quote the key, or has a Retry-After.
            told = {"now": datetime.now(UTC), "secret": self._key}
            return read(job_id, response.status, headers, body, **told)
        self._connections.check_open()  # broken off by aclose(), it failed for that reason
        # Raised out here, so that no foreign error hangs on it as context: some of them carry
        # the request's headers, and with them the key.
        raise failure

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        """Read a body, or more of it than may be taken."""
        chunks: list[bytes] = []
        size = 0
        reading = self._connections.reading
        reading.add(response)
        try:
            while size <= self._max_body_bytes and (chunk := await response.content.readany()):
                size += len(chunk)
                chunks.append(chunk)
        finally:
            reading.discard(response)
        return b"".join(chunks)

    @property
    def _key(self) -> str:
        return self._headers["Authorization"].removeprefix("Bearer ")

    def _make_session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            headers=self._headers,
            connector=aiohttp.TCPConnector(limit=0),  # max_connections limits, outside timeout
            cookie_jar=aiohttp.DummyCookieJar(),
            middlewares=(once,),
        )

    def _warn_of(self, status_text: str) -> None:
        if status_text not in self._strange and len(self._strange) < _MOST_STRANGE:
            self._strange.add(status_text)
            _log.warning(
                "the service answered with a status unknown to adepoll %s, %r; "
                "such jobs are taken as not ended",
                __version__,
                showable(status_text, 40),
            )


class SlottedClient:
    """A view of an `AdeClient`: one try a call, a slot held while it is on the wire, no longer."""

    def __init__(
        self, client: AdeClient, calls: Calls, slot: AbstractAsyncContextManager[object]
    ) -> None:
        """Made by `AdeClient.slotted`."""
        self._client = client
        self._calls = calls
        self._slot = slot

    def service_time(self) -> float | None:
        """As `AdeClient.service_time`."""
        return self._client._clock.unix_time(asyncio.get_running_loop().time())  # noqa: SLF001 - one subject, two classes

    def get_job(self, job_id: str) -> Coroutine[Any, Any, JobSnapshot]:
        """As `AdeClient.get_job`."""
        return self._calls.once(self._client._look(job_id), self._slot)  # noqa: SLF001 - as above

    async def list_jobs(
        self, *, page: int = 0, page_size: int = 100, status: JobStatus | None = None
    ) -> JobPage:
        """As `AdeClient.list_jobs`."""
        list_page = self._client._turn_to(page, page_size, status)  # noqa: SLF001 - as above
        return await self._calls.once(list_page, self._slot)


# Python 3.11 looks members of an Enum up in Python.
_OK: Final = HTTPStatus.OK.value
_UNKNOWN: Final = JobStatus.UNKNOWN
_NO_TIMEOUT: Final = aiohttp.ClientTimeout()  # a TimeLimit holds in its place
_MOST_BARREN_PAGES: Final = 3
_MOST_STRANGE: Final = 20
