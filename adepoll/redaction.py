"""What may be shown to people and logs: secrets taken out, control characters escaped, length cut.

Imports nothing of adepoll, so that everything may use it.
"""

import re
from typing import Final
from urllib.parse import urlsplit

REDACTED: Final = "REDACTED"

# All three take too much rather than too little: a quote or comma after a secret goes with it,
# since a secret may hold one. A backslash does not end a URL: some JSON writes "&" as "\u0026".
_URL: Final = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]{1,15}:(?://|\\/\\/)[^\s\"<>]+")
_BEARER: Final = re.compile(r"(?i)(?<![a-z])(bearer|basic)(?:\s|%20|\+)+[^\s\"]+")
_SIGNATURE: Final = re.compile(
    r"(?i)(?<![a-z])(X-Amz-(?:Signature|Credential|Security-Token)|X-Goog-(?:Signature|Credential)"
    r"|Signature|AWSAccessKeyId|sig)(=|%3D|\\u003d)[^\s&\"<>]+"
)


def redact_url(url: str) -> str:
    """Give the URL without user, password, query and fragment: the parts that can hold a secret.

    A query that was there is shown as ``?REDACTED``, so that nobody takes the rest for the whole.
    """
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        _ = parts.port  # what is no port may be a password with "/" in it: then nothing is shown
    except ValueError:
        return REDACTED
    if not parts.scheme or not host:
        return REDACTED
    # An "@" in the path may end a user and password that hold "/", or those of a URL in the URL.
    path = f"/{REDACTED}" if "@" in parts.path else parts.path
    query = f"?{REDACTED}" if parts.query or parts.fragment else ""
    return f"{parts.scheme}://{host}{path}{query}"


def is_redacted(url: str) -> bool:
    """Tell whether the URL went through `redact_url` and lost something there."""
    return url.endswith(REDACTED)


def redact_text(text: str) -> str:
    """Take URL queries, bearer tokens and signatures out of free text."""
    text = _URL.sub(lambda match: redact_url(match[0]), text)
    text = _BEARER.sub(rf"\1 {REDACTED}", text)
    return _SIGNATURE.sub(rf"\1\2{REDACTED}", text)


def showable(text: str, limit: int = 300) -> str:
    r"""Make text of unknown origin fit for a message: redacted, on one line, at most `limit` long.

    Control characters, terminal escapes and other unprintables come out as ``\x1b`` and the like.
    """
    cut = text[: 4 * limit]  # before redacting, or a hostile megabyte would be searched
    if len(cut) < len(text):
        # The word that the cut splits goes too: the head of a secret need not look like one.
        cut = (cut.rsplit(maxsplit=1) or [""])[0]
    shown = redact_text(cut)
    if not shown.isprintable():
        shown = "".join(
            char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
            for char in shown
        )
    return shown if len(shown) <= limit and len(cut) == len(text) else f"{shown[:limit]}..."
