"""OpenAPI descriptions of routes that use the functions of `adepoll.contrib.fastapi`.

Each constant is a dictionary of arguments of a FastAPI route: ``@app.get("/jobs/{job_id}",
**openapi.STATUS)``. To replace an argument, such as ``response_model``, pass
``**openapi.STATUS | {"response_model": MyModel}``.
"""

from typing import Any, Final

from starlette.responses import Response

from adepoll.contrib.fastapi.models import JobModel, ProblemModel
from adepoll.server.problem_details import PROBLEM_MEDIA_TYPE

_PROBLEMS: Final = {
    400: "The webhook could not be verified.",
    404: "The job does not exist.",
    409: "The job has not settled, has failed, or was cancelled.",
    410: "The result is not stored.",
    422: "The job id or another parameter is invalid.",
    500: "This server failed.",
    502: "The ADE service or the storage failed, or refused this server.",
    503: "A later attempt can succeed; `Retry-After` says when.",
    504: "The job has not settled yet, or the ADE service did not respond in time.",
}
_RETRY_AFTER: Final = {
    "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}}
}
_OBJECT: Final = {"type": "object"}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the argument ``responses`` for a route that responds to errors with problem details.

    `statuses` are the HTTP statuses of the errors.
    """
    schema = ProblemModel.model_json_schema()
    described: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        content: dict[str, Any] = {PROBLEM_MEDIA_TYPE: {"schema": schema}}
        described[status] = {"description": _PROBLEMS[status], "content": content}
        if status == 422:  # noqa: PLR2004 - FastAPI also sends 422 itself, for an invalid parameter
            content["application/json"] = {"schema": _OBJECT}
        if status in {503, 504}:
            described[status]["headers"] = _RETRY_AFTER
    return described


def _response(description: str, media_type: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {media_type: {"schema": schema}}}


def _header(name: str, description: str) -> dict[str, Any]:
    """Return the OpenAPI description of a required header of a request."""
    return {
        "name": name,
        "in": "header",
        "required": True,
        "description": description,
        "schema": {"type": "string"},
    }


WAIT: Final[dict[str, Any]] = {
    "summary": "Wait for a job",
    "response_model": JobModel,
    "responses": problems(404, 422, 500, 502, 503, 504),
}
"""Arguments of a route that returns the snapshot of `wait`."""

STATUS: Final[dict[str, Any]] = {
    "summary": "Status of a job",
    "response_model": JobModel,
    "response_description": "The job has settled.",
    "responses": {
        202: {
            "model": JobModel,
            "description": "The job has not settled yet; ask again.",
            "headers": _RETRY_AFTER,
        },
        **problems(404, 422, 500, 502, 503, 504),
    },
}
"""Arguments of a route that returns the response of `send_status`."""

EVENTS: Final[dict[str, Any]] = {
    "summary": "Status of jobs as server-sent events",
    "response_class": Response,
    "responses": {
        200: _response(
            "Events named `job`, `end` and `failed`, each with JSON as its data.",
            "text/event-stream",
            {"type": "string"},
        ),
        **problems(422, 503),
    },
}
"""Arguments of a route that returns the response of `events`."""

RESULT: Final[dict[str, Any]] = {
    "summary": "Result of a job",
    "response_class": Response,
    "responses": {
        200: _response("The result.", "application/json", _OBJECT),
        206: _response("A range of the result.", "application/json", {"type": "string"}),
        304: {"description": "The result has not changed."},
        416: {"description": "The result does not have the requested range."},
        **problems(404, 409, 410, 422, 500, 502, 503, 504),
    },
}
"""Arguments of a route that returns the response of `send_result`."""

READY: Final[dict[str, Any]] = {
    "summary": "Readiness",
    "response_class": Response,
    "responses": {
        200: _response("The server can wait for jobs.", "application/json", _OBJECT),
        503: _response("The server should get no traffic.", "application/json", _OBJECT),
    },
}
"""Arguments of the route `ready`."""

LIVE: Final[dict[str, Any]] = {
    "summary": "Liveness",
    "response_class": Response,
    "responses": {200: _response("The process works.", "application/json", _OBJECT)},
}
"""Arguments of the route `live`."""

WEBHOOK: Final[dict[str, Any]] = {
    "summary": "Receive a webhook",
    "description": "The jobs in a genuine webhook are polled immediately.",
    "status_code": 204,
    "response_description": "The webhook is genuine.",
    "responses": {
        408: {"description": "The body took too long."},
        413: {"description": "The body is too large."},
        **problems(400, 503),
    },
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "description": "JSON with job ids.",
            "content": {"application/json": {"schema": _OBJECT}},
        },
        "parameters": [
            _header("webhook-id", "Id of the webhook."),
            _header("webhook-timestamp", "Unix seconds at which the webhook was sent."),
            _header("webhook-signature", "Signatures of the webhook, such as `v1,` and base64."),
        ],
    },
}
"""Arguments of the route that `webhook` returns."""
