"""The API key and base URL: arguments first, then the environment. Imports errors and below."""

import logging
import os
import re
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Final
from urllib.parse import SplitResult, urlsplit

from adepoll.errors import ConfigurationError, MissingApiKeyError
from adepoll.redaction import Secret, redact_url, showable

_log = logging.getLogger(__name__)

REGIONS: Final[Mapping[str, str]] = {
    "us": "https://api.va.landing.ai",
    "eu": "https://api.va.eu-west-1.landing.ai",
}
"""Base URL of each region."""

_HOSTS: Final = frozenset(urlsplit(url).hostname for url in REGIONS.values())
_API_PATH: Final = re.compile(r"/v\d+(/ade(/.*)?)?/*$")  # a proxy can have a path of its own

_REGION_ALIASES: Final = {"production": "us"}  # the value that LANDINGAI_ADE_ENVIRONMENT uses

# The official SDK reads the same variables.
API_KEY_VARIABLE: Final = "VISION_AGENT_API_KEY"
REGION_VARIABLE: Final = "LANDINGAI_ADE_ENVIRONMENT"
BASE_URL_VARIABLE: Final = "LANDINGAI_ADE_BASE_URL"


_KEY: Final = re.compile(r"[!-~]+")  # printable ASCII without spaces


def region_url(region: str) -> str:
    """Return the base URL of a region: ``us`` (or ``production``) or ``eu``.

    Raises:
        ConfigurationError: The region is not known.
    """
    name = region.strip().lower()
    try:
        return REGIONS[_REGION_ALIASES.get(name, name)]
    except KeyError:
        known = ", ".join(sorted({*REGIONS, *_REGION_ALIASES}))
        raise ConfigurationError(
            f"unknown region {showable(region, 40)!r}; there are {known}"
        ) from None


def read_key(api_key: Secret[str] | None) -> Secret[str]:
    """Return the key of the argument, or of the environment if that is None.

    Raises:
        MissingApiKeyError: There is no key.
        ConfigurationError: The key contains a character that a header must not contain.
    """
    given = Secret(os.environ.get(API_KEY_VARIABLE, "")) if api_key is None else api_key
    key = Secret(given.reveal().strip())
    if not key.reveal():
        raise MissingApiKeyError(variable=API_KEY_VARIABLE)
    if not _KEY.fullmatch(key.reveal()):
        raise ConfigurationError(
            "the API key contains a space or a character that is not printable ASCII; "
            "check that it was copied correctly"
        )
    return key


def read_base_url(base_url: str | None, region: str | None) -> str:
    """Return the address of the API, without a slash at the end.

    Raises:
        ConfigurationError: Both arguments were passed, or one cannot be used.
    """
    if region is not None:
        if base_url is not None:
            raise ConfigurationError("pass region= or base_url=, not both")
        return region_url(region)
    base_url = base_url or os.environ.get(BASE_URL_VARIABLE)
    if not base_url:
        return region_url(os.environ.get(REGION_VARIABLE) or "us")
    shown = showable(redact_url(base_url), 120)
    try:
        parts = urlsplit(base_url)
        _ = parts.port  # raises if it is not a number
    except ValueError:
        raise ConfigurationError(f"base_url is not a valid URL: {shown}") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ConfigurationError(f"base_url must start with https:// or http://: {shown}")
    # Searched in the text: urlsplit does not show an empty user or query, which breaks requests.
    if "@" in parts.netloc or "?" in base_url or "#" in base_url:
        raise ConfigurationError(f"base_url must have no user, query or fragment: {shown}")
    if not (base_url.isascii() and base_url.isprintable()) or " " in base_url:
        raise ConfigurationError(
            f"base_url contains a space or a character that is not printable ASCII: {shown}"
        )
    _check_path(parts, shown)
    if parts.scheme == "http" and not _is_loopback(parts.hostname):
        _log.warning("the API key is sent unencrypted to %s; use an https:// base_url", shown)
    return base_url.rstrip("/")


def _check_path(parts: SplitResult, shown: str) -> None:
    """Raise ConfigurationError if the path is one that adepoll adds itself."""
    own_path = "" if parts.hostname in _HOSTS else _API_PATH.split(parts.path)[0]
    if own_path.rstrip("/") != parts.path.rstrip("/"):
        address = f"{parts.scheme}://{parts.netloc}{own_path.rstrip('/')}"
        raise ConfigurationError(
            f"base_url must not contain a path of the API, which adepoll adds: {shown}; use "
            f"{showable(address, 120)}"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
