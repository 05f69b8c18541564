"""Answers of a Starlette server, which FastAPI sends, too; and whether the client is still there.

Everything real is in the library.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from adepoll.api.models import JobSnapshot
from adepoll.errors import AdePollError, ClosedError
from adepoll.server.passing import passage
from adepoll.server.resources import ServerResources
from adepoll.server.sse import EVENT_STREAM_HEADERS, JobEventStream

_log = logging.getLogger(__name__)

_MOST_STALLED: Final = 60.0  # seconds for which a client may take nothing
_CLIENT_CLOSED_REQUEST: Final = 499  # as nginx calls it; nobody reads it
_DISCONNECTS: Final = frozenset({"http.disconnect", "websocket.disconnect"})


class ClientLeftError(HTTPException):
    """The client of a request has left. It needs no answer, and nobody to be told."""


@asynccontextmanager
async def while_there(receive: Receive) -> AsyncGenerator[None, None]:
    """Break off what is done within when the client leaves.

    Args:
        receive: Of the request, whose body has been read or is not wanted; or of a websocket, whose
            messages are passed over meanwhile.

    Raises:
        ClientLeftError: It has left.
    """

    async def see_off(scope: asyncio.Timeout) -> None:
        while (await receive())["type"] not in _DISCONNECTS:
            pass
        scope.reschedule(0.0)

    try:
        async with asyncio.timeout(None) as scope:
            watching = asyncio.create_task(see_off(scope))
            try:
                yield
            finally:
                watching.cancel()
                await asyncio.wait({watching})
    except TimeoutError:
        if not scope.expired():
            raise
    else:
        return
    raise ClientLeftError(_CLIENT_CLOSED_REQUEST, "the client has left")


class EventsResponse(StreamingResponse):
    """Server-sent events, which end as soon as the client leaves."""

    def __init__(self, resources: ServerResources, events: JobEventStream) -> None:
        """Answer with these events."""
        super().__init__(events, headers=EVENT_STREAM_HEADERS)
        self._household = resources
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        send_soon = _patient(send)

        async def send_in_turn(message: Message) -> None:
            await self._household.turn()
            await send_soon(message)

        try:
            # When the server stops, events end; but not where the client takes none.
            async with while_there(receive), self._household.streaming(), self._events:
                if scope["method"] == "HEAD":
                    self.body_iterator = _nothing()
                await self.stream_response(send_in_turn)
        except ClientLeftError:
            pass
        except (ClosedError, TimeoutError):
            _log.warning("events at %s were broken off: the client took nothing", scope["path"])
        if self.background is not None:
            await self.background()


class ResultResponse(Response):
    """A result, opened only when it is to be sent, so that nothing is left open if it never is."""

    def __init__(
        self,
        resources: ServerResources,
        request: Request,
        job: JobSnapshot | str,
        filename: str | None,
    ) -> None:
        """Answer with the result of a job; headers that are set are sent with it."""
        super().__init__()
        del self.headers["Content-Length"]
        self._household = resources
        self._request = request
        self._job = job
        self._filename = filename

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it.

        Raises:
            AdePollError: Before anything was sent.
        """
        response: Response | None = None
        opening = passage(
            self._household.fetcher,
            self._job,
            method=self._request.method,
            headers=self._request.headers,
            filename=self._filename,
        )
        try:
            async with while_there(receive), self._household.streaming(), opening as answer:
                if answer.chunks is None:
                    response = Response(status_code=answer.status, headers=answer.headers)
                    self._lend_headers(response)
                    await response(scope, receive, send)
                else:
                    response = stream = StreamingResponse(
                        answer.chunks, answer.status, answer.headers
                    )
                    self._lend_headers(response)
                    await stream.stream_response(_patient(send))
        except ClientLeftError:
            pass
        except (AdePollError, TimeoutError) as error:
            if response is None:
                raise  # nothing was sent: it can be answered
            _log.warning("an answer to %s was broken off: %s", scope["path"], error)
            if "Content-Length" not in response.headers:
                raise  # a middleware might take the end for one
        if self.background is not None:
            await self.background()

    def _lend_headers(self, response: Response) -> None:
        for name in {*self.headers}:
            del response.headers[name]
        response.headers.raw.extend(self.headers.raw)


async def _nothing() -> AsyncGenerator[bytes, None]:
    return
    yield


def _patient(send: Send) -> Send:
    """Give a `send` that gives a client up that takes nothing."""

    async def send_soon(message: Message) -> None:
        async with asyncio.timeout(_MOST_STALLED):
            await send(message)

    return send_soon
