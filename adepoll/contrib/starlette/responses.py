"""Responses with events and results, and clients that disconnect, in a Starlette server."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from adepoll.api.job_kind import JobRef
from adepoll.api.models import JobSnapshot
from adepoll.common.redaction import showable
from adepoll.errors import AdePollError, ClosedError
from adepoll.server.resources import ServerResources, limit_send_time
from adepoll.server.sse import EVENT_STREAM_HEADERS, JobEventStream

_log = logging.getLogger(__name__)

_CLIENT_CLOSED_REQUEST: Final = 499  # nginx's status for a request whose client has disconnected
_DISCONNECTS: Final = frozenset({"http.disconnect", "websocket.disconnect"})


class ClientDisconnectedError(HTTPException):
    """The client of a request has disconnected; no response is necessary."""


@asynccontextmanager
async def cancel_on_disconnect(receive: Receive) -> AsyncGenerator[None, None]:
    """Cancel the block when the client disconnects.

    Args:
        receive: `receive` of a request whose body was read or is not needed; or of a websocket,
            whose messages are discarded meanwhile.

    Raises:
        ClientDisconnectedError: The block was cancelled.
    """

    async def expire_on_disconnect(scope: asyncio.Timeout) -> None:
        while (await receive())["type"] not in _DISCONNECTS:
            pass
        scope.reschedule(0.0)

    try:
        async with asyncio.timeout(None) as scope:
            receiving = asyncio.create_task(expire_on_disconnect(scope))
            try:
                yield
            finally:
                receiving.cancel()
                await asyncio.wait({receiving})
    except TimeoutError:
        if not scope.expired():
            raise
    else:
        return
    raise ClientDisconnectedError(_CLIENT_CLOSED_REQUEST, "the client has disconnected")


class EventsResponse(StreamingResponse):
    """Server-sent events, which end as soon as the client disconnects."""

    def __init__(self, resources: ServerResources, events: JobEventStream) -> None:
        """Create a response with these events."""
        super().__init__(events, headers=EVENT_STREAM_HEADERS)
        self._resources = resources
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        limited_send = limit_send_time(send)

        async def send_in_turn(message: Message) -> None:
            await self._resources.take_turn()
            await limited_send(message)

        try:
            # When the server stops, the events end, unless the client accepts no data.
            async with cancel_on_disconnect(receive), self._resources.until_stopped(), self._events:
                if scope["method"] == "HEAD":
                    self.body_iterator = _empty_body()
                await self.stream_response(send_in_turn)
        except ClientDisconnectedError:
            pass
        except (ClosedError, TimeoutError):
            _log.warning("events at %s were aborted: the client accepts no data", _path(scope))
        if self.background is not None:
            await self.background()


class ResultResponse(Response):
    """A result, which is opened only when it is sent, so that an unsent response leaks nothing."""

    def __init__(
        self,
        resources: ServerResources,
        request: Request,
        job: JobSnapshot | JobRef | str,
        filename: str | None,
    ) -> None:
        """Create a response with the result of a job. Headers that you set replace its own."""
        super().__init__()
        del self.headers["Content-Length"]
        self._resources = resources
        self._request = request
        self._job = job
        self._filename = filename

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response.

        Raises:
            AdePollError: The result could not be opened, and nothing was sent; or it could not be
                completed, and its length was not announced.
        """
        response: Response | None = None
        opening = self._resources.open_result(
            self._job,
            method=self._request.method,
            headers=self._request.headers,
            filename=self._filename,
        )
        try:
            async with cancel_on_disconnect(receive), opening as reply:
                if reply.has_body:
                    response = stream = StreamingResponse(reply.chunks, reply.status, reply.headers)
                    self._set_headers(response)
                    await stream.stream_response(limit_send_time(send))
                else:
                    response = Response(status_code=reply.status, headers=reply.headers)
                    self._set_headers(response)
                    await response(scope, receive, send)
        except ClientDisconnectedError:
            pass
        except (AdePollError, ClosedError, TimeoutError) as error:
            if response is None:
                raise  # nothing was sent yet, so a problem can be sent
            _log.warning(
                "a response to %s was aborted: %s",
                _path(scope),
                error,
                extra={"job_id": getattr(error, "job_id", None)},
            )
            if "Content-Length" not in response.headers:
                raise  # otherwise a middleware would end the response as if it were complete
        if self.background is not None:
            await self.background()

    def _set_headers(self, response: Response) -> None:
        """Replace headers of the response by those that were set on this one."""
        for name in {*self.headers}:
            del response.headers[name]
        response.headers.raw.extend(self.headers.raw)


async def _empty_body() -> AsyncGenerator[bytes, None]:
    return
    yield


def _path(scope: Scope) -> str:
    """Return the path of a request for a log: it can contain a decoded line break or an escape."""
    return showable(str(scope["path"]))
