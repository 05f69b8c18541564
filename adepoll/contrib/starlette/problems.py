"""Errors of adepoll as responses and websocket close codes, in a Starlette server."""

from contextlib import suppress
from http import HTTPStatus
from typing import Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.websockets import WebSocket, WebSocketDisconnect

from adepoll.errors import AdePollError, ClosedError
from adepoll.server.problem_details import (
    PROBLEM_MEDIA_TYPE,
    ProblemDetails,
    problem_details,
    report_problem,
)

# WebSocket close codes (RFC 6455, 2011, section 7.4.1, and the IANA registry)
_POLICY_VIOLATION: Final = 1008
_INTERNAL_ERROR: Final = 1011
_TRY_AGAIN_LATER: Final = 1013
_RETRYABLE: Final = frozenset({HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT})


def add_problem_details(app: Starlette) -> None:
    """Respond to each error of adepoll with problem details (RFC 9457).

    A websocket is closed with the code 1008 (policy violation) if the client can correct the error,
    with 1013 (try again later) if a later attempt may succeed, else with 1011 (internal error). The
    reason is the name of the error.
    """
    for kind in (AdePollError, ClosedError):
        app.add_exception_handler(kind, _handle)  # type: ignore[arg-type]  # it gets only these errors


def problem_response(request: Request, error: AdePollError | ClosedError) -> Response:
    """Return the response to an error, for your own exception handlers."""
    problem = report_problem(error, instance=str(request.url.path))
    return JSONResponse(
        problem.body,
        status_code=problem.status,
        headers=problem.headers,
        media_type=PROBLEM_MEDIA_TYPE,
    )


async def _handle(
    connection: Request | WebSocket, error: AdePollError | ClosedError
) -> Response | None:
    if not isinstance(connection, WebSocket):
        return problem_response(connection, error)
    # The client may have disconnected, or the route may have closed the websocket.
    with suppress(WebSocketDisconnect, RuntimeError):
        problem = problem_details(error)
        await connection.close(_close_code(problem), problem.error)
    return None


def _close_code(problem: ProblemDetails) -> int:
    if problem.status in _RETRYABLE:
        return _TRY_AGAIN_LATER
    if problem.status < HTTPStatus.INTERNAL_SERVER_ERROR:
        return _POLICY_VIOLATION
    return _INTERNAL_ERROR
