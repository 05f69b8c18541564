"""adepoll in an aiohttp server: one watcher for all requests. Everything real is in the library.

``setup(app)``, then ``app[WATCHER]``, and `wait`, `events`, `send_result` and `ready` in handlers.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Final

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from adepoll.api.client import AdeClient
from adepoll.api.models import JobSnapshot, Json
from adepoll.errors import AdePollError, ClosedError, WebhookVerificationError
from adepoll.fetcher import ResultFetcher
from adepoll.server.passing import passage
from adepoll.server.problem_details import PROBLEM_TYPE, problem_details
from adepoll.server.resources import ServerResources, open_household
from adepoll.server.sse import EVENT_STREAM_HEADERS, JobEventStream, as_event
from adepoll.server.webhooks import WebhookVerifier, default_job_ids
from adepoll.watching.status_updates import StatusUpdate
from adepoll.watching.watcher import JobWatcher

_log = logging.getLogger(__name__)

_LOOK_EVERY: Final = 0.25  # seconds between two looks at who has left
_MOST_STALLED: Final = 60.0  # seconds for which a client may take nothing


class Tenant:
    """One key and region in an application. Most have one, and use the functions of the module.

    Several, in one application or in sub-applications of it, share nothing: each has a client, a
    watcher and a fetcher of its own, under keys of its own. In a sub-application, what was set up
    nearest is found.

    Attributes:
        CLIENT: The application's key of the `AdeClient`.
        WATCHER: That of the `JobWatcher`.
        FETCHER: That of the `ResultFetcher`.
    """

    def __init__(self, name: str) -> None:
        """Make the keys; `name` is for people."""
        self.CLIENT = web.AppKey(f"{name}.client", AdeClient)
        self.WATCHER = web.AppKey(f"{name}.watcher", JobWatcher)
        self.FETCHER = web.AppKey(f"{name}.fetcher", ResultFetcher)
        self._HOUSEHOLD = web.AppKey(f"{name}.household", ServerResources)
        self._DOOR = web.AppKey(f"{name}.door", _Door)

    def setup(
        self,
        app: web.Application,
        *,
        client: AdeClient | Callable[[], AdeClient] = AdeClient,
        watcher: Callable[[AdeClient], JobWatcher] = JobWatcher,
        fetcher: Callable[[AdeClient], ResultFetcher] = ResultFetcher,
        grace: float = 3.0,
        probe_every: float | None = 10.0,
    ) -> None:
        """Give an application a client, a watcher and a fetcher, from its start to its end.

        When the server stops, everybody who waits gets `ClosedError`, and events end; results on
        their way have `grace` seconds more.

        Args:
            app: The application, or a sub-application.
            client: As for `adepoll.server.resources.open_household`, and so are all others.
            watcher: Makes the watcher.
            fetcher: Makes the fetcher.
            grace: Seconds for results on their way.
            probe_every: Seconds between probes of a service that is not well.
        """

        async def living(app: web.Application) -> AsyncIterator[None]:
            async with open_household(
                client=client,
                watcher=watcher,
                fetcher=fetcher,
                grace=grace,
                probe_every=probe_every,
            ) as resources:
                app[self._HOUSEHOLD] = resources
                app[self._DOOR] = _Door()
                app[self.CLIENT] = resources.client
                app[self.WATCHER] = resources.watcher
                app[self.FETCHER] = resources.fetcher
                yield

        async def stop(app: web.Application) -> None:
            if (resources := app.get(self._HOUSEHOLD)) is not None:
                resources.stop()

        app.cleanup_ctx.append(living)
        app.on_shutdown.append(stop)  # aiohttp waits for open answers after it, and not before

    async def wait(
        self,
        request: web.Request,
        job_id: str,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - as for JobWatcher.wait
    ) -> JobSnapshot:
        """Wait until a job has ended. Any number of requests share the looks at it.

        Where the client leaves, the handler is cancelled, and the waiting of nobody else. What to
        answer when the time is up is the caller's choice: 202 and where to ask again, say. Left
        alone, it is a 504 by `problems`.

        Raises:
            JobTimeoutError: It has not ended within `timeout` seconds.
            AdePollError: As for `JobWatcher.wait`.
        """
        with request.config_dict[self._DOOR].watching(request):
            return await request.config_dict[self._HOUSEHOLD].wait(job_id, timeout=timeout)

    async def events(
        self,
        request: web.Request,
        job_ids: Iterable[str],
        *,
        heartbeat: float = 15.0,
        encode: Callable[[StatusUpdate], Json] = as_event,
    ) -> web.StreamResponse:
        """Answer with server-sent events of how jobs stand, until all have ended.

        See `adepoll.JobEventStream`, whose arguments these are. A client that takes nothing for a
        minute is dropped.

        Raises:
            ClosedError: The server is stopping.
        """
        events = JobEventStream(
            request.config_dict[self.WATCHER],
            job_ids,
            last_event_id=request.headers.get("Last-Event-ID"),
            heartbeat=heartbeat,
            encode=encode,
        )
        response = web.StreamResponse(headers=EVENT_STREAM_HEADERS)
        if request.method == hdrs.METH_HEAD:
            return response
        resources = request.config_dict[self._HOUSEHOLD]
        with request.config_dict[self._DOOR].watching(request):
            try:
                # When the server stops, events end; but not where the client takes none.
                async with resources.streaming(), events:
                    await response.prepare(request)
                    async for event in events:
                        await resources.turn()
                        async with asyncio.timeout(_MOST_STALLED):
                            await response.write(event)
                    async with asyncio.timeout(_MOST_STALLED):
                        await response.write_eof()
            except ConnectionError:
                pass  # the client has left, which aiohttp sees, too
            except (ClosedError, TimeoutError) as error:
                _break_off(request, error)
        return response

    async def send_result(
        self, request: web.Request, job: JobSnapshot | str, *, filename: str | None = None
    ) -> web.StreamResponse:
        """Answer with the result of a job, passed through as the client takes it.

        It is not stored, and memory does not grow with it. ``Range``, ``If-Range``,
        ``If-None-Match`` and ``HEAD`` are honoured. Where it cannot be brought to its end, the
        connection is broken off, so that the client does not take a part for the whole.

        Args:
            request: What is answered.
            job: A snapshot of the job, or its id.
            filename: The name under which browsers save it; None for the job id and ``.json``.

        Raises:
            AdePollError: As for `ResultFetcher.stream`, before anything is sent.
        """
        scope = request.config_dict
        opening = passage(
            scope[self.FETCHER],
            job,
            method=request.method,
            headers=request.headers,
            filename=filename,
        )
        response: web.StreamResponse | None = None
        with scope[self._DOOR].watching(request):
            try:
                async with scope[self._HOUSEHOLD].streaming(), opening as answer:
                    response = web.StreamResponse(status=answer.status, headers=answer.headers)
                    await response.prepare(request)
                    if answer.chunks is not None:
                        async for chunk in answer.chunks:
                            async with asyncio.timeout(_MOST_STALLED):
                                await response.write(chunk)
                        async with asyncio.timeout(_MOST_STALLED):
                            await response.write_eof()
            except ConnectionError:
                if response is None:
                    raise
            except (AdePollError, TimeoutError) as error:
                if response is None:
                    raise  # nothing was sent: it can be answered
                _break_off(request, error)
        return response

    async def ready(self, request: web.Request) -> web.Response:
        """Answer whether jobs can be waited for, 200 or 503, and with what is going on, as JSON.

        A handler: ``app.router.add_get("/ready", ready)``. See `Condition` in server.resources.
        """
        health = await request.config_dict[self._HOUSEHOLD].health()
        return web.json_response(
            health.body, status=health.status, headers={"Cache-Control": "no-store"}
        )

    def webhook(
        self,
        verifier: WebhookVerifier,
        *,
        job_ids: Callable[[Json], Iterable[Json]] = default_job_ids,
        max_bytes: int = 2**16,
    ) -> Handler:
        """Give a handler that takes webhooks, for ``app.router.add_post("/hook", ...)``.

        A genuine one makes the watcher look now at the jobs that it names, and is answered 204;
        only what the look finds counts. Another one is answered 400.

        Args:
            verifier: Says whether one is genuine.
            job_ids: Finds the ids in the parsed body.
            max_bytes: Largest body that is read; 413 beyond that.
        """

        async def hear(request: web.Request) -> web.StreamResponse:
            body = b""
            try:
                async with asyncio.timeout(_MOST_STALLED):
                    while chunk := await request.content.readany():
                        body += chunk
                        if len(body) > max_bytes:
                            raise web.HTTPRequestEntityTooLarge(max_bytes, len(body))
            except TimeoutError:
                raise web.HTTPRequestTimeout from None
            except ConnectionError:  # who sent it has left in the middle, and reads no answer
                raise web.HTTPBadRequest from None
            try:
                request.config_dict[self._HOUSEHOLD].hear(verifier, request.headers, body, job_ids)
            except WebhookVerificationError as error:
                return _answer(error)
            return web.Response(status=HTTPStatus.NO_CONTENT)

        return hear


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """A middleware that answers an `AdePollError` with problem details (RFC 9457).

    Where an answer has been begun, or a websocket, its connection is broken off.
    """
    try:
        return await handler(request)
    except AdePollError as error:
        if request.writer.output_size:  # a second answer would be taken for more of the first
            _break_off(request, error)
        return _answer(error)


def _answer(error: AdePollError) -> web.Response:
    problem = problem_details(error)
    if problem.is_fault:
        _log.warning("answered %d: %s", problem.status, error)
    return web.Response(
        status=problem.status,
        headers={**problem.headers, "Cache-Control": "no-store"},
        text=json.dumps(problem.body),
        content_type=PROBLEM_TYPE,
    )


def _break_off(request: web.Request, error: Exception) -> None:
    """Break the connection off: what is being sent cannot be brought to its end."""
    _log.warning("an answer to %s was broken off: %s", request.path, error)
    if request.transport is not None:
        request.transport.abort()


class _Door:
    """Sees clients leave, and cancels their handlers as aiohttp does with handler_cancellation.

    aiohttp tells nobody that a connection was lost unless the server was started with that option;
    so all connections that something waits for are looked at, a few times a second.
    """

    def __init__(self) -> None:
        # By block: a request may wait for several things at once.
        self._inside: dict[object, web.Request] = {}
        self._timer: asyncio.TimerHandle | None = None

    @contextmanager
    def watching(self, request: web.Request) -> Iterator[None]:
        """Cancel the handler of the request if its client leaves within the block."""
        block = object()
        self._inside[block] = request
        if self._timer is None:
            self._look()
        try:
            yield
        finally:
            self._inside.pop(block, None)
            if not self._inside and self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def _look(self) -> None:
        left: set[asyncio.Task[None]] = set()
        for block, request in list(self._inside.items()):
            if request.transport is None or request.transport.is_closing():
                del self._inside[block]
                # aiohttp takes the task away once the request has been answered.
                left |= {request.task} - {None}
        for task in left:
            task.cancel()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(_LOOK_EVERY, self._look) if self._inside else None


_DEFAULT: Final = Tenant("adepoll")

CLIENT: Final = _DEFAULT.CLIENT
WATCHER: Final = _DEFAULT.WATCHER
FETCHER: Final = _DEFAULT.FETCHER

setup = _DEFAULT.setup
wait = _DEFAULT.wait
events = _DEFAULT.events
send_result = _DEFAULT.send_result
ready = _DEFAULT.ready
webhook = _DEFAULT.webhook
