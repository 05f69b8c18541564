"""The functions of the Starlette adapter, for one API key or for many keys."""

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from http import HTTPStatus
from typing import Any, Final, TypeAlias, Unpack

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from adepoll import (
    ConfigurationError,
    JobRef,
    JobSnapshot,
    Json,
    StatusUpdate,
    WebhookVerificationError,
)
from adepoll.common.redaction import Secret
from adepoll.contrib.starlette.problems import problem_response
from adepoll.contrib.starlette.responses import (
    ClientDisconnectedError,
    EventsResponse,
    ResultResponse,
    cancel_on_disconnect,
)
from adepoll.server.health import LIVE
from adepoll.server.options import DEFAULT_TENANT, ResourceOptions, TenantOptions, check_tenant
from adepoll.server.resources import ServerResources, open_resources
from adepoll.server.sse import as_event
from adepoll.server.stop_signals import on_stop_signal
from adepoll.server.tenant_pool import TenantPool
from adepoll.server.webhooks import Verifier, default_job_ids

_ABNORMAL_CLOSURE: Final = 1006  # a WebSocket close code

# The type of the application is `Any`, because it can be any subclass of Starlette.
Lifespan: TypeAlias = Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any]]]
OwnLifespan: TypeAlias = Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any] | None]]


class JobFunctions(ABC):
    """Base class with the functions for routes, such as `wait` and `send_result`.

    `Tenant` inherits them, and so does the object that `Tenants.get` returns.
    """

    @abstractmethod
    def resources(self, connection: HTTPConnection) -> ServerResources:
        """Return the client, watcher and fetcher for a request or a websocket."""

    async def wait(
        self,
        request: Request | WebSocket,
        job: str | JobRef,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - the timeout must raise JobTimeoutError, not TimeoutError
    ) -> JobSnapshot:
        """Wait until a job has settled. All requests that wait for the same job share its polls.

        If the client disconnects, only the wait of this request ends. After `timeout` seconds, an
        error says what is known of the job. `add_problem_details` turns the error into the
        response: 504 if the job is active, 404 if the service does not know the job, 502 to 504 if
        the service is down.

        Args:
            request: The request, or an accepted websocket. The body of a request must have been
                read, or must not be needed. Messages of a websocket are discarded during the wait.
            job: The id of the job, or a `JobRef`, which can contain its kind.
            timeout: Maximum seconds to wait; None for no limit.

        Raises:
            JobTimeoutError: The job is active, and has not settled within `timeout` seconds.
            ClientDisconnectedError: The client of the request has disconnected.
            WebSocketDisconnect: The client of the websocket has disconnected.
            AdePollError: Another error of `ServerResources.wait`.
            ClosedError: The server is stopping.
        """
        if isinstance(request, WebSocket) and request.client_state is WebSocketState.DISCONNECTED:
            raise WebSocketDisconnect(_ABNORMAL_CLOSURE)
        try:
            async with cancel_on_disconnect(request.receive):
                snapshot = await self.resources(request).wait(job, timeout=timeout)
        except ClientDisconnectedError:
            if isinstance(request, WebSocket):
                raise WebSocketDisconnect(_ABNORMAL_CLOSURE) from None
            raise
        return snapshot

    async def send_status(
        self,
        request: Request,
        job: str | JobRef,
        *,
        timeout: float | None = 20.0,  # noqa: ASYNC109 - after the timeout, 202 is sent
    ) -> Response:
        """Wait as `wait` does, and return a response with the status of the job as JSON.

        The response is 200 if the job has settled. It is 202, with ``Retry-After``, if the job is
        active after `timeout` seconds. `adepoll.server.job_responses.job_as_json` lists the keys.

        Raises:
            AdePollError: An error of `wait` other than `JobTimeoutError`.
            ClosedError: The server is stopping.
        """
        async with cancel_on_disconnect(request.receive):
            reply = await self.resources(request).wait_and_reply(job, timeout=timeout)
        return JSONResponse(reply.body, status_code=reply.status, headers=reply.headers)

    def events(
        self,
        request: Request,
        job_ids: Iterable[str | JobRef],
        *,
        heartbeat: float = 15.0,
        encode: Callable[[StatusUpdate], Json] = as_event,
    ) -> Response:
        """Return a response with server-sent events about jobs, until all jobs have settled.

        `adepoll.JobEventStream` describes the arguments. A client that accepts no data for a minute
        is disconnected.

        Raises:
            ClosedError: The server is stopping.
        """
        resources = self.resources(request)
        events = resources.events(
            job_ids, headers=request.headers, heartbeat=heartbeat, encode=encode
        )
        return EventsResponse(resources, events)

    def send_result(
        self, request: Request, job: JobSnapshot | JobRef | str, *, filename: str | None = None
    ) -> Response:
        """Return a response with the result of a job, which is sent as fast as the client reads.

        The server does not store the result, and needs the same memory for a result of any size.
        ``Range``, ``If-Range``, ``If-None-Match`` and ``HEAD`` are supported. If the result cannot
        be sent completely, the connection is aborted, so that the client notices. If an error is
        raised before the first byte, an app with `add_problem_details` sends problem details.

        Args:
            request: The request.
            job: A snapshot of the job, a `JobRef`, or its id.
            filename: Name under which a browser saves the result; None for the job id and
                ``.json``.
        """
        return ResultResponse(self.resources(request), request, job, filename)

    def webhook(
        self,
        verifier: Verifier,
        *,
        job_ids: Callable[[Json], Iterable[Json]] = default_job_ids,
        max_bytes: int = 2**16,
    ) -> Callable[[Request], Awaitable[Response]]:
        """Return a route that receives webhooks, for the method POST.

        If a webhook is genuine, the response is 204, and the watcher immediately polls those of its
        jobs that the webhook names. Only a poll settles a job, never the webhook. The response to a
        webhook that is not genuine is 400; it is 408 if the body does not arrive within a minute.

        Args:
            verifier: Checks the signature.
            job_ids: Returns the job ids in the parsed body.
            max_bytes: Size of the largest body that is read, in bytes. The response to a larger
                body is 413.
        """

        async def receive_webhook(request: Request) -> Response:
            try:
                status = await self.resources(request).receive_webhook(
                    verifier,
                    headers=request.headers,
                    body=request.stream(),
                    job_ids=job_ids,
                    max_bytes=max_bytes,
                )
            except WebhookVerificationError as error:
                return problem_response(request, error)
            except ClientDisconnect:  # the sender will not read this response
                status = HTTPStatus.BAD_REQUEST
            return Response(status_code=status)

        return receive_webhook

    async def ready(self, request: Request) -> Response:
        """Respond with 200 if the server can wait for jobs, else with 503."""
        health = await self.resources(request).health()
        return JSONResponse(health.body, status_code=health.http_status, headers=health.headers)

    async def live(self, request: Request) -> Response:  # noqa: ARG002 - Starlette passes it to each route
        """Respond with 200 as long as the process works, whatever the service does."""
        return JSONResponse(LIVE.body, headers=LIVE.headers)


class Tenant(JobFunctions):
    """The client, watcher and fetcher for one API key and region, in an application.

    With one key, use the functions of the module `adepoll.contrib.starlette`: they are the methods
    of a default tenant. For several keys or regions, create a tenant for each, and nest the
    lifespans:
    ``FastAPI(lifespan=one.lifespan(client=..., inner=other.lifespan(client=...)))``. If the keys
    are not known when the server starts, use `Tenants`.
    """

    def __init__(self, name: str) -> None:
        """Create a tenant. Its `ServerResources` will be ``getattr(app.state, name)``."""
        self._name = name

    def lifespan(
        self, *, inner: OwnLifespan | None = None, **options: Unpack[ResourceOptions]
    ) -> Lifespan:
        """Return a lifespan for ``FastAPI(lifespan=...)`` or ``Starlette(lifespan=...)``.

        When the server receives SIGTERM or SIGINT, calls of `wait` in progress raise `ClosedError`,
        and event streams end. Results may be sent for `grace` more seconds.

        Args:
            inner: Your own lifespan, which starts after this one and ends before it. The
                application also gets the state that your lifespan yields.
            **options: Options of `adepoll.server.resources.create_resources`: `client`, `watcher`,
                `fetcher`, `grace`, `probe_every`. `client` is required, except for the default
                tenant.
        """
        return _nested(self._name, lambda app: self.running(app, **options), inner)

    @asynccontextmanager
    async def running(
        self, app: Starlette, **options: Unpack[ResourceOptions]
    ) -> AsyncGenerator[ServerResources, None]:
        """Open the client, watcher and fetcher while the ``async with`` block runs.

        Use this in a lifespan of your own, in place of `lifespan`:
        ``async with running(app) as resources: yield``. If a mounted application needs the
        resources, yield ``{"adepoll": resources}``, or use `lifespan` with your own lifespan as
        `inner`.

        Raises:
            ConfigurationError: Another tenant with this name runs in the application, or `client`
                is missing and this is not the default tenant.
        """
        check_tenant(self._name, options)
        async with open_resources(**options) as resources:
            # uvicorn ends the lifespan only after the last response, so an open event stream would
            # delay the end. Therefore, the signal itself stops all event streams.
            with _in_state(app, self._name, resources), on_stop_signal(resources.stop):
                yield resources

    def resources(self, connection: HTTPConnection) -> ServerResources:
        """Return the client, watcher and fetcher of this tenant."""
        resources = _found(connection, self._name, self.resources)
        if isinstance(resources, ServerResources):
            return resources
        name = "adepoll_lifespan" if self._name == DEFAULT_TENANT else f"{self._name}.lifespan"
        raise _not_running(f"the tenant {self._name!r}", f"{name}(...)")


class Tenants:
    """Clients, watchers and fetchers for many API keys, such as one key per customer.

    ``TENANTS.get(key)`` returns an object with `wait`, `events` and the other `JobFunctions`. Each
    key has its own client, watcher and fetcher. They are created when the key is first used, and
    closed when no request has used the key for `idle_after` seconds.
    """

    def __init__(self, name: str = "tenants") -> None:
        """Create an object whose `TenantPool` will be ``getattr(app.state, name)``."""
        self._name = name

    def lifespan(
        self, *, inner: OwnLifespan | None = None, **options: Unpack[TenantOptions]
    ) -> Lifespan:
        """Return a lifespan for ``FastAPI(lifespan=...)``. It closes all tenants at the end.

        Args:
            inner: Your own lifespan, which starts after this one and ends before it.
            **options: Options of `adepoll.server.tenant_pool.TenantPool`. `client`: function that
                creates the client of a key. `limit`: largest number of open tenants. `idle_after`:
                seconds without use after which a tenant is closed. `watcher`, `fetcher` and
                `grace`: the same for each tenant as in `Tenant.lifespan`.
        """
        return _nested(self._name, lambda app: self.running(app, **options), inner)

    @asynccontextmanager
    async def running(
        self, app: Starlette, **options: Unpack[TenantOptions]
    ) -> AsyncGenerator[TenantPool, None]:
        """Open the pool while the ``async with`` block runs.

        Use this in a lifespan of your own, in place of `lifespan`.
        """
        pool = TenantPool(**options)
        try:
            with _in_state(app, self._name, pool), on_stop_signal(pool.stop):
                yield pool
        finally:
            await pool.aclose()

    def get(self, key: str) -> JobFunctions:
        """Return the functions for routes, for the tenant with this key. Opens no connection.

        Args:
            key: An API key. But if you passed a function as `client` to `lifespan`: the argument
                for this function, such as the name of a customer.
        """
        return _OneTenant(self, Secret(key))

    async def ready(self, request: Request) -> Response:
        """Respond with 200 if the server accepts requests, else with 503."""
        health = self.pool(request).health()
        return JSONResponse(health.body, status_code=health.http_status, headers=health.headers)

    def pool(self, connection: HTTPConnection) -> TenantPool:
        """Return the pool of the application that handles the request."""
        pool = _found(connection, self._name, self.pool)
        if isinstance(pool, TenantPool):
            return pool
        raise _not_running(f"the tenant pool {self._name!r}", "TENANTS.lifespan(...)")


class _OneTenant(JobFunctions):
    """The functions for routes, with the client, watcher and fetcher of one API key.

    `Tenants.get` returns this object.
    """

    def __init__(self, tenants: Tenants, key: Secret[str]) -> None:
        self._tenants = tenants
        self._key = key

    def resources(self, connection: HTTPConnection) -> ServerResources:
        return self._tenants.pool(connection).get(self._key)


def _nested(
    name: str,
    run: Callable[[Starlette], AbstractAsyncContextManager[object]],
    inner: OwnLifespan | None,
) -> Lifespan:
    """Return a lifespan function that enters the context of `run`, and then that of `inner`.

    The function yields the state that `inner` yields, with one more key, `name`. The value of this
    key is what `run` yields: the resources.
    """

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[Mapping[str, Any], None]:
        async with run(app) as resources:
            if inner is None:
                yield {name: resources}
                return
            async with inner(app) as state:
                yield {**(state or {}), name: resources}

    return lifespan


@contextmanager
def _in_state(app: Starlette, name: str, resources: object) -> Iterator[None]:
    """Set the attribute `name` of `app.state` until the end of the ``with`` block."""
    if hasattr(app.state, name):
        raise ConfigurationError(
            f"app.state.{name} exists already: give each tenant of an application its own name"
        )
    setattr(app.state, name, resources)
    try:
        yield
    finally:
        delattr(app.state, name)


def _found(connection: HTTPConnection, name: str, dependency: object) -> object:
    """Return the `ServerResources` or `TenantPool` with this name; None if it is not running.

    In FastAPI, `dependency` is the method that returns this object to routes. If a test has
    replaced the method in `app.dependency_overrides`, return the result of the replacement.
    """
    # In FastAPI, a test can replace a dependency by another function.
    overrides = getattr(connection.app, "dependency_overrides", {})
    if (override := overrides.get(dependency)) is not None:
        return override()
    # Mounted applications get the state that the lifespan yields. If the lifespan yields no state,
    # the state of the application itself is used.
    for state in (connection.state, connection.app.state):
        if (resources := getattr(state, name, None)) is not None:
            return resources
    return None


def _not_running(what: str, lifespan: str) -> RuntimeError:
    return RuntimeError(
        f"{what} is not running in this application: create the application with "
        f"lifespan={lifespan}, and start it; in tests, use `with TestClient(app)`"
    )
