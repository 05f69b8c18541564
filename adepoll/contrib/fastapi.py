"""adepoll in a FastAPI server, with one watcher for all requests. Needs the extra ``fastapi``.

Create ``FastAPI(lifespan=adepoll_lifespan())``, then use `Client`, `Watcher` and `Fetcher` as
dependencies, and `wait`, `events`, `send_result` and `ready` in routes.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from http import HTTPStatus
from typing import Annotated, Any, Final, TypeAlias, Unpack

from fastapi import Depends, FastAPI, Request, Response, WebSocket, WebSocketDisconnect
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect, HTTPConnection

from adepoll.api.client import AdeClient
from adepoll.api.models import JobSnapshot, Json
from adepoll.contrib.starlette import (
    ClientDisconnectedError,
    EventsResponse,
    ResultResponse,
    cancel_on_disconnect,
)
from adepoll.errors import AdePollError, ClosedError, WebhookVerificationError
from adepoll.fetcher import ResultFetcher
from adepoll.server.problem_details import PROBLEM_MEDIA_TYPE, problem_details, report_problem
from adepoll.server.resources import ResourceOptions, ServerResources, open_resources
from adepoll.server.sse import as_event
from adepoll.server.stop_signals import on_stop_signal
from adepoll.server.webhooks import WebhookVerifier, default_job_ids
from adepoll.watching.status_updates import StatusUpdate
from adepoll.watching.watcher import JobWatcher

__all__ = [
    "Client",
    "ClientDisconnectedError",
    "Fetcher",
    "Integration",
    "ServerResources",
    "Watcher",
    "add_problem_details",
    "adepoll_lifespan",
    "events",
    "ready",
    "running",
    "send_result",
    "wait",
    "webhook",
]

_TRY_AGAIN_LATER: Final = 1013  # WebSocket close codes
_INTERNAL_ERROR: Final = 1011
_ABNORMAL_CLOSURE: Final = 1006

Lifespan: TypeAlias = Callable[[FastAPI], AbstractAsyncContextManager[Mapping[str, Any]]]
OwnLifespan: TypeAlias = Callable[[FastAPI], AbstractAsyncContextManager[Mapping[str, Any] | None]]


class Integration:
    """adepoll with one API key and region in an application.

    The functions of this module are the methods of a default instance. Create your own instances
    for several keys or regions in one application. Each has its own client, watcher and fetcher.
    Its dependencies are ``Annotated[JobWatcher, Depends(integration.watcher)]`` and so on. Nest the
    lifespans: ``FastAPI(lifespan=one.lifespan(inner=other.lifespan()))``.
    """

    def __init__(self, name: str) -> None:
        """`name` is the attribute of ``app.state`` that holds the `ServerResources`."""
        self._name = name

    def lifespan(
        self, *, inner: OwnLifespan | None = None, **options: Unpack[ResourceOptions]
    ) -> Lifespan:
        """Return a lifespan for ``FastAPI(lifespan=...)``.

        When the server receives SIGTERM or SIGINT, calls of `wait` in progress raise
        `ClosedError`, event streams end, and results have `grace` seconds to complete.

        Args:
            inner: Your own lifespan, which starts after this one and ends before it. The state that
                it yields is kept.
            **options: Options of `adepoll.server.resources.open_resources`: `client`, `watcher`,
                `fetcher`, `grace`, `probe_every`.
        """

        @asynccontextmanager
        async def lifespan(app: FastAPI) -> AsyncGenerator[Mapping[str, Any], None]:
            async with self.running(app, **options) as resources:
                if inner is None:
                    yield {self._name: resources}
                    return
                async with inner(app) as state:
                    yield {**(state or {}), self._name: resources}

        return lifespan

    @asynccontextmanager
    async def running(
        self, app: FastAPI, **options: Unpack[ResourceOptions]
    ) -> AsyncGenerator[ServerResources, None]:
        """Do what `lifespan` does, as a context manager for your own lifespan.

        ``async with running(app) as resources: yield``. Mounted applications have access to the
        resources only if your lifespan yields ``{"adepoll": resources}``, or is the `inner` of
        `lifespan`.
        """
        async with open_resources(**options) as resources:
            setattr(app.state, self._name, resources)
            # uvicorn ends the lifespan only after the last response, which event streams delay.
            with on_stop_signal(resources.stop):
                try:
                    yield resources
                finally:
                    delattr(app.state, self._name)

    def client(self, connection: HTTPConnection) -> AdeClient:
        """Return the client, as a dependency."""
        return self._resources(connection).client

    def watcher(self, connection: HTTPConnection) -> JobWatcher:
        """Return the watcher, as a dependency."""
        return self._resources(connection).watcher

    def fetcher(self, connection: HTTPConnection) -> ResultFetcher:
        """Return the fetcher, as a dependency."""
        return self._resources(connection).fetcher

    async def wait(
        self,
        request: Request | WebSocket,
        job_id: str,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - as for JobWatcher.wait
    ) -> JobSnapshot:
        """Wait until a job has settled. Any number of requests share its polls.

        If the client disconnects, the wait ends; other requests continue to wait. After `timeout`
        seconds you may respond with 202 and the URL of a later attempt; otherwise the handler of
        `add_problem_details` responds with 504.

        Args:
            request: The request, whose body was read or is not needed; or an accepted websocket,
                whose messages are discarded meanwhile.
            job_id: The job.
            timeout: Maximum seconds to wait; None for no limit.

        Raises:
            JobTimeoutError: The job has not settled within `timeout` seconds.
            ClientDisconnectedError: The client of the request has disconnected.
            WebSocketDisconnect: The client of the websocket has disconnected.
            AdePollError: As for `JobWatcher.wait`.
        """
        try:
            async with cancel_on_disconnect(request.receive):
                job = await self._resources(request).wait(job_id, timeout=timeout)
        except ClientDisconnectedError:
            if isinstance(request, WebSocket):
                raise WebSocketDisconnect(_ABNORMAL_CLOSURE) from None
            raise
        return job

    def events(
        self,
        request: Request,
        job_ids: Iterable[str],
        *,
        heartbeat: float = 15.0,
        encode: Callable[[StatusUpdate], Json] = as_event,
    ) -> Response:
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
        return EventsResponse(resources, events)

    def send_result(
        self, request: Request, job: JobSnapshot | str, *, filename: str | None = None
    ) -> Response:
        """Respond with the result of a job, as fast as the client accepts it.

        The result is not stored, and the use of memory does not depend on its size. ``Range``,
        ``If-Range``, ``If-None-Match`` and ``HEAD`` are supported. If the result cannot be sent
        completely, the connection is aborted, so that the client notices. After an `AdePollError`
        before the first byte, `add_problem_details` determines the response.

        Args:
            request: The request.
            job: A snapshot of the job, or its id.
            filename: Name under which a browser saves the result; None for the job id and
                ``.json``.
        """
        return ResultResponse(self._resources(request), request, job, filename)

    async def ready(self, request: Request) -> Response:
        """Respond with 200 if the server can wait for jobs, else 503, and with statistics as JSON.

        This is a route: ``app.get("/ready")(ready)``. `adepoll.server.health` describes the JSON.
        """
        health = await self._resources(request).health()
        return JSONResponse(health.body, status_code=health.http_status, headers=health.headers)

    def webhook(
        self,
        verifier: WebhookVerifier,
        *,
        job_ids: Callable[[Json], Iterable[Json]] = default_job_ids,
        max_bytes: int = 2**16,
    ) -> Callable[[Request], Awaitable[Response]]:
        """Return a route for webhooks, for ``app.post("/hook")(...)``.

        After a genuine webhook the watcher polls its jobs immediately, and the response is 204. A
        webhook settles no job; only the poll does. The response to other webhooks is 400.

        Args:
            verifier: Checks the signature.
            job_ids: Returns the job ids in the parsed body.
            max_bytes: Largest body that is read; beyond it the response is 413.
        """

        async def receive(request: Request) -> Response:
            try:
                status = await self._resources(request).receive_webhook(
                    verifier,
                    headers=request.headers,
                    body=request.stream(),
                    job_ids=job_ids,
                    max_bytes=max_bytes,
                )
            except WebhookVerificationError as error:
                return _problem_response(error)
            except ClientDisconnect:  # the sender reads no response
                status = HTTPStatus.BAD_REQUEST
            return Response(status_code=status)

        return receive

    def _resources(self, connection: HTTPConnection) -> ServerResources:
        # A lifespan's state also reaches mounted applications. Without it, use the application's.
        for state in (connection.state, connection.app.state):
            if isinstance(resources := getattr(state, self._name, None), ServerResources):
                return resources
        raise RuntimeError(
            "adepoll is not running in this application: create it with "
            "FastAPI(lifespan=adepoll_lifespan()), and start it; in tests, use "
            "`with TestClient(app)`"
        )


def add_problem_details(app: FastAPI) -> None:
    """Respond to each `AdePollError` with problem details (RFC 9457).

    A websocket is closed with the code 1013 (try again later) if a later attempt may succeed, else
    with 1011 (internal error).
    """
    for kind in (AdePollError, ClosedError):
        app.add_exception_handler(kind, _handle)  # type: ignore[arg-type]  # it gets only these errors


async def _handle(
    connection: Request | WebSocket, error: AdePollError | ClosedError
) -> Response | None:
    if not isinstance(connection, WebSocket):
        return _problem_response(error)
    problem = problem_details(error)
    may_succeed_later = problem.status == HTTPStatus.SERVICE_UNAVAILABLE
    # The client may have disconnected, or the route may have closed the websocket.
    with suppress(WebSocketDisconnect, RuntimeError):
        code = _TRY_AGAIN_LATER if may_succeed_later else _INTERNAL_ERROR
        await connection.close(code, problem.error)
    return None


def _problem_response(error: AdePollError | ClosedError) -> Response:
    problem = report_problem(error)
    return JSONResponse(
        problem.body,
        status_code=problem.status,
        headers=problem.headers,
        media_type=PROBLEM_MEDIA_TYPE,
    )


_DEFAULT: Final = Integration("adepoll")

Client: TypeAlias = Annotated[AdeClient, Depends(_DEFAULT.client)]
Watcher: TypeAlias = Annotated[JobWatcher, Depends(_DEFAULT.watcher)]
Fetcher: TypeAlias = Annotated[ResultFetcher, Depends(_DEFAULT.fetcher)]

adepoll_lifespan = _DEFAULT.lifespan
running = _DEFAULT.running
wait = _DEFAULT.wait
events = _DEFAULT.events
send_result = _DEFAULT.send_result
ready = _DEFAULT.ready
webhook = _DEFAULT.webhook
