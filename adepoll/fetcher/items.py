"""ResultItems: walks a large array within a result, one item at a time. Imports stream and threads.

The only importer of ijson, which the extra ``json`` brings.
"""

import importlib
import math
from collections import deque
from collections.abc import Iterable
from typing import Any, Final, Protocol, Self, TypeAlias

from attrs import define, field

from adepoll.api.models import Json
from adepoll.errors import ConfigurationError, ResultMalformedError, ResultTooLargeError
from adepoll.fetcher.stream import ResultStream
from adepoll.fetcher.threads import in_thread

_Event: TypeAlias = tuple[str, Json]

_MOST_DEPTH: Final = 900  # about as much as `result` can read


@define(eq=False)
class Collector:
    """Puts items together from the events of a parser. Pure.

    Attributes:
        wanted: Where the items are: keys joined by dots, ``item`` for what is in an array.
        items: Those that are whole.
    """

    wanted: str
    items: deque[Json] = field(factory=deque, init=False)
    _steps: list[str] = field(factory=list, init=False)  # to where the parser is
    _here: str = field(default="", init=False)  # the same, joined; not kept within an item
    _open: list[dict[str, Json] | list[Json]] = field(factory=list, init=False)  # of an item
    _keys: list[str] = field(factory=list, init=False)  # of those, where the next value goes

    @property
    def is_within(self) -> bool:
        """Whether an item has begun and not ended."""
        return bool(self._open)

    def take(self, events: Iterable[_Event]) -> None:
        """Take the next events in.

        Raises:
            ValueError: It is nested too deeply, or a number is out of range.
        """
        for event, value in events:
            if event == "map_key":
                self._step(value)
            elif event == "start_map":
                self._begin({})
            elif event == "start_array":
                self._begin([])
            elif event in {"end_map", "end_array"}:
                self._end()
            else:
                self._add(_number(value) if event == "number" else value)

    def _step(self, key: str) -> None:
        if self._open:
            self._keys[-1] = key
        else:
            self._steps[-1] = key
            self._here = ".".join(self._steps)

    def _begin(self, container: dict[str, Json] | list[Json]) -> None:
        if len(self._steps) + len(self._open) >= _MOST_DEPTH:
            raise ValueError("nested too deeply")
        if self._open or self._here == self.wanted:
            self._open.append(container)
            self._keys.append("")
        else:
            self._steps.append("item" if isinstance(container, list) else "")
            self._here = ".".join(self._steps)

    def _end(self) -> None:
        if self._open:
            self._keys.pop()
            self._add(self._open.pop())
        else:
            self._steps.pop()
            self._here = ".".join(self._steps)

    def _add(self, value: Json) -> None:
        if not self._open:
            if self._here == self.wanted:
                self.items.append(value)
            return
        parent = self._open[-1]
        if isinstance(parent, list):
            parent.append(value)
        else:
            parent[self._keys[-1]] = value


class _Parser(Protocol):
    """What ijson makes: bytes go in here, and events come out in a list."""

    def send(self, data: bytes, /) -> object: ...

    def close(self) -> None: ...


class ResultItems:
    """The items of an array within a result; an async iterator.

    They are parsed in a thread, as they arrive; what has been handed out is not kept.
    """

    def __init__(self, stream: ResultStream, prefix: str, *, job_id: str, most_bytes: int) -> None:
        """Made by `ResultFetcher.items`.

        Raises:
            ConfigurationError: ijson is not installed.
        """
        self._stream = stream
        self._collector = Collector(prefix)
        self._job_id = job_id
        self._most_bytes = most_bytes
        self._ijson = _import_ijson()
        self._events: list[_Event] = self._ijson.sendable_list()
        self._parser: _Parser = self._ijson.basic_parse_coro(self._events)
        self._held = 0  # bytes of an item, or of a string, that has not come to its end
        self._ended = False

    def __aiter__(self) -> Self:
        """Give itself."""
        return self

    async def __anext__(self) -> Json:
        """Give the next item.

        Raises:
            ResultMalformedError: It is no JSON.
            ResultTooLargeError: One item alone is larger than may be held in memory.
            AdePollError: As for `ResultStream`.
        """
        items = self._collector.items
        while not items:
            if self._ended:
                raise StopAsyncIteration
            try:
                chunk = await anext(self._stream, b"")
                self._ended = not chunk
                await in_thread(self._parse, chunk)
            except BaseException:
                self._ended = True
                raise
        return items.popleft()

    def _parse(self, chunk: bytes) -> None:
        events, collector = self._events, self._collector
        problem = "expected JSON @ $"
        try:
            if chunk:
                self._parser.send(chunk)
            else:
                self._parser.close()
            self._held = 0 if events and not collector.is_within else self._held + len(chunk)
            collector.take(events)
            events.clear()
        except ValueError as exc:
            problem = f"{exc} @ $"
        except self._ijson.JSONError:
            pass  # it quotes the document
        else:
            if collector.items:
                self._held = 0
            if self._held > self._most_bytes:
                raise ResultTooLargeError(
                    job_id=self._job_id, limit=self._most_bytes, what="an item"
                )
            return
        raise ResultMalformedError([problem], job_id=self._job_id)


def _import_ijson() -> Any:
    try:
        return importlib.import_module("ijson")
    except ImportError:
        message = "items() needs ijson, which is not installed: pip install 'adepoll[json]'"
        raise ConfigurationError(message) from None


def _number(value: Json) -> int | float:
    """Give a number as `result` would: ijson reads fractions as decimals."""
    if isinstance(value, int):
        return value
    number = float(value)
    if math.isinf(number):
        raise ValueError("a number is out of range")
    return number
