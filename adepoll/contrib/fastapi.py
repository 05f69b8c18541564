"""adepoll in a FastAPI server: one watcher for all requests. Everything real is in the library.

``FastAPI(lifespan=adepoll_lifespan())``, then `Client`, `Watcher` and `Fetcher` as dependencies,
and `wait`, `events`, `send_result` and `ready` in routes. Needs the extra ``fastapi``.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from http import HTTPStatus
from typing import Annotated, Any, Final, TypeAlias

from fastapi import (
    Depends,
    FastAPI,
    HTTPException,
    Request,
    Response,
    WebSocket,
    WebSocketDisconnect,
)
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect, HTTPConnection

from adepoll.api.client import AdeClient
from adepoll.api.models import JobSnapshot, Json
from adepoll.contrib.starlette import (
    ClientLeftError,
    EventsResponse,
    ResultResponse,
    while_there,
)
from adepoll.errors import AdePollError, WebhookVerificationError
from adepoll.fetcher import ResultFetcher
from adepoll.server.problem_details import PROBLEM_TYPE, problem_details
from adepoll.server.resources import ServerResources, open_household
from adepoll.server.sse import JobEventStream, as_event
from adepoll.server.stop_signals import overhearing
from adepoll.server.webhooks import WebhookVerifier, default_job_ids
from adepoll.watching.status_updates import StatusUpdate
from adepoll.watching.watcher import JobWatcher

_log = logging.getLogger(__name__)

_MOST_SLOW: Final = 60.0  # seconds for the body of a webhook
_TRY_AGAIN_LATER: Final = 1013  # WebSocket close codes
_INTERNAL_ERROR: Final = 1011
_NO_CODE: Final = 1006

Lifespan: TypeAlias = Callable[[FastAPI], AbstractAsyncContextManager[Mapping[str, Any]]]
OwnLifespan: TypeAlias = Callable[[FastAPI], AbstractAsyncContextManager[Mapping[str, Any] | None]]


class Tenant:
    """One key and region in an application. Most have one, and use the functions of the module.

    Several share nothing: each has a client, a watcher and a fetcher of its own. Its dependencies
    are ``Annotated[JobWatcher, Depends(tenant.watcher)]``, and so on; its lifespan goes around
    that of another: ``FastAPI(lifespan=one.lifespan(inner=other.lifespan()))``.
    """

    def __init__(self, name: str) -> None:
        """`name` is that of the application's state, and of each request's."""
        self._name = name

    def lifespan(
        self,
        *,
        client: AdeClient | Callable[[], AdeClient] = AdeClient,
        watcher: Callable[[AdeClient], JobWatcher] = JobWatcher,
        fetcher: Callable[[AdeClient], ResultFetcher] = ResultFetcher,
        grace: float = 3.0,
        probe_every: float | None = 10.0,
        inner: OwnLifespan | None = None,
    ) -> Lifespan:
        """Give a lifespan for ``FastAPI(lifespan=...)``.

        When the server is told to stop (SIGTERM, SIGINT), everybody who waits gets `ClosedError`,
        and events end; results on their way have `grace` seconds more.

        Args:
            client: As for `adepoll.server.resources.open_household`, and so are all others.
            watcher: Makes the watcher.
            fetcher: Makes the fetcher.
            grace: Seconds for results on their way.
            probe_every: Seconds between probes of a service that is not well.
            inner: A lifespan of your own, which begins after this one and ends before it. What it
                yields stays.
        """

        @asynccontextmanager
        async def lifespan(app: FastAPI) -> AsyncGenerator[Mapping[str, Any], None]:
            async with self.running(
                app,
                client=client,
                watcher=watcher,
                fetcher=fetcher,
                grace=grace,
                probe_every=probe_every,
            ) as resources:
                if inner is None:
                    yield {self._name: resources}
                    return
                async with inner(app) as state:
                    yield {**(state or {}), self._name: resources}

        return lifespan

    @asynccontextmanager
    async def running(
        self,
        app: FastAPI,
        *,
        client: AdeClient | Callable[[], AdeClient] = AdeClient,
        watcher: Callable[[AdeClient], JobWatcher] = JobWatcher,
        fetcher: Callable[[AdeClient], ResultFetcher] = ResultFetcher,
        grace: float = 3.0,
        probe_every: float | None = 10.0,
    ) -> AsyncGenerator[ServerResources, None]:
        """The same as `lifespan`, to be entered within a lifespan of your own.

        ``async with running(app) as ade: yield``. Mounted applications find it only if your own
        lifespan yields ``{"adepoll": ade}``, or is the `inner` of `lifespan`.
        """
        async with open_household(
            client=client,
            watcher=watcher,
            fetcher=fetcher,
            grace=grace,
            probe_every=probe_every,
        ) as resources:
            setattr(app.state, self._name, resources)
            # uvicorn ends the lifespan after the last answer, and would wait for ours for ever.
            with overhearing(resources.stop):
                try:
                    yield resources
                finally:
                    delattr(app.state, self._name)

    def client(self, connection: HTTPConnection) -> AdeClient:
        """A dependency: the client."""
        return self._household(connection).client

    def watcher(self, connection: HTTPConnection) -> JobWatcher:
        """A dependency: the watcher."""
        return self._household(connection).watcher

    def fetcher(self, connection: HTTPConnection) -> ResultFetcher:
        """A dependency: the fetcher."""
        return self._household(connection).fetcher

    async def wait(
        self,
        request: Request | WebSocket,
        job_id: str,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - as for JobWatcher.wait
    ) -> JobSnapshot:
        """Wait until a job has ended. Any number of requests share the looks at it.

        Where the client leaves, the waiting ends, and that of nobody else. What to answer when the
        time is up is the caller's choice: 202 and where to ask again, say. Left alone, it is a
        504 by `handle_problems`.

        Args:
            request: The request, whose body has been read or is not wanted; or a websocket that was
                accepted: what its client sends meanwhile is passed over.
            job_id: The job.
            timeout: Seconds to wait at most; None for no bound.

        Raises:
            JobTimeoutError: It has not ended within `timeout` seconds.
            HTTPException: The client of a request has left.
            WebSocketDisconnect: That of a websocket has.
            AdePollError: As for `JobWatcher.wait`.
        """
        try:
            async with while_there(request.receive):
                job = await self._household(request).wait(job_id, timeout=timeout)
        except ClientLeftError:
            if isinstance(request, WebSocket):
                raise WebSocketDisconnect(_NO_CODE) from None
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
        """Answer with server-sent events of how jobs stand, until all have ended.

        See `adepoll.JobEventStream`, whose arguments these are. A client that takes nothing for a
        minute is dropped.

        Raises:
            ClosedError: The server is stopping.
        """
        events = JobEventStream(
            self.watcher(request),
            job_ids,
            last_event_id=request.headers.get("Last-Event-ID"),
            heartbeat=heartbeat,
            encode=encode,
        )
        return EventsResponse(self._household(request), events)

    def send_result(
        self, request: Request, job: JobSnapshot | str, *, filename: str | None = None
    ) -> Response:
        """Answer with the result of a job, passed through as the client takes it.

        It is not stored, and memory does not grow with it. ``Range``, ``If-Range``,
        ``If-None-Match`` and ``HEAD`` are honoured. Where it cannot be brought to its end, the
        connection is broken off, so that the client does not take a part for the whole. An
        `AdePollError` that comes before anything was sent is answered by `handle_problems`.

        Args:
            request: What is answered.
            job: A snapshot of the job, or its id.
            filename: The name under which browsers save it; None for the job id and ``.json``.
        """
        return ResultResponse(self._household(request), request, job, filename)

    async def ready(self, request: Request) -> Response:
        """Answer whether jobs can be waited for, 200 or 503, and with what is going on, as JSON.

        A route: ``app.get("/ready")(ready)``. See `adepoll.server.resources.Condition`.
        """
        health = await self._household(request).health()
        return JSONResponse(
            health.body, status_code=health.status, headers={"Cache-Control": "no-store"}
        )

    def webhook(
        self,
        verifier: WebhookVerifier,
        *,
        job_ids: Callable[[Json], Iterable[Json]] = default_job_ids,
        max_bytes: int = 2**16,
    ) -> Callable[[Request], Awaitable[Response]]:
        """Give a route that takes webhooks, for ``app.post("/hook")(...)``.

        A genuine one makes the watcher look now at the jobs that it names, and is answered 204;
        only what the look finds counts. Another one is answered 400.

        Args:
            verifier: Says whether one is genuine.
            job_ids: Finds the ids in the parsed body.
            max_bytes: Largest body that is read; 413 beyond that.
        """

        async def hear(request: Request) -> Response:
            body = b""
            try:
                async with asyncio.timeout(_MOST_SLOW):
                    async for chunk in request.stream():
                        body += chunk
                        if len(body) > max_bytes:
                            raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            except TimeoutError:
                raise HTTPException(HTTPStatus.REQUEST_TIMEOUT) from None
            except ClientDisconnect:  # who sent it has left in the middle, and reads no answer
                raise HTTPException(HTTPStatus.BAD_REQUEST) from None
            try:
                self._household(request).hear(verifier, request.headers, body, job_ids)
            except WebhookVerificationError as error:
                return _answer(error)
            return Response(status_code=HTTPStatus.NO_CONTENT)

        return hear

    def _household(self, connection: HTTPConnection) -> ServerResources:
        # The state of a lifespan reaches mounted applications, too; without one, the app's does.
        for state in (connection.state, connection.app.state):
            if isinstance(resources := getattr(state, self._name, None), ServerResources):
                return resources
        raise RuntimeError(
            "adepoll does not run in this application: give FastAPI(lifespan=adepoll_lifespan()), "
            "and start the application, as `with TestClient(app)` does"
        )


def handle_problems(app: FastAPI) -> None:
    """Have an `AdePollError` answered as `adepoll.server.problem_details.problem_details` says.

    A websocket is closed: with 1013 (try again later) where it may soon be otherwise, else 1011.
    """
    app.add_exception_handler(AdePollError, _handle)  # type: ignore[arg-type]  # it is only called with what it takes


async def _handle(connection: Request | WebSocket, error: AdePollError) -> Response | None:
    if not isinstance(connection, WebSocket):
        return _answer(error)
    problem = problem_details(error)
    passes = problem.status == HTTPStatus.SERVICE_UNAVAILABLE
    # Unless its client has left, or the route has closed it.
    with suppress(WebSocketDisconnect, RuntimeError):
        await connection.close(_TRY_AGAIN_LATER if passes else _INTERNAL_ERROR, problem.error)
    return None


def _answer(error: AdePollError) -> Response:
    problem = problem_details(error)
    if problem.is_fault:
        _log.warning("answered %d: %s", problem.status, error)
    return JSONResponse(
        problem.body,
        status_code=problem.status,
        headers={**problem.headers, "Cache-Control": "no-store"},
        media_type=PROBLEM_TYPE,
    )


_DEFAULT: Final = Tenant("adepoll")

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
