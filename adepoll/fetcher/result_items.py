"""ResultItems: iterates over a large array within a result, one item at a time.

The only module that imports ijson, from the extra ``json``.
"""

import asyncio
import importlib
import math
from codecs import BOM_UTF8
from collections import deque
from collections.abc import Iterable
from typing import Any, Final, Protocol, Self, TypeAlias

from attrs import define, field

from adepoll.api.models import Json
from adepoll.common.extras import how_to_install
from adepoll.common.threads import start_in_thread, wait_until_done
from adepoll.errors import ConfigurationError, ResultMalformedError, ResultTooLargeError
from adepoll.fetcher.long_text import MAX_NUMBER, LongText, TokenLengths, without_unpaired
from adepoll.fetcher.result_stream import ResultStream

_Event: TypeAlias = tuple[str, Json]

_SCALARS: Final = frozenset({"string", "number", "boolean", "null"})
# Levels of nested objects and arrays. The decoder of `ResultFetcher.result` has about this limit.
_MAX_DEPTH: Final = 900
# Bytes that are parsed in one step, at least as many as a number may have. No other thread can run
# while ijson parses. So a large step would block the event loop.
_STEP: Final = MAX_NUMBER
# ijson reads a text again from its beginning when it gets the next bytes. So adepoll itself reads
# the rest of a text of which one step has ended after this number of bytes or more.
_LONG: Final = 2**10
# Items that are returned before other tasks of the event loop may run.
_ITEMS_PER_STEP: Final = 500


@define(eq=False)
class ItemBuilder:
    """Builds items from the events of a JSON parser. Does no I/O.

    Attributes:
        prefix: Path of the items: keys joined by dots, ``item`` for the elements of an array.
        items: Complete items in the order of the result. The caller removes them.
        is_found: True if the result contains an item, or an array on the path `prefix`, which can
            be empty.
    """

    prefix: str
    items: deque[Json] = field(factory=deque, init=False)
    is_found: bool = field(default=False, init=False)
    # Paths of the result and of the value that the parser reads in each object and array around the
    # items. None if the path is longer than `prefix`: it then contains no item, and a hostile path
    # can be very long.
    _paths: list[str | None] = field(factory=lambda: [""], init=False)
    # The objects and arrays of the current item that have begun and not ended, outermost first.
    _open: list[dict[str, Json] | list[Json]] = field(factory=list, init=False)
    _keys: list[str] = field(factory=list, init=False)  # the last key of each item of `_open`

    @property
    def is_within_item(self) -> bool:
        """True between the first and the last event of an item that is an object or array."""
        return bool(self._open)

    def needs_text(self, event: str) -> bool:
        """Return whether the text that comes next is a key or an item, or part of an item."""
        return self.is_within_item or event == "map_key" or self._paths[-1] == self.prefix

    def add(self, events: Iterable[_Event]) -> None:
        """Add the next events of the parser; append the items that they complete to `items`.

        Raises:
            ValueError: The JSON is nested too deeply.
        """
        opened, keys = self._open, self._keys
        for event, value in events:
            # A result can have millions of scalars, so for most of them, no function is called.
            if event in _SCALARS:
                scalar = value
                if event == "number" and type(value) is not int:
                    scalar = _number(value)
                if not opened:
                    self._add_value(scalar)
                elif isinstance(parent := opened[-1], list):
                    parent.append(scalar)
                else:
                    parent[keys[-1]] = scalar
            elif event == "map_key":
                self._set_key(value)
            elif event == "start_map":
                self._begin({})
            elif event == "start_array":
                self._begin([])
            else:
                self._end()

    def _set_key(self, key: str) -> None:
        """Record a key of an object; the value of this key comes next."""
        if self._open:
            self._keys[-1] = key
        else:
            self._paths.pop()
            self._add_path(key)

    def _add_path(self, key: str) -> None:
        """Append the path of the value with this key; ``item`` is the key of each array element."""
        path = self._paths[-1]
        if len(self._paths) == 1:
            path = key
        elif path is not None:
            path = f"{path}.{key}"
        is_longer = path is None or len(path) > len(self.prefix)
        self._paths.append(None if is_longer else path)

    def _begin(self, container: dict[str, Json] | list[Json]) -> None:
        """Record that an object or array begins.

        If it is an item or part of an item, build it. Otherwise, only record its path.
        """
        if len(self._paths) + len(self._open) > _MAX_DEPTH:
            raise ValueError("nested too deeply")
        if self._paths[-1] == self.prefix:
            self._open.append(container)
            self._keys.append("")
        else:
            self._add_path("item" if isinstance(container, list) else "")
            path = self._paths[-1]
            if isinstance(container, list) and path is not None and not self.is_found:
                self.is_found = f"{self.prefix}.".startswith(f"{path}.")

    def _end(self) -> None:
        """Record that the innermost object or array ends.

        If it is an item, add it to `items`; if it is part of an item, add it to that item.
        """
        if self._open:
            self._keys.pop()
            self._add_value(self._open.pop())
        else:
            self._paths.pop()

    def _add_value(self, value: Json) -> None:
        """Add a complete value to `items` if it is an item, or to the item that contains it.

        Ignore any other value.
        """
        if not self._open:
            if self._paths[-1] == self.prefix:
                self.is_found = True
                self.items.append(value)
            return
        parent = self._open[-1]
        if isinstance(parent, list):
            parent.append(value)
        else:
            parent[self._keys[-1]] = value


class _Parser(Protocol):
    """A parser of ijson. `send` takes the next bytes; the parser appends its events to a list."""

    def send(self, data: bytes, /) -> object: ...

    def close(self) -> None: ...


class ResultItems:
    """An async iterator over the items of an array within a result.

    Items are parsed in a thread while their bytes arrive. Memory is only needed for the items that
    the caller has not received yet.
    """

    def __init__(self, stream: ResultStream, prefix: str, *, job_id: str, max_bytes: int) -> None:
        """Create an iterator; only `ResultFetcher.items` calls this.

        Args:
            stream: The bytes of the result.
            prefix: Path to one item of the array, as `ResultFetcher.items` describes it.
            job_id: The job, for errors.
            max_bytes: Largest allowed size of one item, in bytes.

        Raises:
            ConfigurationError: ijson is not installed.
        """
        self._stream = stream
        self._builder = ItemBuilder(prefix)
        self._job_id = job_id
        self._max_bytes = max_bytes
        self._ijson = _import_ijson()
        self._events: list[_Event] = self._ijson.sendable_list()
        self._parser: _Parser = self._ijson.basic_parse_coro(self._events)
        self._held = 0  # bytes in memory of an item or a long text that is not complete yet
        self._lengths = TokenLengths()
        # The event of the long text that is being read, and this text.
        self._long: tuple[str, LongText] | None = None
        self._rest = b""  # bytes of an escape or a character whose end has not arrived
        # First bytes of the text that may be the beginning of a byte order mark; None after that.
        self._start: bytes | None = b""
        self._left_in_step = _ITEMS_PER_STEP
        self._ended = False
        # A thread parses the last chunk, or has parsed it while the caller was cancelled.
        self._parsing: asyncio.Future[None] | None = None

    def __aiter__(self) -> Self:
        """Return the iterator itself."""
        return self

    async def __anext__(self) -> Json:
        """Return the next item. If this is cancelled, the next call continues, and skips nothing.

        Raises:
            ResultMalformedError: The result is not JSON, or contains nothing at the path `prefix`.
            ResultTooLargeError: One item is larger than `max_result_bytes`.
            AdePollError: As for `ResultStream`.
        """
        items = self._builder.items
        self._left_in_step -= 1
        if not self._left_in_step:
            self._left_in_step = _ITEMS_PER_STEP
            await asyncio.sleep(0)
        while not items:
            if self._ended:
                raise StopAsyncIteration
            try:
                await self._parse_next()
            except asyncio.CancelledError:
                raise
            except BaseException:
                self._ended = True
                raise
        return items.popleft()

    async def _parse_next(self) -> None:
        """Receive the next bytes, and parse them in a thread."""
        if self._parsing is None:
            chunk = await anext(self._stream, b"")
            self._parsing = start_in_thread(self._parse, chunk)
        await wait_until_done(self._parsing)
        parsing, self._parsing = self._parsing, None
        parsing.result()

    def _parse(self, chunk: bytes) -> None:
        """Parse the next bytes (empty at the end), and pass the events to the `ItemBuilder`.

        Raises:
            ResultMalformedError: The bytes are not JSON.
            ResultTooLargeError: An item is too large.
        """
        problem = self._feed(chunk)
        if problem is None and self._held > self._max_bytes:
            raise ResultTooLargeError(job_id=self._job_id, limit=self._max_bytes, what="an item")
        if problem is None and not (chunk or self._builder.is_found):
            problem = "nothing has the path of the items"
        if problem is not None:
            raise ResultMalformedError([f"{problem} @ $"], job_id=self._job_id)
        self._ended = not chunk

    def _feed(self, chunk: bytes) -> str | None:
        """Pass the next bytes to the parser, and its events to the `ItemBuilder`.

        Return the problem if the bytes are not JSON, or have a number that Python cannot convert;
        otherwise None. The problem is not raised here: an error that is raised in an ``except``
        block keeps the error of ijson as its ``__context__``, and that error quotes the document.
        """
        try:
            text = self._rest + self._without_mark(chunk)
            position = 0
            while position < len(text):
                piece = text[position : position + _STEP]
                size = self._read(piece)
                if not size:
                    break
                position += size
            self._rest = text[position:]
            if not chunk:
                if self._rest or self._long is not None:
                    return "expected JSON"
                self._parser.close()
                self._take_events(0)
        except SystemError:  # ijson ignores the error with which Python refuses a long number
            return "a number has too many digits"
        except ArithmeticError:  # of `Decimal`: an exponent has more than 18 digits
            return "a number is out of range"
        except ValueError as exc:
            return str(exc)
        except self._ijson.JSONError:
            return "expected JSON"
        return None

    def _read(self, piece: bytes) -> int:
        """Read the next bytes; return how many were read: 0 if more must arrive first.

        Raises:
            ValueError: The bytes are not usable JSON.
        """
        if self._long is None and self._lengths.text > _LONG:
            self._begin_long_text()
        if self._long is not None:
            return self._read_long_text(*self._long, piece)
        size = self._lengths.read(piece)
        if size:
            self._parser.send(without_unpaired(piece[:size]))
            self._take_events(size)
        return size

    def _begin_long_text(self) -> None:
        """End the current text for the parser, and begin to read the rest of this text."""
        self._parser.send(b'"')
        event, beginning = self._events.pop()
        text = LongText(str(beginning), is_kept=self._builder.needs_text(event))
        self._long = event, text

    def _read_long_text(self, event: str, text: LongText, piece: bytes) -> int:
        """Read the next bytes of a long text; return how many were read."""
        size = text.read(piece)
        if text.is_kept:
            self._held += size
        if text.is_complete:
            self._long, self._lengths = None, TokenLengths()
            self._events.append((event, text.text()))
            self._take_events(0)
        return size

    def _without_mark(self, chunk: bytes) -> bytes:
        """Return the next bytes (empty at the end) without the byte order mark before the text."""
        if self._start is None:
            return chunk
        text = self._start + chunk
        if chunk and len(text) < len(BOM_UTF8) and BOM_UTF8.startswith(text):
            self._start = text
            return b""
        self._start = None
        return text.removeprefix(BOM_UTF8)

    def _take_events(self, size: int) -> None:
        """Pass the events of the last `size` bytes to the `ItemBuilder`."""
        builder = self._builder
        before = len(builder.items)
        builder.add(self._events)
        self._events.clear()
        is_held = builder.is_within_item and len(builder.items) == before
        self._held = self._held + size if is_held else 0


def _import_ijson() -> Any:
    try:
        return importlib.import_module("ijson")
    except ImportError:
        raise ConfigurationError(f"items() needs ijson; {how_to_install('json')}") from None


def _number(value: Json) -> int | float | str:
    """Return a number as an int or float, and as text if it is too large for a float.

    ijson returns numbers with a fraction or an exponent as `Decimal`. JSON may contain such a large
    number, and a reader may limit the range (RFC 8259, section 6). `ResultFetcher.result` also
    returns a text, because an error would cost all items after the number.
    """
    if isinstance(value, int):
        return value
    number = float(value)
    return str(value) if math.isinf(number) else number
