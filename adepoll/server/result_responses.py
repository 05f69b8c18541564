"""HTTP responses whose body is the result of a job, or a range of it."""

import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final, Self
from urllib.parse import quote

from attrs import field, frozen

from adepoll.api.job_kind import JobRef
from adepoll.api.models import JobSnapshot
from adepoll.errors import ResultRangeError
from adepoll.fetcher import ResultFetcher, ResultStream
from adepoll.server.byte_ranges import RequestedRange, ResponsePlan, plan_response, read_range

__all__ = ["ResultReply", "reply_with_result"]

_NOT_MODIFIED: Final = 304
_WHOLE: Final = RequestedRange(0)
_FIRST_BYTE: Final = RequestedRange(0, 1)
_NOT_IN_A_TOKEN: Final = re.compile(r"[^A-Za-z0-9._-]")
_MAX_FILENAME_LENGTH: Final = 150  # characters


@frozen(kw_only=True)
class ResultReply:
    """A response whose body is a result or a range of it.

    Attributes:
        status: 200, 206, 304 or 416.
        headers: Headers of the response. Only the ``ETag`` comes from the storage.
        chunks: The body, which can be read once; empty if the response has no body.
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

    The first chunk is read before the reply is yielded, so that most errors occur before a status
    is sent. Most requests need one request to the storage; a second one follows if the first shows
    that the range does not apply.

    Args:
        fetcher: Fetches the result.
        job: A snapshot of the job, a reference, or its id.
        method: Method of the request: GET or HEAD.
        range_header: Its Range header.
        if_range: Its If-Range header.
        if_none_match: Its If-None-Match header.
        filename: Name under which a browser saves the result; None for the job id and ``.json``.

    Raises:
        AdePollError: As for `ResultFetcher.stream`, on entering or while the chunks are read;
            never `ResultRangeError`, which becomes the status 416.
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
    if requested.stop == 0:  # the last 0 bytes: only the size is needed
        requested = _FIRST_BYTE
    async with AsyncExitStack() as stack:
        while True:
            body = _Body(requested)
            try:
                await body.open(stack, fetcher, job)
                size, etag = body.stream.size, body.stream.etag
            except ResultRangeError as error:
                if if_range is not None:  # it may say that the range does not apply
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
            range_header = None  # it does not apply, even if the object changes meanwhile
        headers |= plan.headers
        if _matches(if_none_match, headers.get("ETag")):
            headers.pop("Content-Length", None)
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
    """The chunks of a stream whose first chunk is read in advance."""

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
        """Return True if the stream has exactly the bytes of the plan."""
        stream = self.stream
        if plan.part is None:
            # If the size is unknown, only the requested range can be compared.
            return self._requested == _WHOLE or (stream.start, stream.stop) == (
                0,
                stream.size or -1,
            )
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
    """Return True if ``If-None-Match`` names this ETag, weak or strong (RFC 9110, 13.1.2)."""
    if header is None or etag is None:
        return False
    names = {name.strip().removeprefix("W/") for name in header.split(",")}
    return "*" in names or etag.removeprefix("W/") in names


def attachment(filename: str) -> str:
    """Return a ``Content-Disposition`` for any file name (RFC 6266, 2011, appendix D)."""
    name = filename[-_MAX_FILENAME_LENGTH:]
    plain = _NOT_IN_A_TOKEN.sub("_", name)
    extended = f"; filename*=UTF-8''{quote(name, safe='', errors='replace')}"
    return f'attachment; filename="{plain}"{"" if plain == name else extended}'
