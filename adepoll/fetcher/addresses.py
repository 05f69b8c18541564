"""Which hosts a result may be fetched from: checked in the URL, and again after name resolution.

Imports errors. A URL that a service or a redirect hands out must not reach into the network that
adepoll runs in (server-side request forgery, OWASP). That a name is looked up once, and what was
looked up is checked and then connected to, is what keeps a name from changing its mind in between
(DNS rebinding).
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

from adepoll.errors import ResultUrlError

_Address: TypeAlias = IPv4Address | IPv6Address

_VISIBLE: Final = re.compile(r"[\x21-\x7e]+")
_NAT64: Final = IPv6Network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address

_SITE_LOCAL: Final = IPv6Network("fec0::/10")  # given up by RFC 3879, and routed inside if at all


class PrivateAddressError(OSError):
    """A name stands for an address that must not be asked; its message names both."""


class Gatekeeper(AbstractResolver):
    """Says which URLs may be requested, and looks names up such that none leads inside.

    Inside are all addresses that are not of the public internet: private, loopback, link-local
    (where clouds keep their credentials), multicast, reserved. They may be asked if the user says
    so, or if the API itself is there.
    """

    def __init__(self, *, api_url: str, allow_private: bool) -> None:
        """Look nothing up yet.

        Args:
            api_url: Where the API is.
            allow_private: Whether results may come from inside, and over plain http.
        """
        api = urlsplit(api_url)
        self._api_host = api.hostname or ""
        self._schemes = {"https", api.scheme, *(["http"] if allow_private else [])}
        self._may_go_inside = allow_private or _is_inside(self._api_host)
        self._asked_for_api = False
        self._resolver: AbstractResolver | None = None

    async def check(self, job_id: str, url: str) -> URL:
        """Give the URL as aiohttp must send it.

        Raises:
            ResultUrlError: It must not be requested, or cannot be.
        """
        reason = "the URL holds a character that no URL has"
        if _VISIBLE.fullmatch(url):
            try:
                # encoded=True: re-quoting would break the signature (%2F is not / there).
                target = URL(url, encoded=True)
                # yarl reads host and port no sooner than here.
                if target.user is not None or target.password is not None:
                    reason = "the URL holds a user or password"
                elif target.scheme not in self._schemes or not target.host:
                    reason = "a result is only fetched over https"
                elif _is_inside(target.host) and not await self._goes_inside():
                    reason = _INSIDE
                else:
                    return target
            except ValueError:
                reason = "the URL cannot be read"
        # Raised out here: what cannot be read is quoted by the foreign error.
        raise ResultUrlError(job_id=job_id, url=url, reason=reason)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Look a name up, and give its addresses if all of them may be asked.

        Raises:
            PrivateAddressError: One of them may not.
            OSError: The name cannot be looked up.
        """
        found = await self._look_up(host, port, family)
        if any(_is_inside(one["host"]) for one in found) and not await self._goes_inside():
            raise PrivateAddressError(_INSIDE)
        return found

    async def close(self) -> None:
        """Let go of what looking up needs."""
        if self._resolver is not None:
            await self._resolver.close()
            self._resolver = None

    async def _goes_inside(self) -> bool:
        """Whether results may come from inside; it is looked up at most once where the API is."""
        if not self._may_go_inside and not self._asked_for_api:
            try:
                found = await self._look_up(self._api_host, 0, socket.AF_UNSPEC)
            except OSError:
                return False  # and ask again the next time: it may be a passing failure
            self._asked_for_api = True
            self._may_go_inside = any(_is_inside(one["host"]) for one in found)
        return self._may_go_inside

    async def _look_up(
        self, host: str, port: int, family: socket.AddressFamily
    ) -> list[ResolveResult]:
        if self._resolver is None:
            self._resolver = aiohttp.DefaultResolver(asyncio.get_running_loop())
        return await self._resolver.resolve(host, port, family)


_INSIDE: Final = (
    "the host is of a private network, where results are only fetched from with allow_private=True"
)


def _is_inside(host: str) -> bool:
    """Tell whether it is an address that is not of the public internet; False for a name."""
    if host == "localhost" or host.endswith(".localhost"):  # RFC 6761, section 6.3
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    return not all(map(_is_public, _meant_by(address)))


def _is_public(address: _Address) -> bool:
    # Python counts multicast as global, and what IPv6 reserves or gave up too.
    return address.is_global and not (
        address.is_multicast or address.is_reserved or address in _SITE_LOCAL
    )


def _meant_by(address: _Address) -> list[_Address]:
    """Give an address, or the IPv4 addresses wrapped in it, which is where packets end up."""
    if isinstance(address, IPv4Address):
        return [address]
    if address in _NAT64:
        return [IPv4Address(int(address) & 0xFFFFFFFF)]
    if address.ipv4_mapped is not None:
        return [address.ipv4_mapped]
    if address.sixtofour is not None:
        return [address.sixtofour]
    return [address]
