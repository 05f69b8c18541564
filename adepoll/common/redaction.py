"""Text for people and logs: without secrets, with control characters escaped, and shortened.

Imports nothing of adepoll.
"""

import os
import re
import shlex
from collections.abc import Callable, Iterable
from typing import Any, Final, Generic, NoReturn, Self, TypeAlias, TypeVar
from urllib.parse import urlsplit

Json: TypeAlias = Any

REDACTED: Final = "REDACTED"
_ASCII: Final = 128
_Value = TypeVar("_Value", bound=str | bytes)


class Secret(Generic[_Value]):
    """A value that nothing shows: no `repr`, text or format; it cannot be copied or pickled."""

    __slots__ = ("_reveal",)

    def __init__(self, value: _Value) -> None:
        """Keep a value."""
        # A function: debuggers and serialisers show attributes, but not what a function refers to.
        self._reveal: Final[Callable[[], _Value]] = lambda: value

    def reveal(self) -> _Value:
        """Return the value, for use within an expression: error trackers record variables."""
        return self._reveal()

    def __repr__(self) -> str:
        """Return the class only."""
        return f"Secret({REDACTED})"

    def __format__(self, spec: str) -> str:
        """Return the class only."""
        return repr(self)

    def __copy__(self) -> Self:
        """Return the same object."""
        return self

    def __deepcopy__(self, memo: object) -> Self:
        """Return the same object."""
        return self

    def __reduce__(self) -> NoReturn:
        """Raise a TypeError."""
        raise TypeError("a secret cannot be pickled")


class Bearer(str):
    """The value of the Authorization header, with a repr that does not show the key.

    Errors of aiohttp contain the headers of their request, and are printed.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"'Bearer {REDACTED}'"


# The patterns match too much rather than too little: they include a quote or comma after a secret,
# since a secret can contain one. A backslash does not end a URL, since JSON can write "&" as
# "\u0026". Each needs time in proportion to the length of any text.
_URL_MARK: Final = re.compile(r":(?://|\\/\\/)")
_SCHEME: Final = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]{1,15}\Z")
_URL_REST: Final = re.compile(r"[^\s\"<>]+")
_AFTER_URL: Final = ",.;:!)]}'"  # punctuation of the sentence, with which "host:8080," is no URL
_LONGEST_SCHEME: Final = 16
# Each pattern begins with a set of characters, which `re` finds quickly. After that comes what must
# be true before it, and the rest of the name.
_BEARER: Final = re.compile(
    r"([bB](?<![a-zA-Z].)(?:[eE][aA][rR][eE][rR]|[aA][sS][iI][cC]))(?:\s|%20|\+)+[^\s\"]+",
    re.DOTALL,
)
_NAMES: Final = (
    r"X-Amz-(?:Signature|Credential|Security-Token)|X-Goog-(?:Signature|Credential)"
    r"|Signature(?:Provided)?|AWSAccessKeyId|sig"
)
# As in a query, perhaps encoded; as in XML; and as in JSON or the representation of a dict.
_SIGNATURE: Final = re.compile(
    r"([xXaAsS](?<![a-zA-Z].)(?i:(?<=x)-(?:Amz-(?:Signature|Credential|Security-Token)"
    r"|Goog-(?:Signature|Credential))|(?<=s)ig(?:nature(?:Provided)?)?|(?<=a)WSAccessKeyId))"
    r"(?i:(=|%(?:25)*3D|\\u003d|&#(?:61|x3d);|>|\\?[\"']\s*:\s*\\?[\"']?))[^\s&\"<>]+",
    re.DOTALL,
)
_SECRET_NAME: Final = re.compile(rf"(?i){_NAMES}|Authorization")
_SUSPICIOUS: Final = re.compile(r"[=:%&>\\]|[bB][eEaA][aAsS][rRiI]")
_LONGEST_JSON: Final = 262_144
_COST_OF_TEXT: Final = 8  # characters; each text takes time, however short it is
_LONGEST_URL: Final = 16_384  # S3 accepts 8 KiB


def redact_url(url: str) -> str:
    """Return the URL without user, password, query and fragment, which can contain a secret.

    A query or fragment is replaced by ``?REDACTED``, so that the URL does not look complete.
    """
    if len(url) > _LONGEST_URL:
        return REDACTED
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


def redact_text(text: str, limit: int = 65_536) -> str:
    """Return the text without URL queries, bearer tokens and signatures, cut after `limit`."""
    if len(text) > limit:
        return f"{redact_text(_cut(text, limit), limit)}..."
    if _SUSPICIOUS.search(text) is None:  # most texts
        return text
    text = _redact_urls(text)
    text = _BEARER.sub(rf"\1 {REDACTED}", text)
    return _SIGNATURE.sub(rf"\1\2{REDACTED}", text)


def _redact_urls(text: str) -> str:
    parts: list[str] = []
    done = 0  # characters of the text that are in `parts`
    position = 0
    while (mark := _URL_MARK.search(text, position)) is not None:
        position = mark.end()
        before = text[max(done, mark.start() - _LONGEST_SCHEME) : mark.start()]
        scheme = _SCHEME.search(before)
        if scheme is not None and (rest := _URL_REST.match(text, position)) is not None:
            start = mark.start() - len(scheme[0])
            end = position + len(rest[0].rstrip(_AFTER_URL))
            parts += [text[done:start], redact_url(text[start:end])]
            done, position = end, rest.end()
    return "".join([*parts, text[done:]]) if parts else text


def redact_json(value: Json) -> Json:
    """Return a copy of parsed JSON with all its texts and names redacted, at any depth.

    The value of a name like ``X-Amz-Signature`` is redacted completely. After 256 KiB of text (or
    32,768 texts), all further texts are replaced and objects emptied, since redacting takes time.
    """
    rest = _LONGEST_JSON
    root = [value]
    containers: list[Any] = [root]  # copies whose values are still to be redacted
    while containers:
        container = containers.pop()
        items = container.items() if isinstance(container, dict) else enumerate(container)
        for key, item in [*items]:
            if isinstance(item, str):
                rest -= len(item) + _COST_OF_TEXT
                hidden = rest < 0 or (isinstance(key, str) and _SECRET_NAME.fullmatch(key))
                container[key] = REDACTED if hidden else redact_text(item)
            elif isinstance(item, list):
                containers.append([*item])
                container[key] = containers[-1]
            elif isinstance(item, dict):
                rest -= sum(map(len, item)) + _COST_OF_TEXT * len(item)
                named = item if rest >= 0 else {}
                containers.append({redact_text(name): inner for name, inner in named.items()})
                container[key] = containers[-1]
    return root[0]


def _cut(text: str, limit: int) -> str:
    """Return the beginning of a text."""
    if len(text) <= limit:
        return text
    # Without the last word, which the cut has split: half a secret may not look like one.
    return (text[:limit].rsplit(maxsplit=1) or [""])[0]


def showable(text: str, limit: int = 300) -> str:
    r"""Return text of unknown origin for a message: redacted, on one line, shortened to `limit`.

    Unprintable characters, such as terminal escapes, are written as ``\x1b``.
    """
    cut = _cut(text, 4 * limit)  # before redacting, which would search a hostile megabyte
    shown = printable(redact_text(cut)[: limit + 1])  # what follows is not shown
    return shown if len(shown) <= limit and len(cut) == len(text) else f"{shown[:limit]}..."


def printable(text: str, *, keep: str = "") -> str:
    r"""Return text with unprintable characters other than those of `keep` written as ``\x1b``."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in keep else char.encode("unicode_escape").decode()
        for char in text
    )


def shell_line(words: Iterable[str]) -> str:
    """Return a command line that a shell reads as exactly these words, on one line."""
    return " ".join(map(_quoted, words))


def _quoted(word: str) -> str:
    if word.isprintable():
        quoted = shlex.quote(word)
        # zsh reads =program as the path of that program.
        return f"'{word}'" if quoted == word and word.startswith("=") else quoted
    # ANSI-C quoting of bash and zsh, and of POSIX since 2024.
    escaped = "".join(
        chr(byte) if chr(byte).isalnum() and byte < _ASCII else f"\\x{byte:02x}"
        for byte in os.fsencode(word)
    )
    return f"$'{escaped}'"
