"""Adapter for Starlette servers: one watcher for all requests. Needs the extra ``starlette``.

Create ``Starlette(lifespan=adepoll_lifespan())``, then use `wait`, `send_status`, `events`,
`send_result`, `ready` and `live` in routes. `adepoll.contrib.fastapi` adds dependencies and
OpenAPI.
"""

from typing import Final

from adepoll.contrib.starlette.problems import add_problem_details, problem_response
from adepoll.contrib.starlette.responses import (
    ClientDisconnectedError,
    EventsResponse,
    ResultResponse,
    cancel_on_disconnect,
)
from adepoll.contrib.starlette.tenants import JobFunctions, Tenant, Tenants
from adepoll.server.options import DEFAULT_TENANT
from adepoll.server.resources import ServerResources
from adepoll.server.tenant_pool import TenantPool

__all__ = [
    "ClientDisconnectedError",
    "EventsResponse",
    "JobFunctions",
    "ResultResponse",
    "ServerResources",
    "Tenant",
    "TenantPool",
    "Tenants",
    "add_problem_details",
    "adepoll_lifespan",
    "cancel_on_disconnect",
    "events",
    "live",
    "problem_response",
    "ready",
    "resources",
    "running",
    "send_result",
    "send_status",
    "wait",
    "webhook",
]

_DEFAULT: Final = Tenant(DEFAULT_TENANT)

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
