"""What a storage answers, understood: the whole, a piece, or a refusal. Imports bulk and below.

RFC 9110, sections 13 to 15: preconditions, ranges, statuses. An answer that is not just what was
asked for is refused here, before a byte of it is used.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from html import unescape
from typing import Final, TypeAlias, TypeVar
from urllib.parse import unquote, urlsplit

import aiohttp
from attrs import frozen

from adepoll.api.transport import describe
from adepoll.errors import (
    ResultError,
    ResultExpiredError,
    ResultForbiddenError,
    ResultMalformedError,
    ResultRefusedError,
    ResultServerError,
    ResultTransferError,
)
from adepoll.fetcher.bulk import take_over
from adepoll.fetcher.reading import Chunk, Decoder, Pace, Read, TooSlowError
from adepoll.redaction import REDACTED, showable

_ChunkT = TypeVar("_ChunkT", bound=Chunk)

Rush: TypeAlias = Callable[[], tuple[list[bytes], Callable[[], Awaitable[Chunk]] | None]]
"""Gives what has come of a body already, and what reads the rest of it with less work."""

_OK: Final = 200
_PARTIAL: Final = 206
_CHANGED: Final = 412
OUT_OF_RANGE: Final = 416
"""The status of a storage that has nothing of a range."""
_MAY_MEAN_EXPIRED: Final = frozenset({400, 401, 403})
_PASSING: Final = frozenset({408, 429})
_CODINGS: Final = frozenset({"gzip", "x-gzip", "deflate"})
_ERROR_BODY: Final = 4096
MOST_BLANKS: Final = 2**16
"""Blanks in a row: JSON allows any number, and a body of them need never end."""


@frozen
class Version:
    """Which object it is that the storage has.

    Attributes:
        size: Its bytes; None where the storage does not say, or says it of what it encoded.
        etag: What the storage calls it; None where it has no name for it.
    """

    size: int | None = None
    etag: str | None = None

    @property
    def is_strong(self) -> bool:
        """Whether bytes of two answers belong together if both have this tag.

        A weak tag says no more than that they mean the same (RFC 9110, section 8.8.3).
        """
        return self.etag is not None and self.etag[:2] not in {"", "W/"}

    def differs(self, other: "Version") -> bool:
        """Whether it is certainly another object."""
        return (None not in {self.size, other.size} and self.size != other.size) or (
            None not in {self.etag, other.etag} and self.etag != other.etag
        )


@frozen
class Range:
    """The bytes that are asked for.

    Attributes:
        start: The first.
        stop: The one after the last; None for all there are.
    """

    start: int
    stop: int | None = None

    def __str__(self) -> str:
        """As the header field says it, which counts the last byte in."""
        return f"bytes={self.start}-{'' if self.stop is None else self.stop - 1}"


class ChangedError(Exception):
    """The storage has another object than the one that was asked for."""


class PastEndError(ChangedError):
    """The object ends before the range that was asked for: it is another one, or never was longer.

    Attributes:
        size: Bytes of the object.
    """

    def __init__(self, size: int) -> None:
        super().__init__(f"it has {size} bytes")
        self.size = size


class NoRangeError(ResultMalformedError):
    """A range was answered with something that is no piece of the result.

    Those who ask for ranges can do without them; nobody else gets to see this.
    """

    def as_public(self) -> ResultMalformedError:
        """Give it as an error that users know."""
        return ResultMalformedError(self.problems, job_id=self.job_id)


class Answer:
    """The body of one answer, being read.

    Attributes:
        version: Of the whole object, as this answer has it.
        start: Where the first byte of the body stands in the object.
        stop: Where the one after the last does; None where that is not known.
        is_piece: Whether it was given as a part, and other parts can be asked for.
    """

    def __init__(
        self,
        read: Read,
        *,
        job_id: str,
        version: Version,
        start: int = 0,
        stop: int | None = None,
        is_piece: bool = False,
        rush: Rush | None = None,
    ) -> None:
        """`read` gives the next bytes, none at the end; `rush` is what `hurry` does."""
        self.version = version
        self.start = start
        self.stop = stop
        self.is_piece = is_piece
        self._job_id = job_id
        self._read = read
        self._rush = rush
        self._rushed: Callable[[], Awaitable[Chunk]] | None = None
        self._at = start
        self._ahead: list[bytes] = []
        self._is_checked = start > 0

    async def begin(self) -> None:
        """Read on until it shows whether this is a result, if it is the beginning of one.

        Raises:
            ResultMalformedError: It is none: a page of a gateway, most likely.
            ResultTransferError: As for `read`; or there is nothing in it.
        """
        if self._is_checked:
            return
        ahead = []
        begun = b""
        while not begun and (chunk := await self._take(self._read)):
            ahead.append(chunk)
            begun = chunk.lstrip()
            if self._at > MOST_BLANKS and not begun:
                raise ResultMalformedError(["blanks without end @ $"], job_id=self._job_id)
        ends_early = self.stop != self.version.size  # a small piece may be blank
        if not begun and not ends_early:
            reason = "the bytes ended within the result"
            raise ResultTransferError(reason, job_id=self._job_id, received=self._at, expected=None)
        if begun and not begun.startswith(b"{"):
            raise ResultMalformedError(["expected an object @ $"], job_id=self._job_id)
        self._ahead = ahead[::-1]
        self._is_checked = True

    def put_back(self, chunk: bytes) -> None:
        """Make bytes that were read the next to be read."""
        self._ahead.append(chunk)

    async def read(self) -> bytes:
        """Give the next bytes, none at the end.

        Raises:
            ResultMalformedError: As for `begin`, which is done here if it was not.
            ResultTransferError: The connection broke or stalled, or the body has not the length
                that was announced.
        """
        if not self._is_checked:
            await self.begin()
        return self._ahead.pop() if self._ahead else await self._take(self._read)

    def hurry(self) -> None:
        """Have the rest come with less work, if it is long; from now on use `read_bulk` alone.

        It then takes the connection with it.
        """
        if self._rush is not None and self._is_checked:
            come, self._rushed = self._rush()
            for chunk in come:
                self._at += len(chunk)
            self._ahead[:0] = come[::-1]
            self._rush = None

    async def read_bulk(self) -> Chunk:
        """Give the next bytes, as `read` does, in few large pieces where `hurry` was called."""
        if self._rushed is None or self._ahead:
            return await self.read()
        return await self._take(self._rushed)

    async def _take(self, read: Callable[[], Awaitable[_ChunkT]]) -> _ChunkT:
        try:
            chunk = await read()
        except TooSlowError as exc:
            reason = str(exc)
        except TimeoutError:
            reason = "the storage fell silent"
        except (aiohttp.ClientError, OSError) as exc:
            reason = describe(exc)
        else:
            self._at += len(chunk)
            if self.stop is None or (self._at == self.stop or (chunk and self._at < self.stop)):
                return chunk
            reason = "the bytes went on" if chunk else "the bytes ended too early"
        raise ResultTransferError(
            reason, job_id=self._job_id, received=self._at, expected=self.version.size
        )


@frozen
class Interpreter:
    """Makes sense of answers to what was asked for one job.

    Attributes:
        job_id: The job.
        period: Seconds over which bytes must come fast enough.
        least: Fewest of them a second.
    """

    job_id: str
    period: float
    least: float

    async def interpret(
        self, response: aiohttp.ClientResponse, url: str, asked: Range | None
    ) -> Answer:
        """Give the answer, if it is one to what was asked.

        Raises:
            ChangedError, NoRangeError, ResultError: As `Storage.open` says.
        """
        status = response.status
        if status == _OK:
            return self._whole(response)
        if status == _PARTIAL:
            return self._piece(response, asked)
        if status == _CHANGED and asked is not None:
            raise ChangedError
        if status == OUT_OF_RANGE and asked is not None:
            total = _content_range(response)[2]
            if total is not None and total < asked.start:
                raise PastEndError(total)
            if total == asked.start:
                version = Version(total, response.headers.get("ETag"))
                return Answer(
                    _nothing,
                    job_id=self.job_id,
                    version=version,
                    start=total,
                    stop=total,
                    is_piece=True,
                )
        raise await _refusal(self.job_id, url, response, self.period)

    def _whole(self, response: aiohttp.ClientResponse) -> Answer:
        read = self._pace(response)
        coding = _coding(response)
        if coding in _CODINGS:
            # Its length and its parts are those of what was encoded: nothing that we could use.
            decoder = Decoder(read, job_id=self.job_id)
            return Answer(decoder.read, job_id=self.job_id, version=Version())
        if coding != "identity":
            problem = f"it came encoded as {showable(coding, 20)} @ $"
            raise ResultMalformedError([problem], job_id=self.job_id)
        length = response.content_length
        version = Version(length, response.headers.get("ETag"))
        return Answer(read, job_id=self.job_id, version=version, stop=length)

    def _piece(self, response: aiohttp.ClientResponse, asked: Range | None) -> Answer:
        start, stop, total = _content_range(response)
        if asked is None:
            problem = "a piece came where all was asked for @ $"
        elif _coding(response) != "identity":
            problem = "a piece came encoded @ $"
        elif (
            total is None
            or (start, stop) != (asked.start, min(asked.stop or total, total))
            or response.content_length not in {None, stop - start}
        ):
            problem = "another piece came than was asked for @ $"
        else:
            version = Version(total, response.headers.get("ETag"))
            return Answer(
                self._pace(response),
                job_id=self.job_id,
                version=version,
                start=start,
                stop=stop,
                is_piece=True,
                rush=partial(self._take_over, response),
            )
        raise NoRangeError([problem], job_id=self.job_id)

    def _pace(self, response: aiohttp.ClientResponse) -> Read:
        return Pace(response.content.readany, period=self.period, least=self.least).read

    def _take_over(
        self, response: aiohttp.ClientResponse
    ) -> tuple[list[bytes], Callable[[], Awaitable[Chunk]] | None]:
        come, body = take_over(response, silence=self.period)
        if body is None:
            return come, None
        return come, Pace(body.read, period=self.period, least=self.least).read


def _coding(response: aiohttp.ClientResponse) -> str:
    return (response.headers.get("Content-Encoding") or "identity").strip().lower()


_CONTENT_RANGE: Final = re.compile(r"bytes (?:(\d{1,19})-(\d{1,19})|\*)/(\d{1,19})", re.ASCII)


def _content_range(response: aiohttp.ClientResponse) -> tuple[int, int, int | None]:
    """Read a Content-Range: start, stop and size; (0, 0, None) where it makes no sense."""
    found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
    if found is None:
        return 0, 0, None
    first, last, total = found.groups()
    return (0, 0, int(total)) if first is None else (int(first), int(last) + 1, int(total))


async def _nothing() -> bytes:
    return b""


_MESSAGE: Final = re.compile(rb"<Message>(.*?)</Message>", re.DOTALL)
_LEAST_SECRET: Final = 20  # shorter values are dates, numbers and names of algorithms


async def _refusal(
    job_id: str, url: str, response: aiohttp.ClientResponse, patience: float
) -> ResultError:
    """Give the error of a status that is no success, with what the storage said so far."""
    body = b""
    with suppress(TimeoutError, aiohttp.ClientError, OSError):
        async with asyncio.timeout(patience):  # or it could trickle for hours
            while piece := await response.content.read(_ERROR_BODY - len(body)):
                body += piece
    status = response.status
    said = _MESSAGE.search(body)
    detail = unescape((said[1] if said else b"").decode("utf-8", "replace"))
    detail = showable(_without_query(detail, url), 200)
    cls: type[ResultRefusedError] = ResultRefusedError
    if status in _MAY_MEAN_EXPIRED:
        cls = ResultExpiredError if b"expired" in body.lower() else ResultForbiddenError
    elif status in _PASSING or status >= 500:  # noqa: PLR2004 - a class of HTTP statuses
        cls = ResultServerError
    return cls(job_id=job_id, status=status, detail=detail, url=url)


def _without_query(text: str, url: str) -> str:
    """Take out what the text quotes of the URL's query: that is where its secrets are."""
    for pair in urlsplit(url).query.split("&"):
        value = pair.partition("=")[2]
        for quoted in (value, unquote(value)):
            if len(quoted) >= _LEAST_SECRET:
                text = text.replace(quoted, REDACTED)
    return text
