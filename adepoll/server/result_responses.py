"""Makes HTTP responses whose body is the result of a job, or a range of it."""

import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final, Self
from urllib.parse import quote

from attrs import field, frozen

from adepoll.api.job_kind import JobRef
from adepoll.api.models import JobSnapshot
from adepoll.common.safe_repr import SafeRepr
from adepoll.errors import ResultRangeError
from adepoll.fetcher import ResultFetcher, ResultStream
from adepoll.server.byte_ranges import RequestedRange, ResponsePlan, plan_response, read_range

__all__ = ["ResultReply", "reply_with_result"]

_NOT_MODIFIED: Final = 304
_WHOLE: Final = RequestedRange(0)
_FIRST_BYTE: Final = RequestedRange(0, 1)
_NOT_IN_A_TOKEN: Final = re.compile(r"[^A-Za-z0-9._-]")
_OPAQUE_TAG: Final = re.compile(r'"[^"]*"')  # an ETag without ``W/`` (RFC 9110, section 8.8.3)
_MAX_FILENAME_LENGTH: Final = 150  # characters


@frozen(kw_only=True)
class ResultReply(SafeRepr):
    """A response whose body is a result or a range of it.

    Attributes:
        status: 200, 206, 304 or 416.
        headers: Headers of the response. Of the headers of the storage, only ``ETag`` is passed on.
        chunks: The body, which can be read only once; empty if the response has no body.
        has_body: False for HEAD requests and for the status 304 or 416.
    """

    status: int
    headers: Mapping[str, str]
    chunks: AsyncIterator[bytes] = field(repr=False)
    has_body: bool


@asynccontextmanager
async def reply_with_result(
    fetcher: ResultFetcher,
    job: JobSnapshot | JobRef | str,
    *,
    method: str = "GET",
    range_header: str | None = None,
    if_range: str | None = None,
    if_none_match: str | None = None,
    filename: str | None = None,
) -> AsyncGenerator[ResultReply, None]:
    """Open the result of a job as the response to a request, in constant memory.

    The first chunk is read before the reply is yielded, so that most errors are raised before a
    status is sent. Usually, one request to the storage is enough. A second request, for the whole
    result, follows if the requested range must not be sent, for example because If-Range names
    another ETag.

    Args:
        fetcher: Fetches the result.
        job: A snapshot of the job, a `JobRef`, or its id.
        method: Method of the request: GET or HEAD.
        range_header: The header Range of the request; None if it has none.
        if_range: The header If-Range of the request; None if it has none.
        if_none_match: The header If-None-Match of the request; None if it has none.
        filename: Name under which a browser saves the result; None for the job id and ``.json``.

    Raises:
        AdePollError: An error of `ResultFetcher.stream`, raised at the start of the block or while
            the chunks are read. `ResultRangeError` is not raised: it becomes the status 416.
    """
    if not isinstance(job, JobSnapshot):
        job = JobRef.of(job)
    headers = {
        "Content-Type": "application/json",
        "Content-Disposition": attachment(f"{job.job_id}.json" if filename is None else filename),
        "Cache-Control": "private, no-cache",
        "X-Content-Type-Options": "nosniff",
    }
    is_get = method.upper() == "GET"
    requested = (read_range(range_header) if is_get else _FIRST_BYTE) or _WHOLE
    if requested.stop == 0:
        # The client asks for the last 0 bytes. The response only needs the size of the result, and
        # the response to any range states the size.
        requested = _FIRST_BYTE
    async with AsyncExitStack() as stack:
        while True:
            body = _Body(requested)
            try:
                await body.open(stack, fetcher, job)
                size, etag = body.stream.size, body.stream.etag
            except ResultRangeError as error:
                if if_range is not None:  # If-Range may demand the whole result
                    requested = _WHOLE
                    continue
                size, etag = error.size, None
            plan = plan_response(
                method, range_header=range_header, if_range=if_range, size=size, etag=etag
            )
            if not plan.has_body or body.covers(plan):
                break
            await stack.aclose()
            requested = _WHOLE
            range_header = None  # the response is the whole result, even if the object changes
        headers |= plan.headers
        if _matches(if_none_match, headers.get("ETag")):
            for name in ("Content-Length", "Content-Range"):
                headers.pop(name, None)
            yield ResultReply(
                status=_NOT_MODIFIED, headers=headers, chunks=_EmptyBody(), has_body=False
            )
        else:
            yield ResultReply(
                status=plan.status,
                headers=headers,
                chunks=body if plan.has_body else _EmptyBody(),
                has_body=plan.has_body,
            )


class _Body:
    """The chunks of a stream; the first chunk is read when the stream is opened."""

    stream: ResultStream

    def __init__(self, requested: RequestedRange) -> None:
        self._requested = requested
        self._first = b""

    async def open(
        self, stack: AsyncExitStack, fetcher: ResultFetcher, job: JobSnapshot | JobRef
    ) -> None:
        opening = fetcher.stream(job, start=self._requested.start, stop=self._requested.stop)
        self.stream = await stack.enter_async_context(opening)
        self._first = await anext(self.stream, b"")

    def covers(self, plan: ResponsePlan) -> bool:
        """Return True if the opened stream has exactly the bytes that `plan` wants to send."""
        stream = self.stream
        if plan.part is None:
            # A stream of a range can be the whole result.
            return self._requested == _WHOLE or (stream.start, stream.stop) == (0, stream.size)
        return (stream.start, stream.stop) == (plan.start, plan.stop)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        chunk, self._first = self._first, b""
        if chunk:
            return chunk
        return await anext(self.stream)


class _EmptyBody:
    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        raise StopAsyncIteration


def _matches(header: str | None, etag: str | None) -> bool:
    """Return True if the header ``If-None-Match`` contains this ETag or ``*``.

    False if the result has no ETag. Weak and strong ETags are not distinguished (RFC 9110, section
    13.1.2).
    """
    if header is None or etag is None:
        return False
    # Not `split(",")`, because an ETag may contain a comma.
    return header.strip() == "*" or etag.removeprefix("W/") in _OPAQUE_TAG.findall(header)


def attachment(filename: str) -> str:
    """Return the header ``Content-Disposition`` for any file name (RFC 6266, 2011, appendix D)."""
    name = filename[-_MAX_FILENAME_LENGTH:]
    plain = _NOT_IN_A_TOKEN.sub("_", name)
    extended = f"; filename*=UTF-8''{quote(name, safe='', errors='replace')}"
    return f'attachment; filename="{plain}"{"" if plain == name else extended}'
