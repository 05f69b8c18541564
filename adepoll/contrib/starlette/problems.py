"""Converts errors of adepoll to responses and websocket close codes, in a Starlette server."""

from contextlib import suppress

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.websockets import WebSocket, WebSocketDisconnect

from adepoll import AdePollError, ClosedError
from adepoll.server.problem_details import (
    PROBLEM_MEDIA_TYPE,
    problem_details,
    report_problem,
)


def add_problem_details(app: Starlette) -> None:
    """Respond to each error of adepoll with problem details (RFC 9457).

    A websocket is closed instead. The close code is 1008 (policy violation) if the client can
    correct the error, 1013 (try again later) if a later attempt may succeed, and otherwise 1011
    (internal error). The close reason is the name of the error's class.
    """
    for kind in (AdePollError, ClosedError):
        app.add_exception_handler(kind, _handle)  # type: ignore[arg-type]  # `_handle` gets only errors of this kind


def problem_response(request: Request, error: AdePollError | ClosedError) -> Response:
    """Return the response with the problem details of an error, for your own error handlers."""
    problem = report_problem(error, instance=request.scope["path"])
    return JSONResponse(
        problem.body,
        status_code=problem.status,
        headers=problem.headers,
        media_type=PROBLEM_MEDIA_TYPE,
    )


async def _handle(
    connection: Request | WebSocket, error: AdePollError | ClosedError
) -> Response | None:
    """Respond to an error with problem details. If the client uses a websocket, close it."""
    if not isinstance(connection, WebSocket):
        return problem_response(connection, error)
    # The client may have disconnected, or the route may have closed the websocket.
    with suppress(WebSocketDisconnect, RuntimeError):
        problem = problem_details(error)
        await connection.close(problem.close_code, problem.error)
    return None
