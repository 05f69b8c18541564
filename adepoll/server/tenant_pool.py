"""TenantPool: the resources of many tenants, created when needed and closed when not used."""

import asyncio
import hashlib
import math
from collections import OrderedDict
from collections.abc import Callable
from contextvars import Context
from typing import Final, Unpack

from attrs import define, field

from adepoll.api.client import AdeClient
from adepoll.common.redaction import Secret
from adepoll.common.tasks import join, start
from adepoll.errors import ClosedError, TooManyTenantsError
from adepoll.server.health import Condition, Health
from adepoll.server.options import SharedOptions
from adepoll.server.resources import ServerResources, create_resources

__all__ = ["TenantPool"]

_CHECKS: Final = 4  # checks for unused tenants within `idle_after` seconds


@define
class _Tenant:
    """An open tenant.

    Attributes:
        resources: Client, watcher and fetcher of the tenant.
        used_at: Loop time at which the tenant was last used.
    """

    resources: ServerResources
    used_at: float = field(init=False)


class TenantPool:
    """Client, watcher and fetcher for each tenant of a server, such as each customer.

    The first request with the key of a tenant creates them. Two tenants share no connections, no
    request budget and no job states. Use a pool within one event loop, and close it with `aclose`.
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
            client: Creates the client of a tenant from the key of the tenant. By default, this key
                is an API key. With your own function, it can be any text, such as the name of a
                customer.
            limit: Maximum number of tenants that are open at the same time. To open one more, the
                pool closes the least recently used tenant that is not in use.
            idle_after: Seconds without use after which a tenant is closed.
            **options: `watcher`, `fetcher` and `grace`, which `create_resources` describes.

        Raises:
            ValueError: `limit` or `idle_after` is not positive.
        """
        if not limit >= 1:
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

        Call this again for each request, because unused resources are closed after some time.

        Args:
            key: The key of the tenant, which is passed to the function `client`.

        Raises:
            ClosedError: The server is stopping.
            TooManyTenantsError: `limit` tenants are open, and all of them are in use.
            ConfigurationError: The client cannot be created.
        """
        if self._is_stopping:
            raise ClosedError("the server is stopping")
        # An error tracker records local variables, so the key is hidden in a `Secret`.
        key = Secret(key) if isinstance(key, str) else key
        # The pool stores no keys. A key from a header can contain surrogates, which are no UTF-8.
        name = hashlib.sha256(key.reveal().encode("utf-8", "surrogatepass")).digest()
        tenant = self._open.get(name)
        if tenant is None:
            # The resources live longer than the request, so they must not keep the context
            # variables of the request.
            resources = Context().run(self._create, key)
            # Make room only after the creation, which fails with an invalid key. Such a key must
            # not make the pool close another tenant.
            self._make_room()
            tenant = self._open[name] = _Tenant(resources)
        tenant.used_at = self._loop.time()
        self._open.move_to_end(name)
        self._set_timer()
        return tenant.resources

    def stop(self) -> None:
        """Stop all tenants, as `ServerResources.stop` does. No tenant can be opened after that."""
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
        await join(self._closing)

    def _create(self, key: Secret[str]) -> ServerResources:
        return create_resources(
            client=lambda: self._client(key.reveal()), probe_every=None, **self._options
        )

    def _make_room(self) -> None:
        """Close an unused tenant if `limit` tenants are open.

        Raises:
            TooManyTenantsError: All open tenants are in use.
        """
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
        """Close the tenants that were not used for `idle_after` seconds."""
        now = self._loop.time()
        for name, tenant in list(self._open.items()):
            if tenant.resources.is_in_use:
                tenant.used_at = now
            elif now - tenant.used_at >= self._idle_after:
                self._close(name)
        self._timer = None
        if self._open:
            self._set_timer()
