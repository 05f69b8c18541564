"""Client, watcher and fetcher of a server, from its start to its end."""

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
)
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Final, TypeVar, Unpack

from adepoll.api.client import AdeClient
from adepoll.api.job_kind import JobRef
from adepoll.api.models import JobSnapshot, Json
from adepoll.common.tasks import start
from adepoll.errors import (
    AdePollError,
    AnswerTimeoutError,
    ClosedError,
    JobTimeoutError,
)
from adepoll.fetcher import ResultFetcher
from adepoll.server.health import Health, HealthCheck
from adepoll.server.job_responses import StatusReply, active_reply, settled_reply
from adepoll.server.options import ResourceOptions
from adepoll.server.result_responses import ResultReply, reply_with_result
from adepoll.server.sse import JobEventStream, as_event
from adepoll.server.step_limiter import StepLimiter
from adepoll.server.webhooks import Verifier, default_job_ids, job_ids_in
from adepoll.watching.status_updates import StatusUpdate
from adepoll.watching.watcher import JobWatcher

__all__ = ["ServerResources", "create_resources", "open_resources"]

_T = TypeVar("_T")

_MAX_PER_STEP: Final = 16  # tasks that may continue in one step of the event loop
_SEND_TIMEOUT: Final = 60.0  # seconds in which a client must accept some data
_BODY_TIMEOUT: Final = 60.0  # seconds in which the body of a webhook must arrive


class ServerResources:
    """Client, watcher and fetcher of one key and region, for all requests of a server.

    `open_resources` creates and closes an instance. Two instances share no connections, no request
    budget and no job states.

    Attributes:
        client: The client.
        watcher: Watches the jobs of all requests.
        fetcher: Fetches results.
    """

    def __init__(
        self,
        client: AdeClient,
        watcher: JobWatcher,
        fetcher: ResultFetcher,
        *,
        owns_client: bool,
        grace: float,
        probe_every: float | None,
    ) -> None:
        """Store the arguments. Call `open_resources` instead of this class."""
        self.client = client
        self._owns_client = owns_client
        self.watcher = watcher
        self.fetcher = fetcher
        self._grace = grace
        self._health = HealthCheck(client, watcher, fetcher, probe_every=probe_every)
        self._loop = asyncio.get_running_loop()
        self._steps = StepLimiter(_MAX_PER_STEP)
        self._streams: set[asyncio.Timeout] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        # Loop time at which `until_stopped` cancels its blocks; None until `stop` is called.
        self._ends_at: float | None = None

    @property
    def is_stopping(self) -> bool:
        """True after `stop` was called."""
        return self._ends_at is not None

    @property
    def is_in_use(self) -> bool:
        """True while a request waits for a job, receives events, or receives a result."""
        return bool(self._streams or self.watcher.stats.subscribers or self.fetcher.stats.in_flight)

    def stop(self) -> None:
        """Close the watcher, because the server is stopping.

        Waits raise `ClosedError`, and event streams end. Results that are being sent are cancelled
        `grace` seconds later.
        """
        if self._ends_at is None:
            self._ends_at = self._loop.time() + self._grace
            _ = start(self.watcher.aclose(), self._tasks)
            for stream in self._streams:
                stream.reschedule(self._ends_at)

    async def wait_for_step(self) -> None:
        """Wait for a later step of the event loop if 16 tasks have continued in this one.

        A response calls this after its wait, so that thousands of waits for the same job do not
        block the loop when the job settles.
        """
        await self._steps.wait()

    @asynccontextmanager
    async def until_stopped(self) -> AsyncGenerator[None, None]:
        """Cancel the code in the ``async with`` block `grace` seconds after `stop` was called.

        Raises:
            ClosedError: The block was cancelled.
        """
        try:
            async with asyncio.timeout_at(self._ends_at) as stream:
                self._streams.add(stream)
                try:
                    yield
                finally:
                    self._streams.discard(stream)
        except TimeoutError:
            if not stream.expired():
                raise
        else:
            return
        raise ClosedError("the server stopped before the response was complete")

    async def wait(self, job: str | JobRef, *, timeout: float | None = None) -> JobSnapshot:  # noqa: ASYNC109 - the timeout must raise other errors than TimeoutError
        """Wait for a job as `JobWatcher.wait` does, but raise a more exact error after `timeout`.

        `JobTimeoutError` means that the job is known to be active. If its status is still unknown,
        or the service is down, another error is raised, which says why.

        Raises:
            JobTimeoutError: The job is still active after `timeout` seconds.
            JobNotFoundError: The service does not know the job, or did not know it yet after
                `timeout` seconds.
            RequestError: Polls failed for too long, or the service was down or had not responded
                after `timeout` seconds.
            InvalidJobIdError: The id is not valid; no request was sent.
            ClosedError: The server is stopping.
        """
        try:
            snapshot = await self.watcher.wait(job, timeout=timeout)
        except JobTimeoutError as error:
            await self.wait_for_step()
            if (cause := self._why_unknown(JobRef.of(job), error)) is None:
                raise
            raise cause from error
        except (AdePollError, ClosedError):
            await self.wait_for_step()
            raise
        await self.wait_for_step()
        return snapshot

    def _why_unknown(self, job: JobRef, timeout: JobTimeoutError) -> AdePollError | None:
        """Return the error that explains why the present status is unknown; None if it is known.

        `timeout` is the error with which the wait for the job ended.
        """
        outage = self.client.outage(job.kind_or(self.watcher.kind))
        if outage is not None:
            return timeout.last_error or outage
        if timeout.last_status is not None:
            return None
        if timeout.last_error is not None:
            return timeout.last_error
        return AnswerTimeoutError(timeout=timeout.timeout, job_id=timeout.job_id)

    async def wait_and_reply(
        self,
        job: str | JobRef,
        *,
        timeout: float | None,  # noqa: ASYNC109 - after the timeout, 202 is returned
    ) -> StatusReply:
        """Wait for a job, and return its status as a response: 200 if it has settled, else 202.

        Raises:
            AdePollError, ClosedError: An error of `wait` other than `JobTimeoutError`.
        """
        try:
            return settled_reply(await self.wait(job, timeout=timeout))
        except JobTimeoutError as error:
            return active_reply(JobRef.of(job), error, default_kind=self.watcher.kind)

    def events(
        self,
        job_ids: Iterable[str | JobRef],
        *,
        headers: Mapping[str, str],
        heartbeat: float = 15.0,
        encode: Callable[[StatusUpdate], Json] = as_event,
    ) -> JobEventStream:
        """Return an event stream as the response to a request.

        Args:
            job_ids: The jobs; `JobEventStream` describes this argument.
            headers: Headers of the request, in a mapping that ignores case.
            heartbeat: Seconds without an event after which a comment is sent.
            encode: Returns the JSON data of an event.
        """
        return JobEventStream(
            self.watcher,
            job_ids,
            last_event_id=headers.get("Last-Event-ID"),
            heartbeat=heartbeat,
            encode=encode,
        )

    @asynccontextmanager
    async def open_result(
        self,
        job: JobSnapshot | JobRef | str,
        *,
        method: str,
        headers: Mapping[str, str],
        filename: str | None = None,
    ) -> AsyncGenerator[ResultReply, None]:
        """Open the result of a job as the response to a request.

        Args:
            job: A snapshot of the job, a reference, or its id.
            method: Method of the request: ``GET`` or ``HEAD``.
            headers: Headers of the request, in a mapping that ignores case.
            filename: Name under which a browser saves the result; None for the job id and
                ``.json``.

        Raises:
            AdePollError: An error of `reply_with_result`.
            ClosedError: `stop` was called, and the result was not sent completely within `grace`
                seconds.
        """
        opening = reply_with_result(
            self.fetcher,
            job,
            method=method,
            range_header=headers.get("Range"),
            if_range=headers.get("If-Range"),
            if_none_match=headers.get("If-None-Match"),
            filename=filename,
        )
        async with self.until_stopped(), opening as reply:
            yield reply

    async def health(self) -> Health:
        """Return the health of the server. First send a probe if necessary; see `HealthCheck`."""
        return await self._health.check(is_stopping=self.is_stopping)

    async def receive_webhook(
        self,
        verifier: Verifier,
        *,
        headers: Mapping[str, str],
        body: AsyncIterable[bytes],
        job_ids: Callable[[Json], Iterable[Json]] = default_job_ids,
        max_bytes: int,
    ) -> HTTPStatus:
        """Read a webhook. If it names jobs that are being watched, poll these jobs immediately.

        Args:
            verifier: Checks the signature.
            headers: Headers of the request.
            body: Chunks of the body of the request.
            job_ids: Returns the job ids in the parsed body.
            max_bytes: Size of the largest body that is read, in bytes.

        Returns:
            The status of the response: 204; 413 if the body is too large; 408 if it takes too long.

        Raises:
            WebhookVerificationError: The signature does not match, the timestamp is too old, or the
                body is invalid.
        """
        content = bytearray()
        try:
            async with asyncio.timeout(_BODY_TIMEOUT):
                async for chunk in body:
                    content += chunk
                    if len(content) > max_bytes:
                        return HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        except TimeoutError:
            return HTTPStatus.REQUEST_TIMEOUT
        whole = bytes(content)
        verifier.verify(headers, whole, now=datetime.now(UTC).timestamp())
        for job_id in job_ids_in(whole, job_ids, max_bytes=max_bytes):
            self.watcher.poll_now(job_id)
        return HTTPStatus.NO_CONTENT

    async def aclose(self) -> None:
        """End all waits and event streams, then close fetcher, watcher and client.

        A client that was passed to `create_resources` stays open.
        """
        async with AsyncExitStack() as stack:
            if self._owns_client:
                stack.push_async_callback(self.client.aclose)
            stack.push_async_callback(self.watcher.aclose)
            stack.push_async_callback(self.fetcher.aclose)
            self.stop()
            await self._health.aclose()
            while self._tasks:
                await asyncio.wait(self._tasks)


def limit_send_time(send: Callable[[_T], Awaitable[None]]) -> Callable[[_T], Awaitable[None]]:
    """Return a function that calls `send`, and raises `TimeoutError` after 60 seconds."""

    async def send_or_time_out(data: _T) -> None:
        try:
            async with asyncio.timeout(_SEND_TIMEOUT):
                await send(data)
        except TimeoutError:
            raise TimeoutError("the client accepts no data") from None

    return send_or_time_out


@asynccontextmanager
async def open_resources(
    **options: Unpack[ResourceOptions],
) -> AsyncGenerator[ServerResources, None]:
    """Create client, watcher and fetcher; close them at the end of the ``async with`` block.

    Args:
        **options: Options of `create_resources`.

    Raises:
        ConfigurationError: The API key is missing, or another setting is invalid.
        ValueError: `grace` or `probe_every` is negative or not a number.
    """
    resources = create_resources(**options)
    try:
        yield resources
    finally:
        await resources.aclose()


def create_resources(
    *,
    client: AdeClient | Callable[[], AdeClient] = AdeClient,
    watcher: Callable[[AdeClient], JobWatcher] = JobWatcher,
    fetcher: Callable[[AdeClient], ResultFetcher] = ResultFetcher,
    grace: float = 3.0,
    probe_every: float | None = 10.0,
) -> ServerResources:
    """Create client, watcher and fetcher, which `ServerResources.aclose` closes.

    Args:
        client: Creates the client, such as ``functools.partial(AdeClient, region="eu")``; or an
            existing client, which is not closed.
        watcher: Creates the watcher from the client, such as ``partial(JobWatcher,
            concurrency=128)``.
        fetcher: Creates the fetcher from the client.
        grace: Seconds after a stop of the server in which results may still be sent.
        probe_every: Minimum seconds between two probes; None for no probes. A probe is a request to
            the service. `ServerResources.health` sends it if the last request to the service
            failed, or if nothing has arrived from the service for 30 seconds.

    Raises:
        ConfigurationError: The API key is missing, or another setting is invalid.
        ValueError: `grace` or `probe_every` is negative or not a number.
    """
    for name, value in (("grace", grace), ("probe_every", probe_every)):
        if value is not None and not value >= 0:
            raise ValueError(f"{name} must be a number of 0 or more, got {value}")
    opened = client if isinstance(client, AdeClient) else client()
    # A client opens nothing before its first request. So there is nothing to close if one of the
    # following calls raises an error.
    watching = watcher(opened)
    return ServerResources(
        opened,
        watching,
        fetcher(opened),
        owns_client=opened is not client,
        grace=grace,
        probe_every=probe_every,
    )
