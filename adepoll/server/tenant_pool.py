"""The resources of many tenants: created when a key is used, closed when they are idle."""

import asyncio
import hashlib
import math
from collections import OrderedDict
from collections.abc import Callable
from contextvars import Context
from typing import Final, Unpack

from attrs import define

from adepoll.api.client import AdeClient
from adepoll.common.redaction import Secret
from adepoll.common.tasks import start
from adepoll.errors import ClosedError, TooManyTenantsError
from adepoll.server.health import Condition, Health
from adepoll.server.resources import ServerResources, SharedOptions, create_resources

__all__ = ["TenantOptions", "TenantPool"]

_CHECKS: Final = 4  # for idle tenants, in the time after which they are closed


class TenantOptions(SharedOptions, total=False):
    """The options of `TenantPool`, which describes them."""

    client: Callable[[str], AdeClient]
    limit: int
    idle_after: float


@define
class _Tenant:
    resources: ServerResources
    used_at: float  # loop time


class TenantPool:
    """Client, watcher and fetcher for each of many keys, which are known only at run time.

    Two tenants share no connections, no request budget and no job states. Use a pool within one
    event loop, and close it with `aclose`.
    """

    def __init__(
        self,
        *,
        client: Callable[[str], AdeClient] = AdeClient,
        limit: int = 100,
        idle_after: float = 300.0,
        **options: Unpack[SharedOptions],
    ) -> None:
        """Create an empty pool.

        Args:
            client: Creates the client of a tenant from its key. By default the key is the API key.
                With your own function it can be anything, such as the name of a customer.
            limit: Maximum number of tenants that are open at the same time. Opening one more
                closes the least recently used one.
            idle_after: Seconds without use after which a tenant is closed.
            **options: `watcher`, `fetcher` and `grace`, as for `create_resources`.

        Raises:
            ValueError: `limit` or `idle_after` is not positive.
        """
        if limit < 1:
            raise ValueError(f"limit must be positive, got {limit}")
        if not (math.isfinite(idle_after) and idle_after > 0):
            raise ValueError(f"idle_after must be a positive number, got {idle_after}")
        self._client = client
        self._limit = limit
        self._idle_after = idle_after
        self._options = options
        self._loop = asyncio.get_running_loop()
        self._open: OrderedDict[bytes, _Tenant] = OrderedDict()  # least recently used first
        self._closing: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._is_stopping = False

    def __len__(self) -> int:
        """Return the number of open tenants."""
        return len(self._open)

    def health(self) -> Health:
        """Return whether the server accepts requests, and the number of open tenants."""
        condition = Condition.CLOSED if self._is_stopping else Condition.OK
        return Health(condition=condition, stats={"tenants": len(self._open)})

    def get(self, key: str | Secret[str]) -> ServerResources:
        """Return the resources of a tenant; create them if they are not open.

        Get them again for each request: they are closed when they were not used for some time.

        Args:
            key: The argument of the function that creates the client.

        Raises:
            ClosedError: The server is stopping.
            TooManyTenantsError: All tenants are in use, and their number has reached the limit.
            ConfigurationError: The client cannot be created.
        """
        if self._is_stopping:
            raise ClosedError("the server is stopping")
        key = Secret(key) if isinstance(key, str) else key  # an error tracker records variables
        name = hashlib.sha256(key.reveal().encode()).digest()  # the pool keeps no key
        tenant = self._open.get(name)
        if tenant is None:
            # The resources outlive the request, so they must not keep its context variables.
            resources = Context().run(self._create, key)
            self._make_room()  # not before: a key that cannot be used must not close another tenant
            tenant = self._open[name] = _Tenant(resources, 0.0)
        tenant.used_at = self._loop.time()
        self._open.move_to_end(name)
        self._set_timer()
        return tenant.resources

    def stop(self) -> None:
        """Stop all tenants, as `ServerResources.stop`. No tenant can be opened any more."""
        self._is_stopping = True
        for tenant in self._open.values():
            tenant.resources.stop()

    async def aclose(self) -> None:
        """Stop and close all tenants."""
        self.stop()
        if self._timer is not None:
            self._timer.cancel()
        for name in list(self._open):
            self._close(name)
        while self._closing:
            await asyncio.wait(self._closing)

    def _create(self, key: Secret[str]) -> ServerResources:
        return create_resources(
            client=lambda: self._client(key.reveal()), probe_every=None, **self._options
        )

    def _make_room(self) -> None:
        if len(self._open) < self._limit:
            return
        for name, tenant in self._open.items():
            if not tenant.resources.is_in_use:
                self._close(name)
                return
        raise TooManyTenantsError(limit=self._limit)

    def _close(self, name: bytes) -> None:
        resources = self._open.pop(name).resources
        _ = start(resources.aclose(), self._closing)

    def _set_timer(self) -> None:
        if self._timer is None:
            interval = self._idle_after / _CHECKS
            self._timer = self._loop.call_later(interval, self._close_idle, context=Context())

    def _close_idle(self) -> None:
        now = self._loop.time()
        for name, tenant in list(self._open.items()):
            if tenant.resources.is_in_use:
                tenant.used_at = now
            elif now - tenant.used_at >= self._idle_after:
                self._close(name)
        self._timer = None
        if self._open:
            self._set_timer()
