"""Problem details of errors, for the clients of a server (RFC 9457, 2023).

Problem details contain no text from the extraction service, only the kind of error.
"""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from math import ceil
from typing import Final

from attrs import frozen

from adepoll import errors
from adepoll.api.models import Json
from adepoll.errors import AdePollError, RequestError
from adepoll.redaction import showable

PROBLEM_MEDIA_TYPE: Final = "application/problem+json"
"""The media type of `ProblemDetails.body`."""

_DEFAULT_RETRY_AFTER: Final = 2.0  # seconds

_log = logging.getLogger(__name__)


@frozen(kw_only=True)
class ProblemDetails:
    """An error as an HTTP response.

    Attributes:
        status: The HTTP status.
        title: A summary for people, the same for all errors of a kind.
        error: The name of the error's class, for programs.
        headers: Headers of the response, with ``Retry-After`` if the status is 503.
        job_id: The job; None if the error concerns no single job.
        is_fault: True if an operator should look into the error. False for errors of the client,
            for timeouts of a wait, and while the server stops.
    """

    status: int
    title: str
    error: str
    headers: Mapping[str, str]
    job_id: str | None = None
    is_fault: bool = False

    @property
    def body(self) -> dict[str, Json]:
        """The JSON of the response, whose media type is `PROBLEM_MEDIA_TYPE`."""
        body: dict[str, Json] = {"status": self.status, "title": self.title, "error": self.error}
        if self.job_id is not None:
            body["job_id"] = self.job_id
        return body


def problem_details(error: AdePollError) -> ProblemDetails:
    """Return the HTTP response for an error, without the error's text.

    The status is 4xx if the client can correct the error, 502 if the service failed or refused the
    server, 503 if a later attempt may succeed, 504 after a timeout, and 500 if this server failed.
    """
    status, title = next(
        _STATUS_AND_TITLE[c] for c in type(error).__mro__ if c in _STATUS_AND_TITLE
    )
    headers = {"Cache-Control": "no-store"}
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        retry_after = error.retry_after if isinstance(error, RequestError) else None
        seconds = _DEFAULT_RETRY_AFTER if retry_after is None else max(1.0, retry_after)
        headers["Retry-After"] = str(ceil(seconds))
    job_id = getattr(error, "job_id", None)
    return ProblemDetails(
        status=status,
        title=title,
        error=type(error).__name__,
        headers=headers,
        job_id=None if job_id is None else showable(job_id, 80),
        is_fault=status >= HTTPStatus.INTERNAL_SERVER_ERROR and not isinstance(error, _EXPECTED),
    )


def report_problem(error: AdePollError) -> ProblemDetails:
    """Return the problem details of an error, and log a warning if it is a fault."""
    problem = problem_details(error)
    if problem.is_fault:
        _log.warning("responded with status %d: %s", problem.status, error)
    return problem


_EXPECTED: Final = (errors.ClosedError, errors.JobTimeoutError)
_STATUS_AND_TITLE: Final[Mapping[type, tuple[int, str]]] = {
    errors.AdePollError: (500, "Internal error of this server"),
    errors.ClosedError: (503, "This server is starting or stopping; try again"),
    errors.InvalidJobIdError: (422, "Invalid job id"),
    errors.JobCancelledError: (409, "The job was cancelled"),
    errors.JobFailedError: (409, "The job failed"),
    errors.JobNotFoundError: (404, "The job does not exist"),
    errors.JobTimeoutError: (504, "The job has not settled yet"),
    errors.UnresolvedJobsError: (502, "The outcome of some jobs could not be found out"),
    # The extraction service.
    errors.RequestError: (502, "A request to the extraction service failed"),
    errors.AnswerTimeoutError: (504, "The extraction service did not respond in time"),
    errors.AuthenticationError: (502, "The extraction service refused this server"),
    errors.PermissionDeniedError: (502, "The extraction service refused this server"),
    errors.PaymentRequiredError: (502, "The extraction service refused this server"),
    errors.RateLimitedError: (503, "The extraction service limits the rate of requests"),
    errors.ServerError: (503, "The extraction service failed"),
    errors.CertificateError: (502, "The extraction service cannot be verified"),
    errors.TransportError: (503, "The extraction service cannot be reached"),
    # Results.
    errors.ResultError: (502, "The result could not be fetched"),
    errors.ResultNotReadyError: (409, "The job has not settled yet"),
    errors.ResultUnavailableError: (410, "The result is not stored"),
    errors.ResultServerError: (503, "The storage of the result failed"),
    errors.StorageError: (500, "This server could not write the result"),
    errors.TargetExistsError: (500, "This server could not write the result"),
    errors.WebhookVerificationError: (400, "The webhook could not be verified"),
}
