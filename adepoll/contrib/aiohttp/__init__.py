"""Adapter for aiohttp servers: one watcher for all requests.

Call ``setup(app)``, then use ``app[WATCHER]``, and `wait`, `send_status`, `events`, `send_result`,
`ready` and `live` in handlers.
"""

from typing import Final

from adepoll.contrib.aiohttp.problems import problem_details_middleware, problem_response
from adepoll.contrib.aiohttp.tenants import JobFunctions, Tenant, Tenants
from adepoll.server.options import DEFAULT_TENANT
from adepoll.server.resources import ServerResources
from adepoll.server.tenant_pool import TenantPool

__all__ = [
    "CLIENT",
    "FETCHER",
    "WATCHER",
    "JobFunctions",
    "ServerResources",
    "Tenant",
    "TenantPool",
    "Tenants",
    "events",
    "live",
    "problem_details_middleware",
    "problem_response",
    "ready",
    "resources",
    "send_result",
    "send_status",
    "setup",
    "wait",
    "webhook",
]

_DEFAULT: Final = Tenant(DEFAULT_TENANT)

CLIENT: Final = _DEFAULT.CLIENT
WATCHER: Final = _DEFAULT.WATCHER
FETCHER: Final = _DEFAULT.FETCHER

setup = _DEFAULT.setup
resources = _DEFAULT.resources
wait = _DEFAULT.wait
send_status = _DEFAULT.send_status
events = _DEFAULT.events
send_result = _DEFAULT.send_result
ready = _DEFAULT.ready
live = _DEFAULT.live
webhook = _DEFAULT.webhook
