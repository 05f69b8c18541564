"""Decides from which hosts a result may be fetched (server-side request forgery; OWASP, SSRF).

A URL from the service or from a redirect must not lead into the private network in which adepoll
runs. The URL is checked before the request, and the address after the name is resolved. The
connection goes to the checked address, so the owner of a name cannot change its address after the
check (DNS rebinding). A proxy resolves names itself. So with a proxy, adepoll also resolves the
name, if it can, and refuses private addresses.
"""

import asyncio
import re
import socket
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final, TypeAlias
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from adepoll.api.transport_options import Proxies
from adepoll.common.redaction import LONGEST_URL
from adepoll.errors import ResultUrlError

_Address: TypeAlias = IPv4Address | IPv6Address

_VISIBLE: Final = re.compile(r"[\x21-\x7e]+")
# A host whose last label is a number is an address, not a name: no top-level domain is a number
# (URL Standard, "ends in a number checker").
_ENDS_IN_NUMBER: Final = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)\.?", re.IGNORECASE)
# Maximum characters of a host: of a name (RFC 1035, section 2.3.4) with a dot at the end, or of an
# address with a zone. yarl decodes a name that begins with "xn--": this took 2 s for 12,000
# characters.
_LONGEST_HOST: Final = 254
_LONGEST_LABEL: Final = 63  # characters between two dots of a name (RFC 1035, section 2.3.4)
# Addresses whose last 32 bits are an IPv4 address (RFC 6052).
_NAT64: Final = IPv6Network("64:ff9b::/96")
# Networks of which `is_global` is True, in all or in older versions of Python.
_NOT_PUBLIC: Final = (
    IPv6Network("fec0::/10"),  # RFC 3879 deprecates it, but some private networks still use it
    IPv6Network("3fff::/20"),  # for documentation (RFC 9637)
    IPv4Network("192.0.0.0/24"),  # for protocols of the IETF (RFC 6890)
)

_PRIVATE_HOST: Final = (
    "the host is in a private network; pass allow_private=True to fetch results from there"
)


class PrivateAddressError(OSError):
    """A host name resolves to an address that must not be requested."""


class SsrfGuard(AbstractResolver):
    """Checks URLs and resolves names, so that no connection reaches a private address.

    Every address outside the public internet counts as private. This includes loopback, multicast
    and reserved addresses, and link-local addresses, at which clouds serve credentials. Private
    addresses are allowed with `allow_private`, or if the API itself has a private address.
    """

    def __init__(
        self,
        *,
        api_url: str,
        allow_private: bool,
        proxies: Proxies | None = None,
        resolver: AbstractResolver | None = None,
        timeout: float | None = None,
    ) -> None:
        """Create a guard; no name is resolved yet.

        Args:
            api_url: Base URL of the API.
            allow_private: True to allow private addresses and plain http.
            proxies: The proxies in use, which may have private addresses; None for no proxy.
            resolver: Resolves host names; None for a default resolver, which the guard creates and
                closes.
            timeout: Maximum seconds in which `check` resolves one name; None for no limit. aiohttp
                limits the time of `resolve`.
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
        self._timeout = timeout

    async def check(self, job_id: str, url: str) -> URL:
        """Check that a URL may be requested; return it in a form that aiohttp does not change.

        Raises:
            ResultUrlError: The URL cannot or must not be requested.
        """
        reason = "the URL has a character that no URL may have"
        if len(url) > LONGEST_URL:
            reason = f"the URL has more than {LONGEST_URL:,} characters"
        elif _VISIBLE.fullmatch(url):
            try:
                # Without encoded=True, yarl would change the quoting. But a signature of the URL is
                # only valid for the same quoting: %2F is not the same as "/".
                target = URL(url, encoded=True)
                host = _host_of(target)
                # Reading the user makes yarl parse the host and port, which may raise.
                if target.user is not None or target.password is not None:
                    reason = "the URL contains a user or password"
                elif target.scheme not in self._schemes or not host:
                    reason = "results are only fetched over https"
                elif len(host) > _LONGEST_HOST:
                    reason = "the host is malformed"
                elif (problem := _problem_of_host(host)) is not None:
                    reason = problem
                elif (
                    host.removesuffix(".") in self._proxy_hosts and not await self._allows_private()
                ):
                    reason = "the host is that of the proxy"
                elif not await self._is_allowed(target):
                    reason = _PRIVATE_HOST
                else:
                    return target
            except (ValueError, IndexError):  # yarl 1.25 raises IndexError for "https://[::1]@"
                reason = "the URL is malformed"
        # Raise outside of the handler, because otherwise the traceback would also show the
        # ValueError, which quotes the secret URL.
        raise ResultUrlError(job_id=job_id, url=url, reason=reason)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of a host name; aiohttp calls this before it connects.

        Raises:
            PrivateAddressError: At least one of the addresses is private, and private addresses are
                not allowed.
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
        """Return whether the host of a URL may be requested.

        Without a proxy, this method checks only hosts that are IP addresses; `resolve` checks
        names.
        """
        host = _host_of(target)
        is_private = _is_private(host)
        if not is_private and self.proxies.for_url(target) is not None:
            # The proxy resolves the name, so `resolve` is not called for it. If the name cannot be
            # resolved here, only the proxy knows the address, and must decide itself. This is usual
            # in networks with a proxy.
            try:
                is_private = await self._leads_to_private(host, target.port or 0)
            except OSError:
                return True
        return not is_private or await self._allows_private()

    async def _allows_private(self) -> bool:
        """Return whether private addresses are allowed.

        They are allowed with `allow_private`, or if the API has a private address. The name of the
        API is resolved once.
        """
        if not self._private_is_allowed and not self._api_is_resolved:
            try:
                self._private_is_allowed = await self._leads_to_private(self._api_host, 0)
            except OSError:
                return False  # `_api_is_resolved` stays False, because a later attempt may succeed
            self._api_is_resolved = True
        return self._private_is_allowed

    async def _leads_to_private(self, host: str, port: int) -> bool:
        """Return whether one of the addresses of a host name is private.

        Raise `OSError` if the name cannot be resolved within the time limit.
        """
        async with asyncio.timeout(self._timeout):
            results = await self._resolve(host, port, socket.AF_UNSPEC)
        return any(_is_private(result["host"]) for result in results)

    async def _resolve(
        self, host: str, port: int, family: socket.AddressFamily
    ) -> list[ResolveResult]:
        if self._resolver is None:
            self._resolver = aiohttp.DefaultResolver(asyncio.get_running_loop())
        return await self._resolver.resolve(host, port, family)


def _host_of(target: URL) -> str:
    """Return the host of a URL in lower case, in the form in which it is requested.

    yarl's attribute `host` decodes a name such as "xn--strae-oqa.de". Python's resolver would
    encode the decoded name as another one, "strasse.de".
    """
    return (target.raw_host or "").lower()


def _problem_of_host(host: str) -> str | None:
    """Return why no result is requested from a host, whatever its address is; None if it may be.

    `inet_aton` and curl accept 127.0.0.1 also as ``127.1``, ``0x7f.1`` or ``2130706433``. aiohttp
    refuses most of these forms, but a proxy could accept them. The same is true of ``%6cocalhost``
    and ``localhost..``.
    """
    if ":" not in host and _ENDS_IN_NUMBER.fullmatch(host) is None:
        labels = host.removesuffix(".").split(".")
        is_name = "%" not in host and all(0 < len(label) <= _LONGEST_LABEL for label in labels)
        return None if is_name else "the host is malformed"
    try:
        ip_address(host)
    except ValueError:
        return "the host is an address in an unusual form"
    return None


def _is_private(host: str) -> bool:
    """Return True if the host is an address that is not public, or a name of this machine.

    Names of this machine are ``localhost`` and all names that end with ``.localhost``.
    """
    host = host.removesuffix(".")
    if host == "localhost" or host.endswith(".localhost"):  # RFC 6761, section 6.3
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    return not _is_public(_destination(address))


def _is_public(address: _Address) -> bool:
    # `is_global` can also be True for multicast and reserved addresses.
    is_special = address.is_multicast or address.is_reserved
    return address.is_global and not (
        is_special or any(address in network for network in _NOT_PUBLIC)
    )


def _destination(address: _Address) -> _Address:
    """Return the address to which packets for an address go in the end.

    For an IPv6 address that contains an IPv4 address, this is the IPv4 address.
    """
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address
