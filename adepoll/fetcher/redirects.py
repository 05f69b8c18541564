"""Finds out to which URL a redirect leads, as curl does. No I/O; `SsrfGuard` checks the URL."""

import re
from typing import Final
from urllib.parse import quote, urljoin, urlsplit

from yarl import URL

# Characters that are not quoted: ASCII without the space. `SsrfGuard` refuses control characters.
_UNQUOTED: Final = "".join(map(chr, range(0x80))).replace(" ", "")
_ORIGIN: Final = re.compile(r"(?:[a-z][a-z0-9+.-]*:)?//[^/?#]*", re.IGNORECASE)


def redirect_url(base: URL, location: str) -> str:
    """Return the URL to which a redirect leads.

    Args:
        base: The requested URL.
        location: The header `Location` of the response.

    Raises:
        ValueError: The location is malformed.
    """
    location = quoted(location)
    return location if urlsplit(location).scheme else _joined(base, location)


def quoted(location: str) -> str:
    """Percent-encode spaces and characters beyond ASCII in a URL, except in scheme and host.

    RFC 3986 does not allow such characters in a URL, but some servers send them. Browsers and other
    HTTP clients encode them in this way, too.

    Raises:
        UnicodeEncodeError: The URL contains an unpaired surrogate, which no encoding has.
    """
    origin = _ORIGIN.match(location)
    rest = location if origin is None else location[origin.end() :]
    quoted = quote(rest, safe=_UNQUOTED, errors="surrogateescape")
    return quoted if origin is None else origin[0] + quoted


def _joined(base: URL, location: str) -> str:
    """Return the URL of a relative location (RFC 3986, section 5.2), without decoding any part."""
    if not location.startswith(("/", "?", "#")) and location:
        # urljoin would remove empty segments ("//") from a relative path.
        location = f"{base.raw_path.rpartition('/')[0]}/{location}"
    return urljoin(str(base), location)
