"""The functions of the aiohttp adapter, for one API key or for many keys."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress
from http import HTTPStatus
from typing import Unpack

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from adepoll import (
    AdeClient,
    AdePollError,
    ClosedError,
    JobRef,
    JobSnapshot,
    JobWatcher,
    Json,
    ResultFetcher,
    StatusUpdate,
    WebhookVerificationError,
)
from adepoll.common.redaction import Secret
from adepoll.contrib.aiohttp.disconnects import DisconnectMonitor
from adepoll.contrib.aiohttp.problems import abort, problem_response
from adepoll.server.health import LIVE
from adepoll.server.options import ResourceOptions, TenantOptions, check_tenant
from adepoll.server.resources import ServerResources, limit_send_time, open_resources
from adepoll.server.sse import EVENT_STREAM_HEADERS, as_event
from adepoll.server.tenant_pool import TenantPool
from adepoll.server.webhooks import Verifier, default_job_ids


class JobFunctions(ABC):
    """Base class with the functions for handlers, such as `wait` and `send_result`.

    `Tenant` inherits them, and so does the object that `Tenants.get` returns.
    """

    @abstractmethod
    def resources(self, request: web.Request) -> ServerResources:
        """Return the client, watcher and fetcher for a request."""

    @abstractmethod
    def disconnects(self, request: web.Request) -> DisconnectMonitor:
        """Return the object that cancels handlers whose client has disconnected."""

    async def wait(
        self,
        request: web.Request,
        job: str | JobRef,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - the timeout must raise JobTimeoutError, not TimeoutError
    ) -> JobSnapshot:
        """Wait until a job has settled. All requests that wait for the same job share its polls.

        If the client disconnects, only the handler of this request is cancelled. After `timeout`
        seconds, an error says what is known of the job. `problem_details_middleware` turns the
        error into the response: 504 if the job is active, 404 if the service does not know the job,
        502 to 504 if the service is down.

        Raises:
            JobTimeoutError: The job is active, and has not settled within `timeout` seconds.
            AdePollError: Another error of `ServerResources.wait`.
            ClosedError: The server is stopping.
        """
        resources = self.resources(request)
        with self.disconnects(request).cancelling(request):
            return await resources.wait(job, timeout=timeout)

    async def send_status(
        self,
        request: web.Request,
        job: str | JobRef,
        *,
        timeout: float | None = 20.0,  # noqa: ASYNC109 - after the timeout, 202 is sent
    ) -> web.Response:
        """Wait as `wait` does, and return a response with the status of the job as JSON.

        The response is 200 if the job has settled. It is 202, with ``Retry-After``, if the job is
        active after `timeout` seconds. `adepoll.server.job_responses.job_as_json` lists the keys.

        Raises:
            AdePollError: An error of `wait` other than `JobTimeoutError`.
            ClosedError: The server is stopping.
        """
        resources = self.resources(request)
        with self.disconnects(request).cancelling(request):
            reply = await resources.wait_and_reply(job, timeout=timeout)
        return web.json_response(reply.body, status=reply.status, headers=reply.headers)

    async def events(
        self,
        request: web.Request,
        job_ids: Iterable[str | JobRef],
        *,
        heartbeat: float = 15.0,
        encode: Callable[[StatusUpdate], Json] = as_event,
    ) -> web.StreamResponse:
        """Send server-sent events about jobs, until all jobs have settled.

        `adepoll.JobEventStream` describes the arguments. A client that accepts no data for a minute
        is disconnected.

        Raises:
            ClosedError: The server is stopping.
        """
        resources = self.resources(request)
        events = resources.events(
            job_ids, headers=request.headers, heartbeat=heartbeat, encode=encode
        )
        response = web.StreamResponse(headers=EVENT_STREAM_HEADERS)
        if request.method == hdrs.METH_HEAD:
            return response
        with self.disconnects(request).cancelling(request):
            try:
                # When the server stops, `events` ends. But if the client accepts no data, this
                # code is waiting in `write`, which only `until_stopped` ends.
                async with resources.until_stopped(), events:
                    await response.prepare(request)
                    write = limit_send_time(response.write)
                    async for event in events:
                        await resources.wait_for_step()
                        await write(event)
                    await limit_send_time(response.write_eof)(b"")
            except ConnectionError:
                pass  # the client has disconnected, and aiohttp closes the connection
            except (ClosedError, TimeoutError) as error:
                abort(request, error)
        return response

    async def send_result(
        self, request: web.Request, job: JobSnapshot | JobRef | str, *, filename: str | None = None
    ) -> web.StreamResponse:
        """Send the result of a job, as fast as the client reads it.

        The server does not store the result, and needs the same memory for a result of any size.
        ``Range``, ``If-Range``, ``If-None-Match`` and ``HEAD`` are supported. If the result cannot
        be sent completely, the connection is aborted, so that the client notices.

        Args:
            request: The request.
            job: A snapshot of the job, a `JobRef`, or its id.
            filename: Name under which a browser saves the result; None for the job id and
                ``.json``.

        Raises:
            AdePollError: An error of `ResultFetcher.stream`, raised before anything was sent.
            ClosedError: The server stopped before anything was sent.
        """
        opening = self.resources(request).open_result(
            job, method=request.method, headers=request.headers, filename=filename
        )
        response: web.StreamResponse | None = None
        with self.disconnects(request).cancelling(request):
            try:
                async with opening as reply:
                    response = web.StreamResponse(status=reply.status, headers=reply.headers)
                    with suppress(ConnectionError):  # the client has disconnected
                        await response.prepare(request)
                        if reply.has_body:
                            write = limit_send_time(response.write)
                            async for chunk in reply.chunks:
                                await write(chunk)
                            await limit_send_time(response.write_eof)(b"")
            except (AdePollError, ClosedError, TimeoutError) as error:
                if response is None:
                    raise  # nothing was sent yet, so a middleware can send problem details
                abort(request, error)
        return response

    async def ready(self, request: web.Request) -> web.Response:
        """Respond with 200 if the server can wait for jobs, otherwise with 503.

        This is a handler: ``app.router.add_get("/ready", ready)``. The response contains statistics
        as JSON, which `adepoll.server.health` describes.
        """
        health = await self.resources(request).health()
        return web.json_response(health.body, status=health.http_status, headers=health.headers)

    async def live(self, request: web.Request) -> web.Response:  # noqa: ARG002 - aiohttp passes it to each handler
        """Respond with 200 as long as the process works, whatever the service does.

        This is a handler: ``app.router.add_get("/live", live)``.
        """
        return web.json_response(LIVE.body, headers=LIVE.headers)

    def webhook(
        self,
        verifier: Verifier,
        *,
        job_ids: Callable[[Json], Iterable[Json]] = default_job_ids,
        max_bytes: int = 2**16,
    ) -> Handler:
        """Return a handler that receives webhooks, for ``app.router.add_post("/hook", ...)``.

        If a webhook is genuine, the response is 204, and the watcher immediately polls those of its
        jobs that the webhook names. Only a poll settles a job, never the webhook. The response to a
        webhook that is not genuine is 400; it is 408 if the body does not arrive within a minute.

        Args:
            verifier: Checks the signature.
            job_ids: Returns the job ids in the parsed body.
            max_bytes: Size of the largest body that is read, in bytes. The response to a larger
                body is 413.
        """

        async def receive(request: web.Request) -> web.StreamResponse:
            try:
                status = await self.resources(request).receive_webhook(
                    verifier,
                    headers=request.headers,
                    body=request.content.iter_any(),
                    job_ids=job_ids,
                    max_bytes=max_bytes,
                )
            except WebhookVerificationError as error:
                return problem_response(request, error)
            except (ConnectionError, web.RequestPayloadError):
                # The sender has disconnected, or the body does not have its stated encoding.
                status = HTTPStatus.BAD_REQUEST
            return web.Response(status=status)

        return receive


class Tenant(JobFunctions):
    """The client, watcher and fetcher for one API key and region, in an application.

    With one key, use the functions of the module `adepoll.contrib.aiohttp`: they are the methods of
    a default tenant. For several keys or regions, create a tenant for each. If the keys are not
    known when the server starts, use `Tenants`. If a tenant is not set up for a sub-application,
    requests to the sub-application use the tenant of the closest parent application.

    Attributes:
        CLIENT: ``app[tenant.CLIENT]`` is the `AdeClient`.
        WATCHER: ``app[tenant.WATCHER]`` is the `JobWatcher`.
        FETCHER: ``app[tenant.FETCHER]`` is the `ResultFetcher`.
    """

    def __init__(self, name: str) -> None:
        """Create the keys for ``app[...]``; `name` appears in their `repr`, and in errors."""
        self._name = name
        self.CLIENT = web.AppKey(f"{name}.client", AdeClient)
        self.WATCHER = web.AppKey(f"{name}.watcher", JobWatcher)
        self.FETCHER = web.AppKey(f"{name}.fetcher", ResultFetcher)
        self._RESOURCES = web.AppKey(f"{name}.resources", ServerResources)
        self._DISCONNECTS = web.AppKey(f"{name}.disconnects", DisconnectMonitor)

    def setup(self, app: web.Application, **options: Unpack[ResourceOptions]) -> None:
        """Create client, watcher and fetcher when an application starts; close them when it stops.

        When the server stops, calls of `wait` in progress raise `ClosedError`, and event streams
        end. Results may be sent for `grace` more seconds.

        Args:
            app: The application, or a sub-application.
            **options: Options of `adepoll.server.resources.create_resources`: `client`, `watcher`,
                `fetcher`, `grace`, `probe_every`. `client` is required, except for the default
                tenant.

        Raises:
            ConfigurationError: `client` is missing, and this is not the default tenant.
        """
        check_tenant(self._name, options)

        async def lifespan(app: web.Application) -> AsyncIterator[None]:
            async with open_resources(**options) as resources:
                app[self._RESOURCES] = resources
                app[self._DISCONNECTS] = DisconnectMonitor()
                app[self.CLIENT] = resources.client
                app[self.WATCHER] = resources.watcher
                app[self.FETCHER] = resources.fetcher
                yield

        async def stop(app: web.Application) -> None:
            if (resources := app.get(self._RESOURCES)) is not None:
                resources.stop()

        app.cleanup_ctx.append(lifespan)
        app.on_shutdown.append(stop)  # aiohttp calls this before it waits for open responses

    def resources(self, request: web.Request) -> ServerResources:
        """Return the client, watcher and fetcher of this tenant."""
        if (resources := request.config_dict.get(self._RESOURCES)) is None:
            raise _not_set_up(f"the tenant {self._name!r}")
        return resources

    def disconnects(self, request: web.Request) -> DisconnectMonitor:
        """Return the object that cancels handlers whose client has disconnected."""
        return request.config_dict[self._DISCONNECTS]


class Tenants:
    """Clients, watchers and fetchers for many API keys, such as one key per customer.

    ``TENANTS.get(key)`` returns an object with `wait`, `events` and the other `JobFunctions`. Each
    key has its own client, watcher and fetcher. They are created when the key is first used, and
    closed when no request has used the key for `idle_after` seconds.

    Attributes:
        POOL: ``app[tenants.POOL]`` is the `TenantPool`.
    """

    def __init__(self, name: str = "tenants") -> None:
        """Create the keys for ``app[...]``; `name` appears in their `repr`, and in errors."""
        self._name = name
        self.POOL = web.AppKey(f"{name}.pool", TenantPool)
        self._DISCONNECTS = web.AppKey(f"{name}.disconnects", DisconnectMonitor)

    def setup(self, app: web.Application, **options: Unpack[TenantOptions]) -> None:
        """Create a pool of tenants when an application starts; close it when it stops.

        Args:
            app: The application, or a sub-application.
            **options: Options of `adepoll.server.tenant_pool.TenantPool`. `client`: function that
                creates the client of a key. `limit`: largest number of open tenants. `idle_after`:
                seconds without use after which a tenant is closed. `watcher`, `fetcher` and
                `grace`: the same for each tenant as in `Tenant.setup`.
        """

        async def lifespan(app: web.Application) -> AsyncIterator[None]:
            app[self.POOL] = pool = TenantPool(**options)
            app[self._DISCONNECTS] = DisconnectMonitor()
            yield
            await pool.aclose()

        async def stop(app: web.Application) -> None:
            if (pool := app.get(self.POOL)) is not None:
                pool.stop()

        app.cleanup_ctx.append(lifespan)
        app.on_shutdown.append(stop)

    def get(self, key: str) -> JobFunctions:
        """Return the functions for handlers, for the tenant with this key. Opens no connection.

        Args:
            key: An API key. But if you passed a function as `client` to `setup`: the argument for
                this function, such as the name of a customer.
        """
        return _OneTenant(self, Secret(key))

    async def ready(self, request: web.Request) -> web.Response:
        """Respond with 200 if the server accepts requests, else with 503."""
        health = self.pool(request).health()
        return web.json_response(health.body, status=health.http_status, headers=health.headers)

    def pool(self, request: web.Request) -> TenantPool:
        """Return the pool of the application that handles the request."""
        if (pool := request.config_dict.get(self.POOL)) is None:
            raise _not_set_up(f"the tenant pool {self._name!r}")
        return pool

    def disconnects(self, request: web.Request) -> DisconnectMonitor:
        """Return the object that cancels handlers whose client has disconnected."""
        return request.config_dict[self._DISCONNECTS]


class _OneTenant(JobFunctions):
    """The functions for handlers, with the client, watcher and fetcher of one API key.

    `Tenants.get` returns this object.
    """

    def __init__(self, tenants: Tenants, key: Secret[str]) -> None:
        self._tenants = tenants
        self._key = key

    def resources(self, request: web.Request) -> ServerResources:
        return self._tenants.pool(request).get(self._key)

    def disconnects(self, request: web.Request) -> DisconnectMonitor:
        return self._tenants.disconnects(request)


def _not_set_up(what: str) -> RuntimeError:
    return RuntimeError(
        f"{what} is not running in this application: call its setup(app) before the application "
        "starts"
    )
