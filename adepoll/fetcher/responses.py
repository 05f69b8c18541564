"""Interprets the status and the headers of a storage's response, for storages of all vendors.

A response contains a whole object, a range of it, or an error. If it does not match its request,
the functions raise before any byte of its body is used (RFC 9110, sections 13 to 15).
"""

import asyncio
import math
import re
import zlib
from contextlib import AbstractAsyncContextManager, suppress
from datetime import UTC, datetime
from functools import partial
from typing import Final, Protocol

import aiohttp
from attrs import frozen

from adepoll.api.body_decoding import (
    CODINGS,
    UNSUPPORTED_CODINGS,
    Read,
    ReadChunk,
    codings_in,
    decoded,
)
from adepoll.api.retry_after import parse_retry_after
from adepoll.api.service_clock import parse_http_date
from adepoll.errors import ResultError, ResultMalformedError
from adepoll.fetcher.buffered_body import BlockPool, take_over
from adepoll.fetcher.patience import TransferRetries
from adepoll.fetcher.response_body import PacedReader, ResponseBody
from adepoll.fetcher.storage_rules import (
    RANGE_NOT_SATISFIABLE,
    ObjectVersion,
    Range,
    error_for,
)

# A proxy that has changed a response sends 203 instead of 200 (RFC 9110, section 15.3.4).
_WHOLE: Final = frozenset({200, 203})
_PARTIAL: Final = 206
_PRECONDITION_FAILED: Final = 412
MAX_ERROR_BODY: Final = 4096
"""Bytes that are read of the body of a response with an error status."""

# Largest number of codings of one body, as in curl. Each of them costs time, memory and stack.
# Seconds. A longer Retry-After, such as a date in the year 2999, is a mistake, and is ignored.
_MAX_RETRY_AFTER: Final = 86_400.0
# Range units are compared without regard to case (RFC 9110, section 14.1).
_CONTENT_RANGE: Final = re.compile(
    r"bytes +(?:(\d{1,19})-(\d{1,19})|\*)/(\d{1,19})", re.ASCII | re.IGNORECASE
)
MAX_ERROR_PAGE: Final = 2**20
"""Bytes of the largest body that may be the error page of a gateway, and is requested again."""


class ObjectChangedError(Exception):
    """The object in storage does not have the requested version."""


class RangePastEndError(ObjectChangedError):
    """The object ends before the requested range begins.

    If an earlier response stated a larger size, the object has changed.

    Attributes:
        size: Size of the object in bytes.
    """

    def __init__(self, size: int) -> None:
        super().__init__(f"it has {size} bytes")
        self.size = size


class UnusableRangeError(ResultMalformedError):
    """The response to a range request is not the requested range.

    This class is internal: the caller catches it and requests the whole result, or raises the error
    that `as_public` returns.
    """

    def as_public(self) -> ResultMalformedError:
        """Return a `ResultMalformedError` with the same problems."""
        return ResultMalformedError(self.problems, job_id=self.job_id)


class RemoteResult(Protocol):
    """A result in a storage or an answer of the API; it can be requested any number of times.

    Attributes:
        job_id: The job.
        retries: Decides whether the transfer of this result goes on after a failure.
    """

    job_id: str
    retries: TransferRetries

    def open(
        self, *, requested: Range | None = None, version: ObjectVersion | None = None
    ) -> AbstractAsyncContextManager[ResponseBody]:
        """Request the result or a range of it, and yield the body of the response.

        Args:
            requested: The range; None for the whole result.
            version: The only version to accept; None accepts any.

        Raises:
            AdePollError: As for `StorageClient.open`.
        """


@frozen
class ResponseInterpreter:
    """Checks that responses about one job match their requests, and returns their bodies.

    Attributes:
        job_id: The job.
        period: Maximum seconds without a byte. The rate of a body is averaged over the same time.
        min_rate: Minimum rate of a body in bytes per second, on average.
    """

    job_id: str
    period: float
    min_rate: float

    async def interpret(
        self, response: aiohttp.ClientResponse, url: str, requested: Range | None
    ) -> ResponseBody:
        """Return the body of a response; raise if the response does not match the request.

        Raises:
            RangePastEndError: The object ends before the range begins.
            ObjectChangedError: The object does not have the requested version.
            UnusableRangeError: The response is not the requested range.
            ResultError: The storage responded with an error status.
        """
        status = response.status
        if status in _WHOLE and requested is not None and "Content-Range" in response.headers:
            return self._range(response, requested)  # some storages send a range with status 200
        if status in _WHOLE:
            return self.whole(response)
        if status == _PARTIAL:
            return self._range(response, requested)
        if status == _PRECONDITION_FAILED and requested is not None:
            raise ObjectChangedError
        if status == RANGE_NOT_SATISFIABLE and requested is not None:
            size = parse_content_range(response.headers.get("Content-Range", ""))[2]
            if size is not None and 0 < size < requested.start:
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

    def whole(self, response: aiohttp.ClientResponse) -> ResponseBody:
        """Return the body of a response that contains the whole object, not only a range of it."""
        codings = codings_in(response.headers.getall("Content-Encoding", ()))
        # Some storages name codings that they have not applied. So an unsupported coding is an
        # error only if the body is not a JSON object.
        unsupported = [coding for coding in codings if coding in UNSUPPORTED_CODINGS]
        read = decoded(self._paced(response), codings, job_id=self.job_id)
        is_encoded = not CODINGS.isdisjoint(codings)
        # Length and ETag of the response describe the encoded bytes. So they are ignored if the
        # body is decoded.
        length = None if is_encoded else response.content_length
        version = ObjectVersion(length, None if is_encoded else response.headers.get("ETag"))
        return ResponseBody(
            read,
            job_id=self.job_id,
            version=version,
            stop=length,
            coding=unsupported[0] if unsupported else "",
        )

    def _range(self, response: aiohttp.ClientResponse, requested: Range | None) -> ResponseBody:
        """Return the body of a response that contains a range of the object.

        Raise `UnusableRangeError` if it is not the requested range. The range of all bytes is the
        whole object.
        """
        start, stop, size = parse_content_range(response.headers.get("Content-Range", ""))
        if requested is None and size and (start, stop) == (0, size):
            return self.whole(response)  # some caches send the whole object as one range
        if requested is None:
            raise self._unusable("a byte range instead of the whole result")
        if not (CODINGS | UNSUPPORTED_CODINGS).isdisjoint(
            codings_in(response.headers.getall("Content-Encoding", ()))
        ):
            raise self._unusable("an encoded byte range")
        if (
            size is None
            or (start, stop) != (requested.start, min(requested.stop or size, size))
            or response.content_length not in {None, stop - start}
        ):
            raise self._unusable("another byte range than the requested one")
        return ResponseBody(
            self._paced(response),
            job_id=self.job_id,
            version=ObjectVersion(size, response.headers.get("ETag")),
            start=start,
            stop=stop,
            is_partial=True,
            take_over=partial(self._take_over, response),
        )

    def _unusable(self, problem: str) -> UnusableRangeError:
        """Return the error for a response whose range does not match its request.

        `problem` says what the response contains, such as "an encoded byte range".
        """
        # In the messages of all malformed results, "@" and a path follow: "$" is the whole result.
        return UnusableRangeError([f"{problem} @ $"], job_id=self.job_id)

    def _paced(self, response: aiohttp.ClientResponse) -> Read:
        read = response.content.readany
        return PacedReader(read, period=self.period, min_rate=self.min_rate).read

    def _take_over(
        self, response: aiohttp.ClientResponse, blocks: BlockPool
    ) -> tuple[list[bytes], ReadChunk | None]:
        """Stop aiohttp from reading the connection, if adepoll can read the body faster.

        Return the bytes that aiohttp has already received, and a function that reads the rest of
        the body. The function is None if aiohttp goes on reading; see `take_over`.
        """
        received, body = take_over(response, silence=self.period, blocks=blocks)
        if body is None:
            return received, None
        return received, PacedReader(body.read, period=self.period, min_rate=self.min_rate).read

    async def _error(self, response: aiohttp.ClientResponse, url: str) -> ResultError:
        """Return the error for a response with an error status."""
        body = b""
        with suppress(TimeoutError, aiohttp.ClientError, OSError):
            # Only a total timeout helps against a body that arrives slowly for hours.
            async with asyncio.timeout(self.period):
                while chunk := await response.content.read(MAX_ERROR_BODY - len(body)):
                    body += chunk
        if body.startswith(b"\x1f\x8b"):  # gzip, although the request did not ask for it
            with suppress(zlib.error):
                body = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(body, MAX_ERROR_BODY)
        now = datetime.now(UTC)
        retry_after = parse_retry_after(response.headers, now=now, longest=math.inf)
        if retry_after is not None and retry_after > _MAX_RETRY_AFTER:
            retry_after = None
        return error_for(
            self.job_id,
            url,
            response.status,
            body,
            now=parse_http_date(response.headers.get("Date", "")) or now,
            retry_after=retry_after,
        )


def parse_content_range(header: str) -> tuple[int, int, int | None]:
    """Return the numbers in a ``Content-Range`` header: start, stop and size, in bytes.

    `stop` is the offset after the last byte. `start` and `stop` are 0 if the header has only a
    size. If the header is malformed, return (0, 0, None).
    """
    found = _CONTENT_RANGE.fullmatch(header.strip())
    if found is None:
        return 0, 0, None
    first, last, size = found.groups()
    return (0, 0, int(size)) if first is None else (int(first), int(last) + 1, int(size))


async def _read_nothing() -> bytes:
    return b""
