"""Reads the API key and base URLs from arguments or the environment."""

import logging
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from ipaddress import ip_address
from typing import Final
from urllib.parse import SplitResult, urlsplit

from adepoll.common.redaction import ApiKey, Secret, redact_url, showable
from adepoll.errors import ConfigurationError, MissingApiKeyError

_log = logging.getLogger(__name__)

REGIONS: Final[Mapping[str, str]] = {
    "us": "https://api.va.landing.ai",
    "eu": "https://api.va.eu-west-1.landing.ai",
}
"""Base URL of each region, for v1 jobs."""
V2_REGIONS: Final[Mapping[str, str]] = {
    "us": "https://api.ade.landing.ai",
    "eu": "https://api.ade.eu-west-1.landing.ai",
}
"""Base URL of each region, for v2 jobs."""

_HOSTS: Final = frozenset(
    urlsplit(url).hostname for url in (*REGIONS.values(), *V2_REGIONS.values())
)
# The path that adepoll adds, at the end of a base URL. A proxy can have another path before it.
_API_PATH: Final = re.compile(r"/v\d+(/ade(/.*)?)?/*$")

_REGION_ALIASES: Final = {"production": "us"}  # other names, for LANDINGAI_ADE_ENVIRONMENT

# The official SDK reads the same variables.
API_KEY_VARIABLE: Final = "VISION_AGENT_API_KEY"
REGION_VARIABLE: Final = "LANDINGAI_ADE_ENVIRONMENT"
BASE_URL_VARIABLE: Final = "LANDINGAI_ADE_BASE_URL"
V2_BASE_URL_VARIABLE: Final = "LANDINGAI_ADE_V2_BASE_URL"


# Host and port of a URL: a name or an IPv4 address, or an IPv6 address, which can have a zone.
_HOST: Final = re.compile(
    r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._~-]+)?\])(?::[0-9]*)?"
)
# A text that is shown although it may be no URL. It is too short for a key, and it has none of the
# characters before which a URL has a password, or after which it has a query.
_HARMLESS: Final = re.compile(r"[A-Za-z0-9._:/-]{1,30}")
_KEY: Final = re.compile(r"[!-~]+")  # printable ASCII without spaces


def region_url(region: str, urls: Mapping[str, str] = REGIONS, *, source: str = "") -> str:
    """Return the base URL of a region: ``us`` (or ``production``) or ``eu``.

    Args:
        region: Name of the region.
        urls: Base URL of each region.
        source: Where the region was found, for the error message.

    Raises:
        ConfigurationError: The region is not known.
    """
    name = str(region).strip().lower()
    try:
        return urls[_REGION_ALIASES.get(name, name)]
    except KeyError:
        known = ", ".join(sorted({*REGIONS, *_REGION_ALIASES}))
        raise ConfigurationError(
            f"unknown region {showable(str(region), 40)!r}{source}; the regions are {known}"
        ) from None


def _region_url_of_environment(urls: Mapping[str, str]) -> str:
    """Return the base URL of the region in the environment, or of ``us`` if none is set."""
    region = os.environ.get(REGION_VARIABLE) or "us"
    return region_url(region, urls, source=f" in {REGION_VARIABLE}")


def read_key(api_key: Secret[str] | None) -> ApiKey:
    """Return the API key: the argument, or the key in the environment if the argument is None.

    Raises:
        MissingApiKeyError: There is no key.
        ConfigurationError: The key is not a string, or contains a character that a header must not
            contain.
    """
    given = Secret(os.environ.get(API_KEY_VARIABLE, "")) if api_key is None else api_key
    if not isinstance(given.reveal(), str):
        name = type(given.reveal()).__name__
        raise ConfigurationError(f"the API key must be a string, not an object of the type {name}")
    key = ApiKey(given.reveal().strip())
    if not key.reveal():
        raise MissingApiKeyError(variable=API_KEY_VARIABLE)
    if not _KEY.fullmatch(key.reveal()):
        raise ConfigurationError(
            "the API key contains a space or a character that is not printable ASCII; "
            "check that it was copied correctly"
        )
    return key


def read_base_url(base_url: str | None, region: str | None) -> str:
    """Return the base URL of the API for v1 jobs, without a slash at the end.

    It is `base_url`, or the base URL of `region`. If both are None, environment variables decide.

    Raises:
        ConfigurationError: Both arguments were passed, or one cannot be used.
    """
    if region is not None:
        if base_url is not None:
            raise ConfigurationError("pass region= or base_url=, not both")
        return region_url(region)
    if base_url:
        return _checked(base_url, "base_url")
    if url := os.environ.get(BASE_URL_VARIABLE):
        return _checked(url, BASE_URL_VARIABLE)
    return _region_url_of_environment(REGIONS)


def read_base_urls(
    base_url: str | None, v2_base_url: str | None, region: str | None
) -> tuple[str, str]:
    """Return two base URLs of the API, for v1 jobs and for v2 jobs, without a slash at the end.

    `read_base_url` chooses the one for v1 jobs. The one for v2 jobs is the first of these that is
    set:

    1. the argument `v2_base_url`,
    2. the v2 base URL of the argument `region`,
    3. the environment variable `V2_BASE_URL_VARIABLE`,
    4. the argument `base_url`, or the environment variable `BASE_URL_VARIABLE`,
    5. the v2 base URL of the region in the environment,
    6. the v2 base URL of the region ``us``.

    The official SDK has another order: 1, 3, 2, 5, 4.

    Raises:
        ConfigurationError: An argument or a variable cannot be used.
    """
    v1 = read_base_url(base_url, region)
    if v2_base_url:
        return v1, _checked(v2_base_url, "v2_base_url")
    if region is not None:
        return v1, region_url(region, V2_REGIONS)
    if url := os.environ.get(V2_BASE_URL_VARIABLE):
        return v1, _checked(url, V2_BASE_URL_VARIABLE)
    if base_url or os.environ.get(BASE_URL_VARIABLE):
        return v1, v1
    return v1, _region_url_of_environment(V2_REGIONS)


def environment_of(base_url: str, api_key: str) -> dict[str, str]:
    """Return environment variables with which adepoll and the official SDK use the same service.

    They replace every existing variable that could name another service. The region is empty,
    because the official SDK does not accept a region together with a base URL.

    Args:
        base_url: Address of the API, for v1 and v2 jobs.
        api_key: The key.
    """
    return {
        BASE_URL_VARIABLE: base_url,
        V2_BASE_URL_VARIABLE: base_url,
        REGION_VARIABLE: "",
        API_KEY_VARIABLE: api_key,
    }


def _checked(base_url: str, name: str) -> str:
    """Check a base URL, and return it without a slash at its end.

    Args:
        base_url: The URL.
        name: Name of the argument or variable, for the error.

    Raises:
        ConfigurationError: The URL is invalid.
    """
    if not isinstance(base_url, str):
        raise ConfigurationError(
            f"{name} must be a string, not an object of the type {type(base_url).__name__}"
        )
    shown = base_url if _HARMLESS.fullmatch(base_url) else showable(redact_url(base_url), 120)
    try:
        parts = urlsplit(base_url)
        _ = parts.port  # raises if it is not a number
    except ValueError:
        raise ConfigurationError(f"{name} is not a valid URL: {shown}") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ConfigurationError(f"{name} must start with https:// or http://: {shown}")
    # Search the text, because `parts` do not show an empty user, query or fragment ("http://@a/?").
    # These break requests, too.
    if "@" in parts.netloc or "?" in base_url or "#" in base_url:
        raise ConfigurationError(f"{name} must have no user, query or fragment: {shown}")
    if not (base_url.isascii() and base_url.isprintable()) or " " in base_url:
        raise ConfigurationError(
            f"{name} contains a space or a character that is not printable ASCII: {shown}"
        )
    if not _is_host(parts):
        raise ConfigurationError(f"{name} has an invalid host: {shown}")
    _check_path(parts, shown, name)
    if parts.scheme == "http" and not _is_loopback(parts.hostname):
        _log.warning("the API key is sent unencrypted to %s; use an https:// %s", shown, name)
    return base_url.rstrip("/")


def _is_host(parts: SplitResult) -> bool:
    """Return whether a URL has a host to which aiohttp can connect: a name or an address."""
    if _HOST.fullmatch(parts.netloc) is None:
        return False
    host = parts.hostname or ""
    if host.replace(".", "").isdigit() or ":" in host:
        with suppress(ValueError):
            return bool(ip_address(host.replace("%25", "%")))
        return False
    return True


def _check_path(parts: SplitResult, shown: str, name: str) -> None:
    """Raise ConfigurationError if the base URL ends with a path of the API, such as ``/v1/ade``.

    adepoll itself adds these paths.

    Args:
        parts: The base URL.
        shown: The base URL as a text for the error message, without secrets.
        name: Name of the argument or variable with the base URL, for the error message.
    """
    own_path = "" if parts.hostname in _HOSTS else _API_PATH.split(parts.path)[0]
    if own_path.rstrip("/") != parts.path.rstrip("/"):
        address = f"{parts.scheme}://{parts.netloc}{own_path.rstrip('/')}"
        raise ConfigurationError(
            f"{name} must not contain a path of the API, which adepoll adds: {shown}; use "
            f"{showable(address, 120)}"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
