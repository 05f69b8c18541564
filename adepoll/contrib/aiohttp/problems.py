"""Converts errors of adepoll to responses, in an aiohttp server."""

import json
import logging

from aiohttp import web
from aiohttp.typedefs import Handler

from adepoll import AdePollError, ClosedError
from adepoll.common.redaction import showable
from adepoll.server.problem_details import PROBLEM_MEDIA_TYPE, report_problem

_log = logging.getLogger("adepoll.contrib.aiohttp")


@web.middleware
async def problem_details_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Respond to each error of adepoll with problem details (RFC 9457), as a middleware.

    If a response or a websocket has already started, the connection is aborted instead.
    """
    try:
        return await handler(request)
    except (AdePollError, ClosedError) as error:
        # The client would take a second response for a part of the first one.
        if request.writer.output_size:
            abort(request, error)
        return problem_response(request, error)


def problem_response(request: web.Request, error: AdePollError | ClosedError) -> web.Response:
    """Return the response with the problem details of an error, for your own middleware."""
    problem = report_problem(error, instance=request.path)
    return web.Response(
        status=problem.status,
        headers=problem.headers,
        text=json.dumps(problem.body),
        content_type=PROBLEM_MEDIA_TYPE,
    )


def abort(request: web.Request, error: Exception) -> None:
    """Close the connection of a response that cannot be completed."""
    extra = {"job_id": getattr(error, "job_id", None)}
    _log.warning("a response to %s was aborted: %s", showable(request.path), error, extra=extra)
    if request.transport is not None:
        request.transport.abort()
