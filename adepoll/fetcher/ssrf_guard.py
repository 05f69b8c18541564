"""Which hosts a result may be fetched from: protection against server-side request forgery.

A URL from the service or a redirect must not reach into the network that adepoll runs in (OWASP,
SSRF). URLs are checked before the request, and addresses after name resolution: the connection
goes to the checked address, so a name cannot change its address in between (DNS rebinding). A proxy
resolves names itself: names of private addresses are refused if they can be resolved here, too.
"""

import asyncio
import re
import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Final, TypeAlias
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from adepoll.api.transport_options import Proxies
from adepoll.errors import ResultUrlError

_Address: TypeAlias = IPv4Address | IPv6Address

_VISIBLE: Final = re.compile(r"[\x21-\x7e]+")
_NAT64: Final = IPv6Network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address

_SITE_LOCAL: Final = IPv6Network("fec0::/10")  # deprecated by RFC 3879; private where it is routed

_PRIVATE_HOST: Final = (
    "the host is in a private network; pass allow_private=True to fetch results from there"
)


class PrivateAddressError(OSError):
    """A host name resolves to an address that must not be requested."""


class SsrfGuard(AbstractResolver):
    """Checks URLs, and resolves names such that no connection reaches a private address.

    Every address outside the public internet counts as private: also loopback, link-local (where
    clouds serve credentials), multicast and reserved addresses. They are allowed if the user says
    so, or if the API itself is at such an address.
    """

    def __init__(
        self,
        *,
        api_url: str,
        allow_private: bool,
        proxies: Proxies | None = None,
        resolver: AbstractResolver | None = None,
    ) -> None:
        """Create a guard; no name is resolved yet.

        Args:
            api_url: Base URL of the API.
            allow_private: True to allow private addresses and plain http.
            proxies: The proxies in use; their own addresses may be private.
            resolver: Resolves names; None for the default, which the guard creates and closes.
        """
        self.proxies = proxies or Proxies()
        self._proxy_hosts = self.proxies.hosts
        api = urlsplit(api_url)
        self._api_host = api.hostname or ""
        self._schemes = {"https", api.scheme, *(["http"] if allow_private else [])}
        self._private_is_allowed = allow_private or _is_private(self._api_host)
        self._api_is_resolved = False
        self._resolver = resolver
        self._owns_resolver = resolver is None

    async def check(self, job_id: str, url: str) -> URL:
        """Return the URL in the form that aiohttp sends unchanged.

        Raises:
            ResultUrlError: The URL cannot or must not be requested.
        """
        reason = "the URL has a character that no URL may have"
        if _VISIBLE.fullmatch(url):
            try:
                # encoded=True: quoting again would break the signature (%2F is not / there).
                target = URL(url, encoded=True)
                # yarl parses host and port when they are read here, and may raise.
                if target.user is not None or target.password is not None:
                    reason = "the URL contains a user or password"
                elif target.scheme not in self._schemes or not target.host:
                    reason = "results are only fetched over https"
                elif target.host in self._proxy_hosts and not await self._allows_private():
                    reason = "the host is that of the proxy"
                elif not await self._is_allowed(target):
                    reason = _PRIVATE_HOST
                else:
                    return target
            except ValueError:
                reason = "the URL is malformed"
        # Raised here, so that the ValueError, which quotes the URL, is not its context.
        raise ResultUrlError(job_id=job_id, url=url, reason=reason)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of a name if all of them are allowed.

        Raises:
            PrivateAddressError: At least one is not allowed.
            OSError: The name cannot be resolved.
        """
        results = await self._resolve(host, port, family)
        if host in self._proxy_hosts:
            return results
        is_private = any(_is_private(result["host"]) for result in results)
        if is_private and not await self._allows_private():
            raise PrivateAddressError(_PRIVATE_HOST)
        return results

    async def close(self) -> None:
        """Close the resolver."""
        if self._resolver is not None and self._owns_resolver:
            await self._resolver.close()
            self._resolver = None

    async def _is_allowed(self, target: URL) -> bool:
        """Return whether the host may be requested, as far as it is known before connecting."""
        host = target.host or ""
        is_private = _is_private(host)
        if not is_private and self.proxies.for_url(target) is not None:
            # The proxy resolves the name, so `resolve` will not see the address. A network with a
            # proxy may have no name resolution for the internet; then the proxy decides alone.
            try:
                results = await self._resolve(host, target.port or 0, socket.AF_UNSPEC)
            except OSError:
                return True
            is_private = any(_is_private(result["host"]) for result in results)
        return not is_private or await self._allows_private()

    async def _allows_private(self) -> bool:
        """Return whether private addresses are allowed; may resolve the API's name, once."""
        if not self._private_is_allowed and not self._api_is_resolved:
            try:
                results = await self._resolve(self._api_host, 0, socket.AF_UNSPEC)
            except OSError:
                return False  # not remembered: the failure may be transient
            self._api_is_resolved = True
            self._private_is_allowed = any(_is_private(result["host"]) for result in results)
        return self._private_is_allowed

    async def _resolve(
        self, host: str, port: int, family: socket.AddressFamily
    ) -> list[ResolveResult]:
        if self._resolver is None:
            self._resolver = aiohttp.DefaultResolver(asyncio.get_running_loop())
        return await self._resolver.resolve(host, port, family)


def _is_private(host: str) -> bool:
    """Return whether it is an address outside the public internet; False for a name."""
    if host == "localhost" or host.endswith(".localhost"):  # RFC 6761, section 6.3
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    return not _is_public(_destination(address))


def _is_public(address: _Address) -> bool:
    # Python also counts multicast, reserved and site-local addresses as global.
    return address.is_global and not (
        address.is_multicast or address.is_reserved or address in _SITE_LOCAL
    )


def _destination(address: _Address) -> _Address:
    """Return the IPv4 address inside an IPv6 address, where packets go; or the address itself."""
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address
