"""Responses with events and results, which end when their client disconnects, for Starlette."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from adepoll import AdePollError, ClosedError, JobEventStream, JobRef, JobSnapshot
from adepoll.common.redaction import showable
from adepoll.server.resources import ServerResources, limit_send_time
from adepoll.server.sse import EVENT_STREAM_HEADERS

_log = logging.getLogger(__name__)

# The HTTP status with which nginx logs a request whose client has disconnected.
_CLIENT_CLOSED_REQUEST: Final = 499
_DISCONNECTS: Final = frozenset({"http.disconnect", "websocket.disconnect"})


class ClientDisconnectedError(HTTPException):
    """The client of a request has disconnected; no response is necessary."""


@asynccontextmanager
async def cancel_on_disconnect(receive: Receive) -> AsyncGenerator[None, None]:
    """Cancel the code in the ``async with`` block when the client disconnects.

    Args:
        receive: The function `receive` of a request or websocket. The body of the request must have
            been read, or must not be needed. Messages of the websocket are discarded while the
            block runs.

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
    """A response with server-sent events, which ends as soon as the client disconnects."""

    def __init__(self, resources: ServerResources, events: JobEventStream) -> None:
        """Create a response with these events."""
        super().__init__(events, headers=EVENT_STREAM_HEADERS)
        self._resources = resources
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        limited_send = limit_send_time(send)

        async def send_in_turn(message: Message) -> None:
            await self._resources.wait_for_step()
            await limited_send(message)

        try:
            # When the server stops, `events` ends. But if the client accepts no data, this code is
            # waiting in `send`, which only `until_stopped` ends.
            async with cancel_on_disconnect(receive), self._resources.until_stopped(), self._events:
                if scope["method"] == "HEAD":
                    self.body_iterator = _empty_body()
                await self.stream_response(send_in_turn)
        except ClientDisconnectedError:
            pass
        except (ClosedError, TimeoutError) as error:
            _log.warning("events at %s were aborted: %s", _path(scope), error)
        if self.background is not None:
            await self.background()


class ResultResponse(Response):
    """A response with a result. The result is opened when the response is sent, not earlier.

    So nothing stays open if the response is not sent.
    """

    def __init__(
        self,
        resources: ServerResources,
        request: Request,
        job: JobSnapshot | JobRef | str,
        filename: str | None,
    ) -> None:
        """Create a response. Headers that you set on it replace those of the result."""
        super().__init__()
        del self.headers["Content-Length"]
        self._resources = resources
        self._request = request
        self._job = job
        self._filename = filename

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response.

        Raises:
            AdePollError: The result could not be opened, so nothing was sent. Or it could not be
                sent completely, and the response had no ``Content-Length``, so that only an
                aborted connection shows this to the client.
        """
        response: StreamingResponse | None = None
        opening = self._resources.open_result(
            self._job,
            method=self._request.method,
            headers=self._request.headers,
            filename=self._filename,
        )
        try:
            async with cancel_on_disconnect(receive), opening as reply:
                # Not `Response`, even without a body: it would add the header Content-Length.
                response = StreamingResponse(reply.chunks, reply.status, reply.headers)
                self._set_headers(response)
                await response.stream_response(limit_send_time(send))
        except ClientDisconnectedError:
            pass
        except (AdePollError, ClosedError, TimeoutError) as error:
            if response is None:
                raise  # nothing was sent yet, so a handler can respond with problem details
            _log.warning(
                "a response to %s was aborted: %s",
                _path(scope),
                error,
                extra={"job_id": getattr(error, "job_id", None)},
            )
            if "Content-Length" not in response.headers:
                raise  # otherwise, a middleware would end the response as if it were complete
        if self.background is not None:
            await self.background()

    def _set_headers(self, response: Response) -> None:
        """Copy the headers that the caller has set on this object to `response`."""
        for name in {*self.headers}:
            del response.headers[name]
        response.headers.raw.extend(self.headers.raw)


async def _empty_body() -> AsyncGenerator[bytes, None]:
    for chunk in tuple[bytes, ...]():
        yield chunk


def _path(scope: Scope) -> str:
    """Return the path of a request as a text for logs, without line breaks and escapes."""
    return showable(str(scope["path"]))
