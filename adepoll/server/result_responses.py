"""A result passed on to who asks a server for it, or a range of it. Imports fetcher and ranges.

Knows no web framework: what it gives are status, headers and body of an answer.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Self

from attrs import field, frozen

from adepoll.api.models import JobSnapshot
from adepoll.errors import ResultRangeError
from adepoll.fetcher import ResultFetcher, ResultStream
from adepoll.server.byte_ranges import AskedRange, ReplyPlan, plan_reply, read_range

_WHOLE = AskedRange(0)
_BEGINNING = AskedRange(0, 1)


@frozen(kw_only=True)
class ResultReply:
    """An answer with a result.

    Attributes:
        status: 200, 206 or 416.
        headers: Type, length, range and tag of the body.
        chunks: The body; nothing, where there is none. Not to be read twice.
    """

    status: int
    headers: Mapping[str, str]
    chunks: AsyncIterator[bytes] = field(repr=False)


@asynccontextmanager
async def reply_with_result(
    fetcher: ResultFetcher,
    job: JobSnapshot | str,
    *,
    method: str = "GET",
    range_header: str | None = None,
    if_range: str | None = None,
) -> AsyncGenerator[ResultReply, None]:
    """Answer a request for the result of a job, in constant memory.

    The first chunk is there when the answer is given, so that what keeps a result from coming is
    most often told before a status has been sent. In most cases the storage is asked once; again
    where it is found out only then that the range does not count.

    Args:
        fetcher: Brings the result.
        job: A snapshot of the job, or its id.
        method: Of the request: GET or HEAD.
        range_header: Its Range header, if it has one.
        if_range: Its If-Range header, if it has one.

    Raises:
        AdePollError: As for `ResultFetcher.stream`, on entering or from the chunks; never
            `ResultRangeError`, which is status 416.
    """
    is_get = method.upper() == "GET"
    asked = (read_range(range_header) if is_get else _BEGINNING) or _WHOLE
    if asked.stop == 0:  # the last 0 bytes: all that is to be found out is the size
        asked = _BEGINNING
    async with AsyncExitStack() as stack:
        while True:
            body = _Body(asked)
            try:
                await body.open(stack, fetcher, job)
                size, etag = body.stream.size, body.stream.etag
            except ResultRangeError as error:
                if if_range is not None:  # which may say that the range does not count
                    asked = _WHOLE
                    continue
                size, etag = error.size, None
            plan = plan_reply(
                method, range_header=range_header, if_range=if_range, size=size, etag=etag
            )
            if not plan.has_body or body.is_what(plan):
                break
            await stack.aclose()
            asked = _WHOLE
            range_header = None  # it does not count, whatever is there by now
        yield ResultReply(
            status=plan.status,
            headers={"Content-Type": "application/json", **plan.headers},
            chunks=body if plan.has_body else _NoBody(),
        )


class _Body:
    """The chunks of a stream, of which the first is read ahead."""

    stream: ResultStream

    def __init__(self, asked: AskedRange) -> None:
        self._asked = asked
        self._first = b""

    async def open(
        self, stack: AsyncExitStack, fetcher: ResultFetcher, job: JobSnapshot | str
    ) -> None:
        opening = fetcher.stream(job, start=self._asked.start, stop=self._asked.stop)
        self.stream = await stack.enter_async_context(opening)
        self._first = await anext(self.stream, b"")

    def is_what(self, plan: ReplyPlan) -> bool:
        stream = self.stream
        if plan.part is None:
            # Of an unknown size, no more can be told of what was asked for.
            return self._asked == _WHOLE or (stream.start, stream.stop) == (0, stream.size or -1)
        return (stream.start, stream.stop) == (plan.start, plan.stop)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        chunk, self._first = self._first, b""
        if chunk:
            return chunk
        return await anext(self.stream)


class _NoBody:
    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        raise StopAsyncIteration
