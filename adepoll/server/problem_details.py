"""Converts errors to problem details, for the clients of a server (RFC 9457, 2023).

Problem details contain the kind of error, but no text from the ADE service.
"""

import logging
import re
from collections.abc import Mapping
from http import HTTPStatus
from math import ceil
from typing import Final
from urllib.parse import quote

from attrs import frozen

from adepoll import errors
from adepoll.api.models import JobStatus, Json
from adepoll.common.redaction import showable
from adepoll.common.safe_repr import SafeRepr
from adepoll.errors import AdePollError, ClosedError, RequestError

__all__ = ["PROBLEM_MEDIA_TYPE", "ProblemDetails", "problem_details", "report_problem"]

PROBLEM_MEDIA_TYPE: Final = "application/problem+json"
"""The media type of `ProblemDetails.body`."""

RETRY_AFTER: Final = 2
"""Seconds after which a client should repeat a request, if the service does not state a time."""

_RETRYABLE: Final = frozenset({HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT})
# WebSocket close codes (RFC 6455, 2011, section 7.4.1, and the registry of IANA)
_POLICY_VIOLATION: Final = 1008
_INTERNAL_ERROR: Final = 1011
_TRY_AGAIN_LATER: Final = 1013
_SAFE_IN_PATHS: Final = "/:@!$&'()*+,;=~"  # RFC 3986 (2005), section 3.3
_NEXT_WORD: Final = re.compile(r"(?<=[a-z])(?=[A-Z])")

_log = logging.getLogger(__name__)


@frozen(kw_only=True)
class ProblemDetails(SafeRepr):
    """An error as an HTTP response.

    Attributes:
        status: The HTTP status.
        title: A summary for people, which is the same for all errors of a kind.
        detail: Further facts about this error, for people; None if the title is enough.
        error: The name of the error's class, for programs.
        headers: Headers of the response, with ``Retry-After`` if the status is 503 or 504.
        instance: Path of the request as a URI reference; None if it is unknown.
        job_id: The job; None if the error concerns no single job.
        last_status: The last known status of the job if a wait has timed out; otherwise None.
        is_fault: True if an operator should find out the cause. False if the client has made an
            error, if a wait has timed out, or if the server is stopping.
    """

    status: int
    title: str
    error: str
    headers: Mapping[str, str]
    detail: str | None = None
    instance: str | None = None
    job_id: str | None = None
    last_status: str | None = None
    is_fault: bool = False

    @property
    def type(self) -> str:
        """URI of the kind of problem, such as ``urn:adepoll:problem:job-timeout``."""
        words = _NEXT_WORD.split(self.error.removesuffix("Error"))
        return f"urn:adepoll:problem:{'-'.join(words).lower()}"

    @property
    def close_code(self) -> int:
        """Close code of a websocket: 1008 (client error), 1011 (server error) or 1013 (retry)."""
        if self.status in _RETRYABLE:
            return _TRY_AGAIN_LATER
        if self.status < HTTPStatus.INTERNAL_SERVER_ERROR:
            return _POLICY_VIOLATION
        return _INTERNAL_ERROR

    @property
    def body(self) -> dict[str, Json]:
        """The JSON of the response, whose media type is `PROBLEM_MEDIA_TYPE`."""
        optional: dict[str, str | None] = {
            "detail": self.detail,
            "instance": self.instance,
            "job_id": self.job_id,
            "last_status": self.last_status,
        }
        return {
            "type": self.type,
            "title": self.title,
            "status": self.status,
            "error": self.error,
            **{name: text for name, text in optional.items() if text is not None},
        }


def problem_details(
    error: AdePollError | ClosedError, *, instance: str | None = None
) -> ProblemDetails:
    """Return the HTTP response for an error, without text from the service.

    The status says what the client can do:

    - 4xx: the request is wrong, or its job or result is not usable or not known;
    - 500: this server failed;
    - 502: the service refused this server, or sent an unusable response;
    - 503: try again later, because the service or the storage fails, or this server is busy,
      starting or stopping;
    - 504: try again, because the time limit was reached.

    If a wait for a job times out before any poll has succeeded, the status is that of the last
    error. For example, it is 404 for a job that the service does not know.

    Args:
        error: The error.
        instance: Path of the request, percent-decoded; None if it is unknown.
    """
    if isinstance(error, errors.JobTimeoutError) and error.last_status is None:
        error = error.last_error or error
    status, title = status_and_title(type(error))
    headers = {"Cache-Control": "no-store"}
    retry_after = None
    if status in _RETRYABLE:
        asked = error.retry_after if isinstance(error, RequestError) else None
        retry_after = RETRY_AFTER if asked is None else ceil(max(1.0, asked))
        headers["Retry-After"] = str(retry_after)
    job_id = getattr(error, "job_id", None)
    return ProblemDetails(
        status=status,
        title=title,
        detail=_detail(error, retry_after),
        error=type(error).__name__,
        headers=headers,
        instance=None if instance is None else quote(showable(instance, 200), safe=_SAFE_IN_PATHS),
        job_id=None if job_id is None else showable(job_id, 80),
        last_status=last_status_of(error) if isinstance(error, errors.JobTimeoutError) else None,
        is_fault=status >= HTTPStatus.INTERNAL_SERVER_ERROR and not isinstance(error, _EXPECTED),
    )


def status_and_title(kind: type[AdePollError | ClosedError]) -> tuple[int, str]:
    """Return the HTTP status of a class of errors, and a summary for people."""
    return next(_STATUS_AND_TITLE[base] for base in kind.__mro__ if base in _STATUS_AND_TITLE)


def last_status_of(error: errors.JobTimeoutError) -> str | None:
    """Return the last known status of a job, as a value of `JobStatus`; None if it is unknown."""
    return None if error.last_status is None else JobStatus.parse(error.last_status).value


def report_problem(
    error: AdePollError | ClosedError, *, instance: str | None = None
) -> ProblemDetails:
    """Return the problem details of an error; log it if an operator should know (`is_fault`)."""
    problem = problem_details(error, instance=instance)
    if problem.is_fault:
        extra = {"job_id": problem.job_id}
        _log.warning("responded with status %d: %s", problem.status, error, extra=extra)
    return problem


def _detail(error: AdePollError | ClosedError, retry_after: int | None) -> str | None:
    """Return sentences with facts about the error, without text from the service, or None.

    `retry_after` is the number of seconds after which the client may try again; None if unknown.
    """
    sentences = []
    if isinstance(error, errors.JobTimeoutError):
        sentences.append(f"The wait ended after {error.timeout:g} s.")
        if (status := last_status_of(error)) is not None:
            sentences.append(f"The job is {status}.")
    elif isinstance(error, errors.InvalidJobIdError | errors.WebhookVerificationError):
        reason = showable(error.reason, 200)
        sentences.append(f"{reason[:1].upper()}{reason[1:]}.")
    elif isinstance(error, errors.StatusError):
        sentences.append(f"The ADE service responded with the status {error.status}.")
    if retry_after is not None:
        sentences.append(f"Try again in {retry_after} seconds.")
    return " ".join(sentences) or None


_EXPECTED: Final = (errors.ClosedError, errors.JobTimeoutError)
_STATUS_AND_TITLE: Final[Mapping[type, tuple[int, str]]] = {
    errors.AdePollError: (500, "Internal error of this server"),
    errors.ClosedError: (503, "This server is starting or stopping; try again"),
    errors.TooManyTenantsError: (503, "This server is busy; try again"),
    errors.InvalidJobIdError: (422, "Invalid job id"),
    errors.JobCancelledError: (409, "The job was cancelled"),
    errors.JobFailedError: (409, "The job failed"),
    errors.JobNotFoundError: (404, "The job does not exist"),
    errors.JobTimeoutError: (504, "The job has not settled yet"),
    errors.UnresolvedJobsError: (502, "The outcome of some jobs could not be found out"),
    # Errors of requests to the ADE service.
    errors.RequestError: (502, "A request to the ADE service failed"),
    errors.AnswerTimeoutError: (504, "The ADE service did not respond in time"),
    errors.AuthenticationError: (502, "The ADE service refused this server"),
    errors.PermissionDeniedError: (502, "The ADE service refused this server"),
    errors.PaymentRequiredError: (502, "The ADE service refused this server"),
    errors.RateLimitedError: (503, "The ADE service limits the rate of requests"),
    errors.ServerError: (503, "The ADE service failed"),
    errors.CertificateError: (502, "The ADE service cannot be verified"),
    errors.TransportError: (503, "The ADE service cannot be reached"),
    # Errors of results.
    errors.ResultError: (502, "The result could not be fetched"),
    errors.ResultNotReadyError: (409, "The job has not settled yet"),
    errors.ResultUnavailableError: (410, "The result is not stored"),
    errors.ResultServerError: (503, "The storage of the result failed"),
    errors.StorageError: (500, "This server could not write the result"),
    errors.TargetExistsError: (500, "This server could not write the result"),
    errors.WebhookVerificationError: (400, "The webhook could not be verified"),
}
