"""adepoll in an aiohttp server, with one watcher for all requests.

Call ``setup(app)``, then use ``app[WATCHER]``, and `wait`, `events`, `send_result` and `ready` in
handlers.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import Context
from http import HTTPStatus
from typing import Final, Unpack

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from adepoll.api.client import AdeClient
from adepoll.api.models import JobSnapshot, Json
from adepoll.errors import AdePollError, ClosedError, WebhookVerificationError
from adepoll.fetcher import ResultFetcher
from adepoll.redaction import showable
from adepoll.server.problem_details import PROBLEM_MEDIA_TYPE, report_problem
from adepoll.server.resources import (
    ResourceOptions,
    ServerResources,
    limit_send_time,
    open_resources,
)
from adepoll.server.sse import EVENT_STREAM_HEADERS, as_event
from adepoll.server.webhooks import WebhookVerifier, default_job_ids
from adepoll.watching.status_updates import StatusUpdate
from adepoll.watching.watcher import JobWatcher

__all__ = [
    "CLIENT",
    "FETCHER",
    "WATCHER",
    "Integration",
    "ServerResources",
    "events",
    "problem_details_middleware",
    "ready",
    "send_result",
    "setup",
    "wait",
    "webhook",
]

_log = logging.getLogger(__name__)

_CHECK_INTERVAL: Final = 0.25  # seconds between two checks for disconnected clients


class Integration:
    """adepoll with one API key and region in an application.

    The functions of this module are the methods of a default instance. Create your own instances
    for several keys or regions in one application or in its sub-applications. Each has its own
    client, watcher and fetcher, under its own application keys. A sub-application uses the
    integration that was set up nearest to it.

    Attributes:
        CLIENT: Application key of the `AdeClient`.
        WATCHER: Application key of the `JobWatcher`.
        FETCHER: Application key of the `ResultFetcher`.
    """

    def __init__(self, name: str) -> None:
        """Create the application keys; `name` appears in their `repr`."""
        self.CLIENT = web.AppKey(f"{name}.client", AdeClient)
        self.WATCHER = web.AppKey(f"{name}.watcher", JobWatcher)
        self.FETCHER = web.AppKey(f"{name}.fetcher", ResultFetcher)
        self._RESOURCES = web.AppKey(f"{name}.resources", ServerResources)
        self._DISCONNECTS = web.AppKey(f"{name}.disconnects", _DisconnectMonitor)

    def setup(self, app: web.Application, **options: Unpack[ResourceOptions]) -> None:
        """Create client, watcher and fetcher when an application starts; close them when it stops.

        When the server stops, calls of `wait` in progress raise `ClosedError`, event streams end,
        and results have `grace` seconds to complete.

        Args:
            app: The application, or a sub-application.
            **options: Options of `adepoll.server.resources.open_resources`: `client`, `watcher`,
                `fetcher`, `grace`, `probe_every`.
        """

        async def lifespan(app: web.Application) -> AsyncIterator[None]:
            async with open_resources(**options) as resources:
                app[self._RESOURCES] = resources
                app[self._DISCONNECTS] = _DisconnectMonitor()
                app[self.CLIENT] = resources.client
                app[self.WATCHER] = resources.watcher
                app[self.FETCHER] = resources.fetcher
                yield

        async def stop(app: web.Application) -> None:
            if (resources := app.get(self._RESOURCES)) is not None:
                resources.stop()

        app.cleanup_ctx.append(lifespan)
        app.on_shutdown.append(stop)  # runs before aiohttp waits for open responses

    async def wait(
        self,
        request: web.Request,
        job_id: str,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - as for JobWatcher.wait
    ) -> JobSnapshot:
        """Wait until a job has settled. Any number of requests share its polls.

        If the client disconnects, the handler is cancelled; other requests continue to wait. After
        `timeout` seconds you may respond with 202 and the URL of a later attempt; otherwise
        `problem_details_middleware` responds with 504.

        Raises:
            JobTimeoutError: The job has not settled within `timeout` seconds.
            AdePollError: As for `JobWatcher.wait`.
        """
        with self._cancelled_on_disconnect(request):
            return await self._resources(request).wait(job_id, timeout=timeout)

    async def events(
        self,
        request: web.Request,
        job_ids: Iterable[str],
        *,
        heartbeat: float = 15.0,
        encode: Callable[[StatusUpdate], Json] = as_event,
    ) -> web.StreamResponse:
        """Respond with server-sent events about jobs until all have settled.

        `adepoll.JobEventStream` describes the arguments. A client that accepts no data for a minute
        is disconnected.

        Raises:
            ClosedError: The server is stopping.
        """
        resources = self._resources(request)
        events = resources.events(
            job_ids, headers=request.headers, heartbeat=heartbeat, encode=encode
        )
        response = web.StreamResponse(headers=EVENT_STREAM_HEADERS)
        if request.method == hdrs.METH_HEAD:
            return response
        with self._cancelled_on_disconnect(request):
            try:
                # When the server stops, the events end, unless the client accepts no data.
                async with resources.until_stopped(), events:
                    await response.prepare(request)
                    write = limit_send_time(response.write)
                    async for event in events:
                        await resources.take_turn()
                        await write(event)
                    await limit_send_time(response.write_eof)(b"")
            except ConnectionError:
                pass  # aiohttp handles the disconnection of the client
            except (ClosedError, TimeoutError) as error:
                _abort(request, error)
        return response

    async def send_result(
        self, request: web.Request, job: JobSnapshot | str, *, filename: str | None = None
    ) -> web.StreamResponse:
        """Respond with the result of a job, as fast as the client accepts it.

        The result is not stored, and the use of memory does not depend on its size. ``Range``,
        ``If-Range``, ``If-None-Match`` and ``HEAD`` are supported. If the result cannot be sent
        completely, the connection is aborted, so that the client notices.

        Args:
            request: The request.
            job: A snapshot of the job, or its id.
            filename: Name under which a browser saves the result; None for the job id and
                ``.json``.

        Raises:
            AdePollError: As for `ResultFetcher.stream`, before anything was sent.
        """
        opening = self._resources(request).open_result(
            job, method=request.method, headers=request.headers, filename=filename
        )
        response: web.StreamResponse | None = None
        with self._cancelled_on_disconnect(request):
            try:
                async with opening as reply:
                    response = web.StreamResponse(status=reply.status, headers=reply.headers)
                    await response.prepare(request)
                    if reply.has_body:
                        write = limit_send_time(response.write)
                        async for chunk in reply.chunks:
                            await write(chunk)
                        await limit_send_time(response.write_eof)(b"")
            except ConnectionError:
                if response is None:
                    raise
            except (AdePollError, ClosedError, TimeoutError) as error:
                if response is None:
                    raise  # nothing was sent yet, so a problem can be sent
                _abort(request, error)
        return response

    async def ready(self, request: web.Request) -> web.Response:
        """Respond with 200 if the server can wait for jobs, else 503, and with statistics as JSON.

        This is a handler: ``app.router.add_get("/ready", ready)``. `adepoll.server.health`
        describes the JSON.
        """
        health = await self._resources(request).health()
        return web.json_response(health.body, status=health.http_status, headers=health.headers)

    def webhook(
        self,
        verifier: WebhookVerifier,
        *,
        job_ids: Callable[[Json], Iterable[Json]] = default_job_ids,
        max_bytes: int = 2**16,
    ) -> Handler:
        """Return a handler of webhooks, for ``app.router.add_post("/hook", ...)``.

        After a genuine webhook the watcher polls its jobs immediately, and the response is 204. A
        webhook settles no job; only the poll does. The response to other webhooks is 400.

        Args:
            verifier: Checks the signature.
            job_ids: Returns the job ids in the parsed body.
            max_bytes: Largest body that is read; beyond it the response is 413.
        """

        async def receive(request: web.Request) -> web.StreamResponse:
            try:
                status = await self._resources(request).receive_webhook(
                    verifier,
                    headers=request.headers,
                    body=request.content.iter_any(),
                    job_ids=job_ids,
                    max_bytes=max_bytes,
                )
            except WebhookVerificationError as error:
                return _problem_response(error)
            except ConnectionError:  # the sender has disconnected and reads no response
                status = HTTPStatus.BAD_REQUEST
            return web.Response(status=status)

        return receive

    def _resources(self, request: web.Request) -> ServerResources:
        return request.config_dict[self._RESOURCES]

    def _cancelled_on_disconnect(self, request: web.Request) -> AbstractContextManager[None]:
        return request.config_dict[self._DISCONNECTS].cancelling(request)


@web.middleware
async def problem_details_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Respond to an `AdePollError` with problem details (RFC 9457), as a middleware.

    If the response or a websocket has already started, the connection is aborted.
    """
    try:
        return await handler(request)
    except (AdePollError, ClosedError) as error:
        if request.writer.output_size:  # a second response would look like more of the first
            _abort(request, error)
        return _problem_response(error)


def _problem_response(error: AdePollError | ClosedError) -> web.Response:
    problem = report_problem(error)
    return web.Response(
        status=problem.status,
        headers=problem.headers,
        text=json.dumps(problem.body),
        content_type=PROBLEM_MEDIA_TYPE,
    )


def _abort(request: web.Request, error: Exception) -> None:
    """Close the connection of a response that cannot be completed."""
    _log.warning("a response to %s was aborted: %s", showable(request.path), error)
    if request.transport is not None:
        request.transport.abort()


class _DisconnectMonitor:
    """Cancels handlers whose client has disconnected.

    aiohttp does so only if the server was started with ``handler_cancellation``. So this class
    checks the connections of all requests that wait for something, four times per second.
    """

    def __init__(self) -> None:
        # By block, because a request may wait for several jobs at the same time.
        self._requests: dict[object, web.Request] = {}
        self._timer: asyncio.TimerHandle | None = None

    @contextmanager
    def cancelling(self, request: web.Request) -> Iterator[None]:
        """Cancel the handler of the request if its client disconnects within the block."""
        block = object()
        self._requests[block] = request
        if self._timer is None:
            self._check()
        try:
            yield
        finally:
            self._requests.pop(block, None)
            if not self._requests and self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def _check(self) -> None:
        handlers: set[asyncio.Task[None]] = set()
        for block, request in list(self._requests.items()):
            if request.transport is None or request.transport.is_closing():
                del self._requests[block]
                # aiohttp sets the task to None after the response.
                handlers |= {request.task} - {None}
        for handler in handlers:
            handler.cancel()
        self._timer = None
        if self._requests:
            # The timer serves all requests, so it must not keep the context of one of them.
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(_CHECK_INTERVAL, self._check, context=Context())


_DEFAULT: Final = Integration("adepoll")

CLIENT: Final = _DEFAULT.CLIENT
WATCHER: Final = _DEFAULT.WATCHER
FETCHER: Final = _DEFAULT.FETCHER

setup = _DEFAULT.setup
wait = _DEFAULT.wait
events = _DEFAULT.events
send_result = _DEFAULT.send_result
ready = _DEFAULT.ready
webhook = _DEFAULT.webhook
