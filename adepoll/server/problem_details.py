"""What an error means to the client of a server that uses adepoll: RFC 9457 (2023). Imports errors.

Knows no web framework. Nothing of what the service said is told on: it is the server's business.
"""

from collections.abc import Mapping
from http import HTTPStatus
from math import ceil
from typing import Final

from attrs import Factory, frozen

from adepoll import errors
from adepoll.api.models import Json
from adepoll.errors import AdePollError, RequestError
from adepoll.redaction import showable

PROBLEM_TYPE: Final = "application/problem+json"
"""The media type of a `Problem`."""

_SOON: Final = 2.0  # seconds


@frozen(kw_only=True)
class Problem:
    """An error as an HTTP answer.

    Attributes:
        status: The HTTP status.
        title: What is wrong, for people; the same for all errors of a kind.
        error: The name of the error's class, for programs.
        job_id: The job; None where it is not about one.
        headers: Headers of the answer; ``Retry-After`` where it may soon be otherwise.
        is_fault: Whether somebody should look into it: not what a client did, not a time that was
            up, and not that the server stops.
    """

    status: int
    title: str
    error: str
    job_id: str | None = None
    headers: Mapping[str, str] = Factory(dict)
    is_fault: bool = False

    @property
    def body(self) -> dict[str, Json]:
        """The JSON of the answer, of the media type `PROBLEM_TYPE`."""
        body: dict[str, Json] = {"status": self.status, "title": self.title, "error": self.error}
        if self.job_id is not None:
            body["job_id"] = self.job_id
        return body


def problem_details(error: AdePollError) -> Problem:
    """Give the HTTP answer for an error: its status, a title, and none of its text.

    4xx is what the client can mend, 502 what the service does or says, 503 what passes, 504 what
    took too long; 500 is this server's own.
    """
    status, title = next(_KINDS[kind] for kind in type(error).__mro__ if kind in _KINDS)
    headers = {}
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        asked = error.retry_after if isinstance(error, RequestError) else None
        headers["Retry-After"] = str(ceil(_SOON if asked is None else max(1.0, asked)))
    job_id = getattr(error, "job_id", None)
    return Problem(
        status=status,
        title=title,
        error=type(error).__name__,
        job_id=None if job_id is None else showable(job_id, 80),
        headers=headers,
        is_fault=status >= HTTPStatus.INTERNAL_SERVER_ERROR and not isinstance(error, _EXPECTED),
    )


_EXPECTED: Final = (errors.ClosedError, errors.JobTimeoutError)
_KINDS: Final[Mapping[type, tuple[int, str]]] = {
    errors.AdePollError: (500, "This server could not do that"),
    errors.ClosedError: (503, "This server is stopping or starting; ask again"),
    errors.InvalidJobIdError: (422, "That cannot be the id of a job"),
    errors.JobCancelledError: (409, "The job was cancelled"),
    errors.JobFailedError: (409, "The job failed"),
    errors.JobNotFoundError: (404, "There is no such job"),
    errors.JobTimeoutError: (504, "The job has not ended yet"),
    errors.UnresolvedJobsError: (502, "How some jobs stand could not be found out"),
    # What the service did not do, or does not do for this server.
    errors.RequestError: (502, "The extraction service could not be asked"),
    errors.AnswerTimeoutError: (504, "The extraction service did not answer in time"),
    errors.AuthenticationError: (502, "The extraction service refused this server"),
    errors.PermissionDeniedError: (502, "The extraction service refused this server"),
    errors.PaymentRequiredError: (502, "The extraction service refused this server"),
    errors.RateLimitedError: (503, "The extraction service is busy"),
    errors.ServerError: (503, "The extraction service is not well"),
    errors.TransportError: (503, "The extraction service cannot be reached"),
    # Results.
    errors.ResultError: (502, "The result could not be fetched"),
    errors.ResultNotReadyError: (409, "The job has not ended yet"),
    errors.ResultUnavailableError: (410, "The result is not kept"),
    errors.ResultServerError: (503, "The storage of the result is not well"),
    errors.StorageError: (500, "This server could not write the result"),
    errors.TargetExistsError: (500, "This server could not write the result"),
    errors.WebhookVerificationError: (400, "The webhook is refused"),
}
