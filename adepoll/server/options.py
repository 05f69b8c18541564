"""The options with which a server creates client, watcher and fetcher, and the default tenant."""

from collections.abc import Callable
from typing import Final, TypedDict

from adepoll.api.client import AdeClient
from adepoll.errors import ConfigurationError
from adepoll.fetcher import ResultFetcher
from adepoll.watching.watcher import JobWatcher

__all__ = ["ResourceOptions", "TenantOptions"]


class SharedOptions(TypedDict, total=False):
    """The options that both `create_resources` and `TenantPool` have."""

    watcher: Callable[[AdeClient], JobWatcher]
    fetcher: Callable[[AdeClient], ResultFetcher]
    grace: float


class ResourceOptions(SharedOptions, total=False):
    """The options of `create_resources`, whose docstring describes them."""

    client: AdeClient | Callable[[], AdeClient]
    probe_every: float | None


class TenantOptions(SharedOptions, total=False):
    """The options of `TenantPool`, whose docstring describes them."""

    client: Callable[[str], AdeClient]
    limit: int
    idle_after: float


DEFAULT_TENANT: Final = "adepoll"
"""Name of the tenant whose client has the key and region of the environment."""


def check_tenant(name: str, options: ResourceOptions) -> None:
    """Raise `ConfigurationError` if a tenant has no option `client` and is not the default tenant.

    Without this option, the tenant would use the key of the default tenant.
    """
    if name != DEFAULT_TENANT and "client" not in options:
        raise ConfigurationError(
            f"the tenant {name!r} has no client of its own; pass for example "
            "client=partial(AdeClient, key, region=...)"
        )
