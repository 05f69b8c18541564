"""Endpoints: the services that have the jobs of a journal, one for v1 jobs and one for v2 jobs.

The API key goes to both, and a journal may come from anyone. Imports api.config and below.
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
"""The keys of the notes that hold the endpoints, which never change."""

_PORTS: Final = {"https": 443, "http": 80}
# Characters that have no meaning for a shell, a terminal or HTML. No query and no fragment.
_URL: Final = re.compile(r"https?://[A-Za-z0-9.\[\]:_-]+(?:/[A-Za-z0-9._~%@:/-]*)?", re.IGNORECASE)
_OFFICIAL: Final = frozenset({*REGIONS.values(), *V2_REGIONS.values()})


@frozen
class Endpoints:
    """The base URLs of the API that has the jobs of a journal, in normal form.

    Attributes:
        v1: Base URL for v1 jobs.
        v2: Base URL for v2 jobs.
    """

    v1: str
    v2: str

    @classmethod
    def of(cls, endpoint: str, v2_endpoint: str | None = None) -> Self:
        """Normalize two base URLs, so that equal services compare equal.

        Args:
            endpoint: Base URL for v1 jobs.
            v2_endpoint: Base URL for v2 jobs; None for that of the same region, or for `endpoint`
                if that is not a region.

        Raises:
            ConfigurationError: Not a URL, or it contains credentials or a query.
        """
        v1 = _normalized(endpoint, "endpoint")
        if v2_endpoint is not None:
            return cls(v1, _normalized(v2_endpoint, "v2_endpoint"))
        regions = [region for region, url in REGIONS.items() if url == v1]
        return cls(v1, V2_REGIONS[regions[0]] if regions else v1)

    @classmethod
    def recorded(cls, notes: Mapping[str, str], path: Path) -> Self:
        """Return the endpoints that the notes of a journal contain.

        Raises:
            JournalDamagedError: The notes lack a URL, or have one that adepoll would not record.
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
        """The notes from which `recorded` reads the endpoints again."""
        return {_V1: self.v1, _V2: self.v2}

    @property
    def are_official(self) -> bool:
        """Whether both are endpoints of LandingAI, to which the API key may go."""
        return {self.v1, self.v2} <= _OFFICIAL

    @property
    def region(self) -> str | None:
        """The region whose endpoints these are; None if they are not those of one region."""
        for region, url in REGIONS.items():
            if (self.v1, self.v2) == (url, V2_REGIONS[region]):
                return region
        return None

    @property
    def shown(self) -> str:
        """The endpoints as a text for people; only one if the other one follows from it."""
        if self == self.of(self.v1):
            return self.v1
        return f"{self.v1}, v2 jobs at {self.v2}"

    def check(self, ours: "Endpoints", path: Path | None) -> None:
        """Raise unless the endpoints that are used now are the same.

        Args:
            ours: The endpoints that are used now.
            path: The journal; None in memory.

        Raises:
            JournalEndpointError: They are different.
        """
        shown = ":memory:" if path is None else str(path)
        if self.v1 != ours.v1:
            raise JournalEndpointError(path=shown, theirs=self.v1, ours=ours.v1)
        if self.v2 != ours.v2:
            raise JournalEndpointError(path=shown, theirs=self.v2, ours=ours.v2, api="v2")


def _normalized(url: str, name: str) -> str:
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
