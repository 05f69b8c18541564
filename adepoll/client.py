"""AdeClient: the only module that talks to the API. Imports pacing, protocol and below."""

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from datetime import UTC, datetime
from random import Random
from types import TracebackType
from typing import Final, Self, TypeVar

import aiohttp
from attrs import frozen
from yarl import URL

from adepoll import protocol
from adepoll.__about__ import __version__
from adepoll.connections import USER_AGENT, Bearer, Connections, Once, describe
from adepoll.errors import (
    AnswerTimeoutError,
    AnswerTooLargeError,
    RateLimitedError,
    RequestError,
    StatusError,
    TransportError,
)
from adepoll.models import JobPage, JobSnapshot, JobStatus, JobSummary
from adepoll.pacing import Pacer, RetryPolicy
from adepoll.redaction import showable
from adepoll.settings import read_base_url, read_key

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_Slot = AbstractAsyncContextManager[object]
_Decipher = Callable[[int, protocol.Headers, bytes], _T]
_NO_SLOT: Final[_Slot] = nullcontext()


@frozen(kw_only=True)
class ClientStats:
    """What a client has done so far.

    Attributes:
        requests: Requests sent, retries included.
        retries: Those of them that repeated a failed one.
        throttled: Answers 429.
        failures: Requests that brought no usable answer, 429 included.
        bytes_received: Bytes of bodies, after decompression.
        in_flight: Requests on the wire now.
        retry_budget: How many retries may be spent now.
        gate_closed_for: Seconds until requests may be sent again; 0.0 where they may.
    """

    requests: int
    retries: int
    throttled: int
    failures: int
    bytes_received: int
    in_flight: int
    retry_budget: float
    gate_closed_for: float


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
        if max_connections < 1:
            raise ValueError(f"max_connections must be positive, got {max_connections}")
        self._headers = {
            "Authorization": Bearer(f"Bearer {read_key(api_key)}"),
            "Accept": "application/json",
            "User-Agent": USER_AGENT,
        }
        self._base_url = read_base_url(base_url, region)
        self._connections = Connections("client", _make_session, session)
        self._timeout = timeout
        self._aiohttp_timeout = aiohttp.ClientTimeout(total=timeout)
        self._max_body_bytes = max_body_bytes
        self._wire: _Slot = asyncio.Semaphore(max_connections)
        self._rng = rng or Random()  # noqa: S311 - jitter, not a secret
        self._retry = retry or RetryPolicy()
        self._pacer = Pacer(max_rate=max_rate, retry=self._retry, rng=self._rng)
        self._requests = self._retries = self._throttled = self._failures = 0
        self._bytes = self._in_flight = self._failed_in_a_row = 0
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
        self._pacer.close()
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
        try:
            now = asyncio.get_running_loop().time()
        except RuntimeError:  # read after the loop has ended, when nobody waits for the gate
            now = math.inf
        return ClientStats(
            requests=self._requests,
            retries=self._retries,
            throttled=self._throttled,
            failures=self._failures,
            bytes_received=self._bytes,
            in_flight=self._in_flight,
            retry_budget=self._pacer.retry_budget,
            gate_closed_for=max(0.0, self._pacer.gate_opens_at - now),
        )

    async def get_job(self, job_id: str) -> JobSnapshot:
        """Look at one job, once.

        Raises:
            InvalidJobIdError: The id cannot be one; nothing was sent.
            RequestError: No usable answer came; `StatusError` and its kin say what did come,
                `TransportError` that nothing did. Passing failures have been retried.
            ClosedError: The client is closed.
        """
        return await self._get_job(job_id)

    def slotted(self, slot: AbstractAsyncContextManager[object]) -> "SlottedClient":
        """Give a view of this client for somebody who asks again and again, such as a watcher.

        It enters `slot` (a semaphore) for each request, and does not hold it while the request
        waits for the rate or the 429 gate. It tries once: who asks again anyway, by a schedule of
        his own, had better not sit out a retry.
        """
        return SlottedClient(self, slot)

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
        return await self._list_jobs(page, page_size, status)

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

    async def _get_job(
        self, job_id: str, *, slot: _Slot = _NO_SLOT, attempts: int | None = None
    ) -> JobSnapshot:
        def decipher(status: int, headers: protocol.Headers, body: bytes) -> JobSnapshot:
            return protocol.decipher_job(
                status, headers, body, job_id=job_id, now=_utcnow(), secret=self._key
            )

        snapshot = await self._call(
            protocol.job_path(job_id), decipher, job_id, slot=slot, attempts=attempts
        )
        if snapshot.status is JobStatus.UNKNOWN:
            self._warn_of(snapshot.status_text)
        return snapshot

    async def _list_jobs(
        self,
        page: int,
        page_size: int,
        status: JobStatus | None,
        *,
        slot: _Slot = _NO_SLOT,
        attempts: int | None = None,
    ) -> JobPage:
        def decipher(code: int, headers: protocol.Headers, body: bytes) -> JobPage:
            return protocol.decipher_page(code, headers, body, now=_utcnow(), secret=self._key)

        path = protocol.list_path(page=page, page_size=page_size, status=status)
        return await self._call(path, decipher, None, slot=slot, attempts=attempts)

    async def _call(
        self,
        path: str,
        decipher: _Decipher[_T],
        job_id: str | None,
        *,
        slot: _Slot,
        attempts: int | None,
    ) -> _T:
        """Send a GET until an answer makes sense, the policy ends or the budget is spent."""
        # The path is encoded; URL() must leave it, or "%25" would be sent for "%".
        url = URL(self._base_url + path, encoded=True)
        self._connections.check_open()
        waits = self._retry.waits(self._rng)
        attempt = 0
        while True:
            attempt += 1
            try:
                return await self._attempt(url, decipher, job_id, slot)
            except RequestError as error:
                if (
                    not error.transient
                    or attempt >= (attempts or self._retry.attempts)
                    or not self._pacer.may_retry()
                ):
                    raise
                _log.debug("attempt %d failed, will retry: %s", attempt, error)
            await self._pacer.pause(next(waits))
            self._retries += 1

    async def _attempt(
        self, url: URL, decipher: _Decipher[_T], job_id: str | None, slot: _Slot
    ) -> _T:
        loop = asyncio.get_running_loop()
        while True:
            due = await self._pacer.turn()
            async with self._wire, slot:
                if not self._pacer.take(due):
                    continue  # while we waited for a place, the gate closed or others were sent
                sent_at = loop.time()
                self._requests += 1
                self._in_flight += 1
                try:
                    status, headers, body = await self._send(url, job_id)
                    answer = decipher(status, headers, body)
                except RequestError as error:
                    self._note_failure(error, sent_at)
                    raise
                finally:
                    self._in_flight -= 1
                self._note_success()
                return answer

    def _note_success(self) -> None:
        self._pacer.succeeded()
        if self._failed_in_a_row >= _OUTAGE:
            _log.warning("the service answers again, after %d failures", self._failed_in_a_row)
        self._failed_in_a_row = 0

    def _note_failure(self, error: RequestError, sent_at: float) -> None:
        self._failures += 1
        self._throttled += isinstance(error, RateLimitedError)
        if isinstance(error, StatusError) and not error.transient:
            self._note_success()  # a 404 is an answer like any other, from a service that is well
            return
        self._pacer.failed(error, sent_at=sent_at)
        if isinstance(error, RateLimitedError):
            return
        self._failed_in_a_row += 1
        if self._failed_in_a_row == _OUTAGE:
            # Somebody waits, and should know for what.
            _log.warning("%d requests in a row failed, the last with: %s", _OUTAGE, error)

    async def _send(self, url: URL, job_id: str | None) -> tuple[int, protocol.Headers, bytes]:
        """Send one GET and read its answer; foreign errors become ours here and only here."""
        try:
            async with self._connections.session().get(
                url,
                headers=self._headers,
                allow_redirects=False,
                raise_for_status=False,  # a session of the caller's may be set to
                timeout=self._aiohttp_timeout,
                # A session of the caller's keeps its own middlewares.
                middlewares=(Once(),) if self._connections.owns_session else None,
            ) as response:
                body = await self._read(response, job_id)
                return response.status, response.headers, body
        except TimeoutError:
            failure: TransportError = AnswerTimeoutError(timeout=self._timeout, job_id=job_id)
        except (aiohttp.ClientError, OSError) as exc:
            failure = TransportError(describe(exc), job_id=job_id)
        self._connections.check_open()  # broken off by aclose(), it failed for that reason
        # Raised out here, so that no foreign error hangs on it as context: some of them carry
        # the request's headers, and with them the key.
        raise failure

    async def _read(self, response: aiohttp.ClientResponse, job_id: str | None) -> bytes:
        chunks: list[bytes] = []
        size = 0
        reading = self._connections.reading
        reading.add(response)
        try:
            async for chunk in response.content.iter_any():
                size += len(chunk)
                if size > self._max_body_bytes:
                    response.close()
                    raise AnswerTooLargeError(limit=self._max_body_bytes, job_id=job_id)
                chunks.append(chunk)
        finally:
            reading.discard(response)
        self._bytes += size
        return b"".join(chunks)

    @property
    def _key(self) -> str:
        return self._headers["Authorization"].removeprefix("Bearer ")

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

    def __init__(self, client: AdeClient, slot: _Slot) -> None:
        """Made by `AdeClient.slotted`."""
        self._client = client
        self._slot = slot

    async def get_job(self, job_id: str) -> JobSnapshot:
        """As `AdeClient.get_job`."""
        return await self._client._get_job(job_id, slot=self._slot, attempts=1)  # noqa: SLF001 - one subject, two classes

    async def list_jobs(
        self, *, page: int = 0, page_size: int = 100, status: JobStatus | None = None
    ) -> JobPage:
        """As `AdeClient.list_jobs`."""
        return await self._client._list_jobs(  # noqa: SLF001 - as above
            page, page_size, status, slot=self._slot, attempts=1
        )


def _make_session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),  # max_connections limits, outside timeout
        cookie_jar=aiohttp.DummyCookieJar(),
    )


_MOST_BARREN_PAGES: Final = 3
_MOST_STRANGE: Final = 20
_OUTAGE: Final = 10  # failures in a row that are worth a warning


def _utcnow() -> datetime:
    return datetime.now(UTC)
