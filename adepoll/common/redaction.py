"""Makes text safe for people and logs: removes secrets, escapes control characters, shortens.

Imports nothing of adepoll.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, Generic, NoReturn, Self, TypeAlias, TypeVar
from urllib.parse import urlsplit

Json: TypeAlias = Any

REDACTED: Final = "REDACTED"
_ASCII: Final = 128
_Value = TypeVar("_Value", bound=str | bytes)


_SHORTEST_KEY: Final = 16


class Secret(Generic[_Value]):
    """Holds a secret value. `repr` and `str` do not show the value, and pickling raises TypeError.

    `copy.copy` and `copy.deepcopy` return the object itself.
    """

    __slots__ = ("_reveal",)

    def __init__(self, value: _Value) -> None:
        """Store the value that must not be shown."""
        # The value is kept in a function, because debuggers and serialisers show attributes, but
        # not the variables of a function.
        self._reveal: Final[Callable[[], _Value]] = lambda: value

    def reveal(self) -> _Value:
        """Return the value. Do not store it in a variable, which an error tracker could record."""
        return self._reveal()

    def __repr__(self) -> str:
        """Return a text that does not contain the secret value."""
        return f"Secret({REDACTED})"

    def __format__(self, spec: str) -> str:
        """Return a text that does not contain the secret value."""
        return repr(self)

    def __copy__(self) -> Self:
        """Return the object itself instead of a copy."""
        return self

    def __deepcopy__(self, memo: object) -> Self:
        """Return the object itself instead of a copy."""
        return self

    def __reduce__(self) -> NoReturn:
        """Raise a TypeError, because pickling would write the secret."""
        raise TypeError("a secret cannot be pickled")


class ApiKey(Secret[str]):
    """The API key.

    Attributes:
        may_be_in: Returns whether JSON may contain the key, possibly with escapes. Always False for
            a key of less than 16 characters: somebody chose it for a test, and it can be a word.
    """

    __slots__ = ("may_be_in",)

    def __init__(self, value: str) -> None:
        """Store the key that must not be shown."""
        super().__init__(value)
        # Letters and digits are hardly ever written as escapes, except those with a backslash.
        searched = max(re.findall(r"[A-Za-z0-9]*", value), key=len).encode()
        self.may_be_in: Final[Callable[[bytes], bool]] = (
            (lambda body: b"\\" in body or searched in body)
            if len(value) >= _SHORTEST_KEY
            else (lambda _body: False)
        )


class Credentials(str):
    """The value of the header Authorization or Proxy-Authorization. Its repr shows only the scheme.

    Errors of aiohttp contain the headers of the request, and programs print these errors.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"'{self.partition(' ')[0]} {REDACTED}'"


# The patterns can match more than the secret. For example, they include a quote or comma after a
# secret, because a secret can contain these characters. A backslash does not end a URL, because
# JSON can contain "&" as "\u0026". The time of each pattern is in proportion to the length of the
# text.
# Two characters of a scheme are before the mark. Without this condition, a text of many "://" would
# take 30 ms.
_URL_MARK: Final = re.compile(r"(?<=[a-zA-Z0-9+.-]{2}):(?://|\\/\\/)")
_SCHEME: Final = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]{1,15}\Z")
_URL_REST: Final = re.compile(r"[^\s\"<>]+")
# Punctuation after a URL is not part of the URL. Otherwise "http://host:8080," would be invalid.
_AFTER_URL: Final = ",.;:!)]}'"
_LONGEST_SCHEME: Final = 16
# The next two patterns begin with a set of letters, because `re` searches for a set quickly. Then a
# lookbehind checks the character before the letter. Then the rest of the name follows.
_BEARER: Final = re.compile(
    r"([bB](?<![a-zA-Z].)(?:[eE][aA][rR][eE][rR]|[aA][sS][iI][cC]))(?:\s|%20|\+)+[^\s\"]+",
    re.DOTALL,
)
_NAMES: Final = (
    r"X-Amz-(?:Signature|Credential|Security-Token)|X-Goog-(?:Signature|Credential)"
    r"|Signature(?:Provided)?|AWSAccessKeyId|sig"
)
# Matches signatures in a query (also a percent-encoded one), in XML, in JSON, and in the repr of a
# dict.
_SIGNATURE: Final = re.compile(
    r"([xXaAsS](?<![a-zA-Z].)(?i:(?<=x)-(?:Amz-(?:Signature|Credential|Security-Token)"
    r"|Goog-(?:Signature|Credential))|(?<=s)ig(?:nature(?:Provided)?)?|(?<=a)WSAccessKeyId))"
    r"(?i:(=|%(?:25)*3D|\\u003d|&#(?:61|x3d);|>|\\?[\"']\s*:\s*\\?[\"']?))[^\s&\"<>]+",
    re.DOTALL,
)
_SECRET_NAME: Final = re.compile(rf"(?i){_NAMES}|Authorization")
_SUSPICIOUS: Final = re.compile(r"[=:%&>\\]|[bB][eEaA][aAsS][rRiI]")
# Maximum number of characters that `redact_json` keeps. Each text counts as more characters than it
# has, because short texts also take time.
_LONGEST_JSON: Final = 262_144
_COST_OF_TEXT: Final = 8
_COST_OF_SUSPICIOUS_TEXT: Final = 64
_MOST_CONTAINERS: Final = 10_000  # objects and arrays that `redact_json` copies
# Types of parsed JSON that need no redaction. An array of a million numbers is copied quickly.
_WITHOUT_TEXT: Final = frozenset({int, float, bool, type(None)})
LONGEST_URL: Final = 16_384
"""Maximum characters of a URL. Most servers accept 8 KiB."""


def redact_url(url: str) -> str:
    """Return the URL without user, password, query and fragment, which can contain secrets.

    ``?REDACTED`` replaces the query and the fragment, so that the URL does not look complete. A
    text that is not a URL becomes ``REDACTED``.
    """
    if len(url) > LONGEST_URL:
        return REDACTED
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        # This raises ValueError if the port is not a number. Such a port can be the beginning of a
        # password that contains "/".
        _ = parts.port
    except ValueError:
        return REDACTED
    if not parts.scheme or not host:
        return REDACTED
    # A path with "@" can contain the end of a password that contains "/", or a URL with a password.
    path = f"/{REDACTED}" if "@" in parts.path else parts.path
    query = f"?{REDACTED}" if parts.query or parts.fragment else ""
    return f"{parts.scheme}://{host}{path}{query}"


def is_redacted(url: str) -> bool:
    """Return whether the URL ends with ``REDACTED``, as URLs from `redact_url` do."""
    return url.endswith(REDACTED)


def without(secret: Secret[str] | None, text: str) -> str:
    """Return a text in which `secret` is replaced by ``REDACTED``; unchanged if it is None.

    The characters of the secret that are not letters or digits can be escaped, once or several
    times, as in JSON or in a URL.
    """
    if secret is None:
        return text
    return re.sub("".join(map(_with_escapes, secret.reveal())), REDACTED, text)


def _with_escapes(char: str) -> str:
    """Return a pattern that matches a character, and its escapes in JSON and in URLs."""
    if char.isalnum():
        return char
    code = f"(?i:{ord(char):02x})"
    if char == "\\":
        return rf"(?:(?:\\\\)+u00{code}|(?:\\\\)+|\\u00{code}|\\|%{code})"
    return rf"(?:\\*{re.escape(char)}|\\+u00{code}|%{code})"


def redact_text(text: str, limit: int = 65_536) -> str:
    """Return the text without queries of URLs, bearer tokens and signatures.

    Args:
        text: The text.
        limit: Number of characters after which the text is cut.
    """
    if len(text) > limit:
        return f"{redact_text(_cut(text, limit), limit)}..."
    if _SUSPICIOUS.search(text) is None:  # true for most texts
        return text
    text = _redact_urls(text)
    text = _BEARER.sub(rf"\1 {REDACTED}", text)
    return _SIGNATURE.sub(rf"\1\2{REDACTED}", text)


def _redact_urls(text: str) -> str:
    """Return a text in which `redact_url` has replaced every URL."""
    parts: list[str] = []
    done = 0  # `parts` contains the text up to this position
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
    """Return a copy of parsed JSON without secrets.

    `redact_text` is applied to each text and each name, at any depth. The value of a name like
    ``X-Amz-Signature`` becomes ``REDACTED``. To limit the time, only the first 256 KiB of text are
    redacted and copied, in the order of the document, or 32,768 texts, or 4,096 texts that may
    contain secrets, or 10,000 objects and arrays. The text after that becomes ``REDACTED``, the
    object or array becomes empty, and all other values after it are left out.
    """
    rest = _LONGEST_JSON
    containers = 0
    root = [value]
    # Copies whose values are still to be redacted, each with an iterator over these values.
    open_containers: list[tuple[Any, Iterator[tuple[Any, Any]]]] = [(root, enumerate(root))]
    while open_containers:
        container, items = open_containers[-1]
        for key, item in items:
            if isinstance(item, str):
                is_suspicious = _SUSPICIOUS.search(item, 0, _LONGEST_JSON) is not None
                rest -= len(item)
                rest -= _COST_OF_SUSPICIOUS_TEXT if is_suspicious else _COST_OF_TEXT
                hidden = rest < 0 or (isinstance(key, str) and _SECRET_NAME.fullmatch(key))
                container[key] = REDACTED if hidden else redact_text(item)
                if rest < 0:
                    _remove_rest(open_containers)
                    return root[0]
            elif isinstance(item, (list, dict)):
                containers += 1
                if isinstance(item, dict):
                    rest -= sum(map(len, item)) + _COST_OF_TEXT * len(item)
                if rest < 0 or containers > _MOST_CONTAINERS:
                    container[key] = type(item)()
                    _remove_rest(open_containers)
                    return root[0]
                if isinstance(item, list):
                    array = container[key] = [*item]
                    if not _WITHOUT_TEXT.issuperset(map(type, array)):
                        open_containers.append((array, enumerate(array)))
                        break
                else:
                    copy = {redact_text(name): each for name, each in item.items()}
                    container[key] = copy
                    open_containers.append((copy, iter(copy.items())))
                    break
        else:
            open_containers.pop()
    return root[0]


def _remove_rest(open_containers: Iterable[tuple[Any, Iterator[tuple[Any, Any]]]]) -> None:
    """Remove the values that the iterator of each list or dict has not reached."""
    for container, items in open_containers:
        if isinstance(container, dict):
            for key in [key for key, _ in items]:
                del container[key]
        elif (first := next(items, None)) is not None:
            del container[first[0] :]


def _cut(text: str, limit: int) -> str:
    """Return a short text unchanged. Cut a text that has more than `limit` characters.

    Its last word, which the cut may have split, is left out.
    """
    if len(text) <= limit:
        return text
    # Remove the last word, which the cut has split, because half a secret may not be recognised.
    return (text[:limit].rsplit(maxsplit=1) or [""])[0]


def showable(text: str, limit: int = 300) -> str:
    r"""Return a text of unknown origin for a message: redacted, on one line, and shortened.

    Unprintable characters, such as those of terminal escapes, are written as ``\x1b``.

    Args:
        text: The text.
        limit: Number of characters after which the text is cut.
    """
    cut = _cut(text, 4 * limit)  # the text can be very long, and redacting takes time
    shown = printable(redact_text(cut)[: limit + 1])
    return shown if len(shown) <= limit and len(cut) == len(text) else f"{shown[:limit]}..."


def printable(text: str) -> str:
    r"""Return the text with unprintable characters as escapes, such as ``\x1b``."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def shell_line(words: Iterable[str]) -> str:
    """Return a line of text that a shell splits into exactly these words."""
    return " ".join(map(_quoted, words))


def path_word(path: str) -> str:
    """Return a path as a word of a command line that is not taken for an option."""
    return f"./{path}" if path.startswith("-") else path


def _quoted(word: str) -> str:
    """Return a word with the quotes and escapes that a shell needs, on one line."""
    if _NEEDS_NO_QUOTES.fullmatch(word):
        return word
    if word.isprintable() and _ENDS_QUOTES_IN_POWERSHELL.search(word) is None:
        return f"'{_ENDS_QUOTES_IN_FISH.sub(_in_double_quotes, word)}'"
    # ANSI-C quoting of bash and zsh, and of POSIX since 2024.
    escaped = "".join(
        chr(byte) if chr(byte).isalnum() and byte < _ASCII else f"\\x{byte:02x}"
        for byte in os.fsencode(word)
    )
    return f"$'{escaped}'"


def _in_double_quotes(found: re.Match[str]) -> str:
    """Return backslashes and single quotes in double quotes, between two parts in single quotes."""
    escaped = found[0].replace("\\", "\\\\")
    return f"'\"{escaped}\"'"


# The same characters as in `shlex.quote`, with one difference: zsh replaces "=program" with the
# path of the program.
_NEEDS_NO_QUOTES: Final = re.compile(r"(?!=)[\w@%+=:,./-]+", re.ASCII)
# Characters that PowerShell reads as single quotes. PowerShell itself cannot read the words that
# are written for other shells, but nothing in them may run as a command.
_ENDS_QUOTES_IN_POWERSHELL: Final = re.compile("[\u2018-\u201b]")
# Within single quotes, fish reads a backslash before a single quote as an escape. So a backslash
# must not be the last character before the end of the quotes.
_ENDS_QUOTES_IN_FISH: Final = re.compile(r"(?<!\\)(?:\\*'[\\']*|\\+\Z)")
