"""Adapter for FastAPI servers: one watcher for all requests. Needs the extra ``fastapi``.

Create ``FastAPI(lifespan=adepoll_lifespan())``, then use `Client`, `Watcher` and `Fetcher` as
dependencies, and `wait`, `send_status`, `events`, `send_result`, `ready` and `live` in routes.
`JobModel` is a response model, and `openapi` describes the routes.
"""

from typing import Annotated, Final, TypeAlias

from fastapi import Depends
from starlette.requests import HTTPConnection

from adepoll import AdeClient, JobWatcher, ResultFetcher
from adepoll.contrib import starlette
from adepoll.contrib.fastapi import openapi
from adepoll.contrib.fastapi.models import JobModel, ProblemModel
from adepoll.contrib.starlette import (
    ClientDisconnectedError,
    JobFunctions,
    ServerResources,
    TenantPool,
    Tenants,
    add_problem_details,
    problem_response,
)
from adepoll.server.options import DEFAULT_TENANT

__all__ = [
    "Client",
    "ClientDisconnectedError",
    "Fetcher",
    "JobFunctions",
    "JobModel",
    "ProblemModel",
    "Resources",
    "ServerResources",
    "Tenant",
    "TenantPool",
    "Tenants",
    "Watcher",
    "add_problem_details",
    "adepoll_lifespan",
    "events",
    "live",
    "openapi",
    "problem_response",
    "ready",
    "resources",
    "running",
    "send_result",
    "send_status",
    "wait",
    "webhook",
]


class Tenant(starlette.Tenant):
    """A tenant: the client, watcher and fetcher for one API key and region, in an application.

    Its methods `resources`, `client`, `watcher` and `fetcher` are dependencies of FastAPI.

    With ``Annotated[JobWatcher, Depends(tenant.watcher)]``, a route gets the watcher of the tenant.
    In a test, ``app.dependency_overrides[tenant.resources] = lambda: mine`` replaces client,
    watcher and fetcher in all dependencies and in all functions, such as `wait` and `events`.
    """

    def client(self, connection: HTTPConnection) -> AdeClient:
        """Return the client of the tenant; a FastAPI dependency."""
        return self.resources(connection).client

    def watcher(self, connection: HTTPConnection) -> JobWatcher:
        """Return the watcher of the tenant; a FastAPI dependency."""
        return self.resources(connection).watcher

    def fetcher(self, connection: HTTPConnection) -> ResultFetcher:
        """Return the fetcher of the tenant; a FastAPI dependency."""
        return self.resources(connection).fetcher


_DEFAULT: Final = Tenant(DEFAULT_TENANT)

Resources: TypeAlias = Annotated[ServerResources, Depends(_DEFAULT.resources)]
Client: TypeAlias = Annotated[AdeClient, Depends(_DEFAULT.client)]
Watcher: TypeAlias = Annotated[JobWatcher, Depends(_DEFAULT.watcher)]
Fetcher: TypeAlias = Annotated[ResultFetcher, Depends(_DEFAULT.fetcher)]

adepoll_lifespan = _DEFAULT.lifespan
running = _DEFAULT.running
resources = _DEFAULT.resources
wait = _DEFAULT.wait
send_status = _DEFAULT.send_status
events = _DEFAULT.events
send_result = _DEFAULT.send_result
ready = _DEFAULT.ready
live = _DEFAULT.live
webhook = _DEFAULT.webhook
