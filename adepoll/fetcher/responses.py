"""The response of a storage: whole, a range, or an error, and its body (RFC 9110, 13 to 15).

A response that does not match the request raises here, before any byte of it is used.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress
from datetime import UTC, datetime
from functools import partial
from typing import Final, Generic, Protocol, TypeAlias, TypeVar

import aiohttp
from attrs import frozen

from adepoll.api.retry_after import parse_retry_after
from adepoll.api.service_clock import parse_http_date
from adepoll.api.transport_errors import describe
from adepoll.common.redaction import showable
from adepoll.errors import ResultError, ResultMalformedError, ResultTransferError
from adepoll.fetcher.body_decoding import Chunk, Decoder, Read, ReadChunk
from adepoll.fetcher.buffered_body import take_over
from adepoll.fetcher.patience import TransferRetries
from adepoll.fetcher.storage_rules import (
    CODINGS,
    RANGE_NOT_SATISFIABLE,
    UNSUPPORTED_CODINGS,
    ObjectVersion,
    Range,
    error_for,
    parse_content_range,
)

_ChunkT = TypeVar("_ChunkT", bound=Chunk)

TakeOver: TypeAlias = Callable[[], tuple[list[bytes], ReadChunk | None]]
"""Returns the bytes already received, and a function that reads the rest in large blocks."""

_OK: Final = 200
_PARTIAL: Final = 206
_PRECONDITION_FAILED: Final = 412
_MAX_ERROR_BODY: Final = 4096
_BEFORE_JSON: Final = b"\xef\xbb\xbf \t\r\n"  # the byte order mark of UTF-8, and whitespace
MAX_WHITESPACE: Final = 2**16
"""Bytes of whitespace in a row: JSON allows any number, so a body of it need never end."""
MAX_ERROR_PAGE: Final = 2**20
"""Bytes of a body that can be the error page of a gateway, and is requested again."""


class ObjectChangedError(Exception):
    """The storage has another version of the object than the requested one."""


class RangePastEndError(ObjectChangedError):
    """The object ends before the requested range: it has changed, or was never longer.

    Attributes:
        size: Size of the object in bytes.
    """

    def __init__(self, size: int) -> None:
        super().__init__(f"it has {size} bytes")
        self.size = size


class UnusableRangeError(ResultMalformedError):
    """The response to a range request is not the requested range.

    Internal: the caller requests the whole result instead, or raises `as_public`.
    """

    def as_public(self) -> ResultMalformedError:
        """Return the same error as a public type."""
        return ResultMalformedError(self.problems, job_id=self.job_id)


class TooSlowError(TimeoutError):
    """The bytes of a body arrive below the minimum rate."""


class PacedReader(Generic[_ChunkT]):
    """Reads a body, and raises if it arrives below a minimum rate.

    Only time spent waiting for bytes counts.
    """

    def __init__(
        self, read: Callable[[], Awaitable[_ChunkT]], *, period: float, min_rate: float
    ) -> None:
        """`min_rate` is in bytes per second, averaged over `period` seconds."""
        self._read = read
        self._period = period
        self._min_rate = min_rate
        self._time = asyncio.get_running_loop().time
        self._waited = 0.0
        self._received = 0

    async def read(self) -> _ChunkT:
        """Return the next bytes, none at the end; raises `TooSlowError`."""
        started = self._time()
        async with asyncio.timeout(self._period):  # chunk extensions can arrive without end
            chunk = await self._read()
        self._waited += self._time() - started
        self._received += len(chunk)
        if self._waited >= self._period:
            if chunk and self._received < self._min_rate * self._waited:
                message = f"the storage sends less than {self._min_rate:g} bytes a second"
                raise TooSlowError(message)
            self._waited = 0.0
            self._received = 0
        return chunk


class ResponseBody:
    """The body of one response, while it is read.

    Attributes:
        version: Version of the whole object, as this response states it.
        start: Offset of the body's first byte in the object.
        stop: Offset after the body's last byte; None if not known.
        is_partial: True if the storage serves byte ranges of the object.
    """

    def __init__(
        self,
        read: Read,
        *,
        job_id: str,
        version: ObjectVersion,
        start: int = 0,
        stop: int | None = None,
        is_partial: bool = False,
        coding: str = "",
        take_over: TakeOver | None = None,
    ) -> None:
        """Create a body; the class documents the attributes.

        Args:
            read: Returns the next bytes, none at the end.
            job_id: The job, for errors.
            version: Sets the attribute, as do `start`, `stop` and `is_partial`.
            start: See `version`.
            stop: See `version`.
            is_partial: See `version`.
            coding: Content coding of the body if it may be one that cannot be decoded.
            take_over: Serves `read_in_blocks`.
        """
        self.version = version
        self.start = start
        self.stop = stop
        self.is_partial = is_partial
        self._job_id = job_id
        self._read = read
        self._coding = coding
        self._take_over = take_over
        self._position = start
        self._unread: list[bytes] = []  # received chunks, the next one last
        self._is_checked = start > 0

    async def begin(self) -> None:
        """Read until the first byte shows whether this is a result; do nothing in its middle.

        Raises:
            ResultMalformedError: It is not a JSON object but, for example, a page of a gateway.
            ResultTransferError: As for `read`; or the body is empty.
        """
        if self._is_checked:
            return
        chunks = []
        text = b""
        while not text and (chunk := await self._receive(self._read)):
            chunks.append(chunk)
            text = chunk.lstrip(_BEFORE_JSON)
            if self._position > MAX_WHITESPACE and not text:
                raise ResultMalformedError(["endless whitespace @ $"], job_id=self._job_id)
        is_whole = self.stop == self.version.size  # a short range may be whitespace only
        if not text and is_whole:
            reason = "the bytes ended within the result"
            raise ResultTransferError(
                reason,
                job_id=self._job_id,
                received=self._position,
                expected=None,
                is_object_at_fault=True,
            )
        if text and not text.startswith(b"{"):
            problem = "expected an object @ $"
            if self._coding:
                problem = f"unsupported content encoding {showable(self._coding, 20)} @ $"
            raise ResultMalformedError([problem], job_id=self._job_id)
        self._unread = chunks[::-1]
        self._is_checked = True

    def put_back(self, chunk: bytes) -> None:
        """Put bytes back, so that the next `read` returns them."""
        self._unread.append(chunk)

    async def read(self) -> bytes:
        """Return the next bytes, none at the end.

        Raises:
            ResultMalformedError: As for `begin`, which is called if it was not.
            ResultTransferError: The connection broke or stalled, or the body does not have the
                announced length.
        """
        if not self._is_checked:
            await self.begin()
        return self._unread.pop() if self._unread else await self._receive(self._read)

    def read_in_blocks(self) -> ReadChunk:
        """Return a faster replacement for `read`, for large bodies.

        It may read directly from the connection, which then cannot be reused.
        """
        if self._take_over is None or not self._is_checked:
            return self.read
        received, read = self._take_over()
        self._take_over = None
        self._position += sum(map(len, received))
        self._unread[:0] = received[::-1]
        return self.read if read is None else partial(self._read_block, read)

    async def _read_block(self, read: ReadChunk) -> Chunk:
        return self._unread.pop() if self._unread else await self._receive(read)

    async def _receive(self, read: Callable[[], Awaitable[_ChunkT]]) -> _ChunkT:
        try:
            chunk = await read()
        except TooSlowError as exc:
            reason = str(exc)
        except TimeoutError:
            reason = "the storage stopped sending"
        except (aiohttp.ClientError, OSError) as exc:
            reason = describe(exc)
        else:
            self._position += len(chunk)
            stop = self.stop
            if stop is None or self._position == stop or (chunk and self._position < stop):
                return chunk
            reason = "more bytes than announced" if chunk else "fewer bytes than announced"
        raise ResultTransferError(
            reason, job_id=self._job_id, received=self._position, expected=self.version.size
        )


class RemoteResult(Protocol):
    """A result that can be requested any number of times.

    Attributes:
        job_id: The job.
        retries: Limits the failures of this transfer.
    """

    job_id: str
    retries: TransferRetries

    def open(
        self, *, requested: Range | None = None, version: ObjectVersion | None = None
    ) -> AbstractAsyncContextManager[ResponseBody]:
        """Request a range, or the whole; raises as `StorageClient.open` does."""


@frozen
class ResponseInterpreter:
    """Compares responses with what was requested for one job.

    Attributes:
        job_id: The job.
        period: Longest time without a byte, and the period of `min_rate`, in seconds.
        min_rate: Minimum rate of a body in bytes per second.
    """

    job_id: str
    period: float
    min_rate: float

    async def interpret(
        self, response: aiohttp.ClientResponse, url: str, requested: Range | None
    ) -> ResponseBody:
        """Return the body of a response that matches the request.

        Raises:
            ObjectChangedError, UnusableRangeError, ResultError: As `StorageClient.open` says.
        """
        status = response.status
        if status == _OK:
            return self.whole(response)
        if status == _PARTIAL:
            return self._range(response, requested)
        if status == _PRECONDITION_FAILED and requested is not None:
            raise ObjectChangedError
        if status == RANGE_NOT_SATISFIABLE and requested is not None:
            size = parse_content_range(response.headers.get("Content-Range", ""))[2]
            if size is not None and size < requested.start:
                raise RangePastEndError(size)
            if size == requested.start:
                return ResponseBody(
                    _read_nothing,
                    job_id=self.job_id,
                    version=ObjectVersion(size, response.headers.get("ETag")),
                    start=size,
                    stop=size,
                    is_partial=True,
                )
        raise await self._error(response, url)

    def whole(self, response: aiohttp.ClientResponse, *, was_encoded: bool = False) -> ResponseBody:
        """Return the body of a response with the whole object.

        Args:
            response: The response.
            was_encoded: True if the session has decoded the body, so that its headers do not
                describe it.
        """
        read = self._paced(response)
        if was_encoded:
            return ResponseBody(read, job_id=self.job_id, version=ObjectVersion())
        codings = _codings(response)
        # Storages name codings that they have not applied, so the bytes decide.
        unsupported = [coding for coding in codings if coding in UNSUPPORTED_CODINGS]
        if is_decoded := not CODINGS.isdisjoint(codings):
            for coding in reversed(codings):
                if coding in CODINGS:
                    read = Decoder(read, job_id=self.job_id).read
        # Length and ranges of the response refer to the encoded bytes, so both are ignored.
        length = None if is_decoded else response.content_length
        version = ObjectVersion(length, None if is_decoded else response.headers.get("ETag"))
        return ResponseBody(
            read,
            job_id=self.job_id,
            version=version,
            stop=length,
            coding=unsupported[0] if unsupported else "",
        )

    def _range(self, response: aiohttp.ClientResponse, requested: Range | None) -> ResponseBody:
        start, stop, size = parse_content_range(response.headers.get("Content-Range", ""))
        if requested is None:
            problem = "a byte range instead of the whole result @ $"
        elif not (CODINGS | UNSUPPORTED_CODINGS).isdisjoint(_codings(response)):
            problem = "an encoded byte range @ $"
        elif (
            size is None
            or (start, stop) != (requested.start, min(requested.stop or size, size))
            or response.content_length not in {None, stop - start}
        ):
            problem = "another byte range than the requested one @ $"
        else:
            return ResponseBody(
                self._paced(response),
                job_id=self.job_id,
                version=ObjectVersion(size, response.headers.get("ETag")),
                start=start,
                stop=stop,
                is_partial=True,
                take_over=partial(self._take_over, response),
            )
        raise UnusableRangeError([problem], job_id=self.job_id)

    def _paced(self, response: aiohttp.ClientResponse) -> Read:
        read = response.content.readany
        return PacedReader(read, period=self.period, min_rate=self.min_rate).read

    def _take_over(self, response: aiohttp.ClientResponse) -> tuple[list[bytes], ReadChunk | None]:
        received, body = take_over(response, silence=self.period)
        if body is None:
            return received, None
        return received, PacedReader(body.read, period=self.period, min_rate=self.min_rate).read

    async def _error(self, response: aiohttp.ClientResponse, url: str) -> ResultError:
        body = b""
        with suppress(TimeoutError, aiohttp.ClientError, OSError):
            async with asyncio.timeout(self.period):  # the body could arrive slowly for hours
                while chunk := await response.content.read(_MAX_ERROR_BODY - len(body)):
                    body += chunk
        now = datetime.now(UTC)
        return error_for(
            self.job_id,
            url,
            response.status,
            body,
            now=parse_http_date(response.headers.get("Date", "")) or now,
            retry_after=parse_retry_after(response.headers, now=now),
        )


def _codings(response: aiohttp.ClientResponse) -> list[str]:
    """Return the content codings in the order in which they were applied."""
    values = ",".join(response.headers.getall("Content-Encoding", ()))
    return [coding.strip().lower() for coding in values.split(",")]


async def _read_nothing() -> bytes:
    return b""
