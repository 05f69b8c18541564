"""What may be shown to people and logs: secrets taken out, control characters escaped, length cut.

Imports nothing of adepoll, so that everything may use it.
"""

import re
from typing import Final
from urllib.parse import urlsplit

REDACTED: Final = "REDACTED"

_URL: Final = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]{1,15}://[^\s\"'<>\\]+")
_BEARER: Final = re.compile(r"(?i)\b(bearer|basic)\s+[^\s,;\"']+")
_SIGNATURE: Final = re.compile(
    r"(?i)\b(X-Amz-(?:Signature|Credential|Security-Token)|X-Goog-(?:Signature|Credential)"
    r"|Signature|AWSAccessKeyId|sig)=[^\s&\"'<>]+"
)


def redact_url(url: str) -> str:
    """Give the URL without user, password, query and fragment: the parts that can hold a secret.

    A query that was there is shown as ``?REDACTED``, so that nobody takes the rest for the whole.
    """
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        return REDACTED
    if not parts.scheme or not host:
        return REDACTED
    query = f"?{REDACTED}" if parts.query or parts.fragment else ""
    return f"{parts.scheme}://{host}{parts.path}{query}"


def is_redacted(url: str) -> bool:
    """Tell whether the URL went through `redact_url` and lost something there."""
    return url.endswith(REDACTED)


def redact_text(text: str) -> str:
    """Take URL queries, bearer tokens and signatures out of free text."""
    text = _URL.sub(lambda match: redact_url(match[0]), text)
    text = _BEARER.sub(rf"\1 {REDACTED}", text)
    return _SIGNATURE.sub(rf"\1={REDACTED}", text)


def showable(text: str, limit: int = 300) -> str:
    r"""Make text of unknown origin fit for a message: redacted, on one line, at most `limit` long.

    Control characters, terminal escapes and other unprintables come out as ``\x1b`` and the like.
    """
    # Cut before redacting, or a hostile megabyte would be searched; a secret that the cut
    # splits has lost its tail, and its head is redacted like a whole one.
    cut = text[: 4 * limit]
    shown = "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in redact_text(cut)
    )
    return shown if len(shown) <= limit and len(cut) == len(text) else f"{shown[:limit]}..."
