"""Endpoints: the base URLs of the API that has the jobs of a journal.

There is one URL for v1 jobs, and one for v2 jobs. URLs from a journal are checked before they are
used: the API key is sent to them, and somebody else may have written the journal.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self
from urllib.parse import urlsplit

from attrs import frozen

from adepoll.api.config import REGIONS, V2_REGIONS
from adepoll.common.redaction import redact_url, showable
from adepoll.errors import ConfigurationError, JournalEndpointError
from adepoll.journal.foreign_file import damaged

_V1: Final = "endpoint"
_V2: Final = "v2_endpoint"
ENDPOINT_NOTES: Final = frozenset({_V1, _V2})
"""The keys of the notes that contain the endpoints. These notes never change."""

_PORTS: Final = {"https": 443, "http": 80}
# A URL without a query and a fragment. All its characters are harmless in a shell, a terminal and
# HTML.
_URL: Final = re.compile(r"https?://[A-Za-z0-9.\[\]:_-]+(?:/[A-Za-z0-9._~%@:/-]*)?", re.IGNORECASE)
_OFFICIAL: Final = frozenset({*REGIONS.values(), *V2_REGIONS.values()})


@frozen
class Endpoints:
    """The base URLs at which the jobs of a journal are polled.

    The URLs are in normal form, so that two URLs of the same address are equal.

    Attributes:
        v1: Base URL for v1 jobs.
        v2: Base URL for v2 jobs.
    """

    v1: str
    v2: str

    @classmethod
    def of(cls, endpoint: str, v2_endpoint: str | None = None) -> Self:
        """Return endpoints with the URLs in normal form: URLs of the same address become equal.

        Args:
            endpoint: Base URL for v1 jobs.
            v2_endpoint: Base URL for v2 jobs. If None, it follows from `endpoint`: the v2 endpoint
                of the same region, or `endpoint` itself if it is not the endpoint of a region.

        Raises:
            ConfigurationError: An argument is not a URL, or contains credentials or a query.
        """
        v1 = _normalized(endpoint, "endpoint")
        if v2_endpoint is not None:
            return cls(v1, _normalized(v2_endpoint, "v2_endpoint"))
        regions = [region for region, url in REGIONS.items() if url == v1]
        return cls(v1, V2_REGIONS[regions[0]] if regions else v1)

    @classmethod
    def recorded(cls, notes: Mapping[str, str], path: Path) -> Self:
        """Return the endpoints that a journal records.

        Args:
            notes: The table `notes` of the journal, as a mapping from key to value.
            path: Path of the journal, for errors.

        Raises:
            JournalDamagedError: A URL is missing in the table, or is not in normal form.
        """
        for key in (_V1, _V2):
            if key not in notes:
                raise damaged(f"the address of its service ({key}) is missing", path)
        found = cls(notes[_V1], notes[_V2])
        try:
            if cls.of(found.v1, found.v2) == found:
                return found
        except ConfigurationError:
            pass
        raise damaged("the address of its service is not a valid URL", path)

    @property
    def notes(self) -> Mapping[str, str]:
        """The URLs as rows (key and value) of the table `notes`; `recorded` reads them."""
        return {_V1: self.v1, _V2: self.v2}

    @property
    def are_official(self) -> bool:
        """True if both URLs are LandingAI's own, so that the API key may be sent to them."""
        return {self.v1, self.v2} <= _OFFICIAL

    @property
    def region(self) -> str | None:
        """The region to which both URLs belong; None if there is no such region."""
        for region, url in REGIONS.items():
            if (self.v1, self.v2) == (url, V2_REGIONS[region]):
                return region
        return None

    @property
    def shown(self) -> str:
        """The URLs as a text to show to people; only the v1 URL if the v2 URL follows from it."""
        if self == self.of(self.v1):
            return self.v1
        return f"{self.v1}, v2 jobs at {self.v2}"

    def check(self, ours: "Endpoints", path: Path | None) -> None:
        """Raise if these endpoints, which a journal records, differ from those in use now.

        Args:
            ours: The endpoints in use now.
            path: Path of the journal; None if the journal is in memory.

        Raises:
            JournalEndpointError: The endpoints are different.
        """
        shown = ":memory:" if path is None else str(path)
        if self.v1 != ours.v1:
            raise JournalEndpointError(path=shown, theirs=self.v1, ours=ours.v1)
        if self.v2 != ours.v2:
            raise JournalEndpointError(path=shown, theirs=self.v2, ours=ours.v2, api="v2")


def _normalized(url: str, name: str) -> str:
    """Return a URL in normal form: without a default port and without a slash at the end.

    Raise `ConfigurationError` if `url` is not an http or https URL, or contains credentials, a
    query or a fragment. The error message contains `name`, the name of the caller's argument.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        parts, port = urlsplit(""), None
    if not parts.hostname or "@" in parts.netloc or not _URL.fullmatch(url):
        shown = showable(redact_url(url), 120)
        raise ConfigurationError(f"{name} must be a URL like https://host, got {shown}")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    port_suffix = "" if port == _PORTS.get(parts.scheme) else f":{port}"
    return f"{parts.scheme}://{host}{port_suffix}{parts.path.rstrip('/')}"
