"""Text for people and logs: without secrets, with control characters escaped, and shortened.

Imports nothing of adepoll.
"""

import os
import re
import shlex
from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

REDACTED: Final = "REDACTED"
_ASCII: Final = 128

# All three patterns match too much rather than too little: they include a quote or comma after a
# secret, since a secret can contain one. A backslash does not end a URL, since JSON can write "&"
# as "\u0026".
_URL: Final = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]{1,15}:(?://|\\/\\/)[^\s\"<>]+")
_BEARER: Final = re.compile(r"(?i)(?<![a-z])(bearer|basic)(?:\s|%20|\+)+[^\s\"]+")
_SIGNATURE: Final = re.compile(
    r"(?i)(?<![a-z])(X-Amz-(?:Signature|Credential|Security-Token)|X-Goog-(?:Signature|Credential)"
    r"|Signature|AWSAccessKeyId|sig)(=|%3D|\\u003d)[^\s&\"<>]+"
)


def redact_url(url: str) -> str:
    """Return the URL without user, password, query and fragment, which can contain a secret.

    A query or fragment is replaced by ``?REDACTED``, so that the URL does not look complete.
    """
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        _ = parts.port  # raises if it is not a number: it can be a password that contains "/"
    except ValueError:
        return REDACTED
    if not parts.scheme or not host:
        return REDACTED
    # An "@" in the path can end a password that contains "/", or that of a URL within the URL.
    path = f"/{REDACTED}" if "@" in parts.path else parts.path
    query = f"?{REDACTED}" if parts.query or parts.fragment else ""
    return f"{parts.scheme}://{host}{path}{query}"


def is_redacted(url: str) -> bool:
    """Return whether `redact_url` has removed something from the URL."""
    return url.endswith(REDACTED)


def redact_text(text: str) -> str:
    """Return the text without URL queries, bearer tokens and signatures."""
    text = _URL.sub(lambda match: redact_url(match[0]), text)
    text = _BEARER.sub(rf"\1 {REDACTED}", text)
    return _SIGNATURE.sub(rf"\1\2{REDACTED}", text)


def showable(text: str, limit: int = 300) -> str:
    r"""Return text of unknown origin for a message: redacted, on one line, shortened to `limit`.

    Unprintable characters, such as terminal escapes, are written as ``\x1b``.
    """
    cut = text[: 4 * limit]  # before redacting, which would search a hostile megabyte
    if len(cut) < len(text):
        # Without the last word, which the cut has split: half a secret may not look like one.
        cut = (cut.rsplit(maxsplit=1) or [""])[0]
    shown = redact_text(cut)
    if not shown.isprintable():
        shown = "".join(
            char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
            for char in shown
        )
    return shown if len(shown) <= limit and len(cut) == len(text) else f"{shown[:limit]}..."


def shell_line(words: Iterable[str]) -> str:
    """Return a command line that a shell reads as exactly these words, on one line."""
    return " ".join(map(_quoted, words))


def _quoted(word: str) -> str:
    if word.isprintable():
        return shlex.quote(word)
    # ANSI-C quoting of bash and zsh, and of POSIX since 2024.
    escaped = "".join(
        chr(byte) if chr(byte).isalnum() and byte < _ASCII else f"\\x{byte:02x}"
        for byte in os.fsencode(word)
    )
    return f"$'{escaped}'"
