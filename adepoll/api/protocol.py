"""The HTTP protocol of the service, for every kind of job. Does no I/O.

The functions interpret responses, and return the error for an error status. `job_requests` creates
the requests.
"""

import html
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Final, NoReturn

from attrs import evolve

from adepoll.api.error_text import error_text
from adepoll.api.json_text import dumps, loads
from adepoll.api.kinds.kind_rules import SOME_FAILED, KindRules
from adepoll.api.models import JobPage, JobSnapshot
from adepoll.api.odd_answers import OddAnswers
from adepoll.api.received_result import ReadAnswer, ReceivedResult
from adepoll.api.redacting import without_key
from adepoll.api.retry_after import Headers, parse_retry_after
from adepoll.common.redaction import ApiKey, Secret, showable, without
from adepoll.errors import (
    AuthenticationError,
    JobNotFoundError,
    MalformedAnswerError,
    PaymentRequiredError,
    PermissionDeniedError,
    RateLimitedError,
    RedirectRefusedError,
    ServerError,
    ServerTimeoutError,
    StatusError,
    UnexpectedStatusError,
    UnprocessableError,
    WrongJobError,
)

MAX_ERROR_BYTES: Final = 16_384
"""Of the body of an error status, at most this number of bytes is read."""


def read_job(
    rules: KindRules,
    job_id: str,
    status: int,
    headers: Headers,
    body: bytes,
    *,
    large: ReadAnswer | None = None,
    odd_answers: OddAnswers | None = None,
    now: datetime | None = None,
    secret: ApiKey | None = None,
) -> JobSnapshot:
    """Read the response to a GET of one job.

    Args:
        rules: Rules of the kind of the job.
        job_id: Id of the requested job.
        status: HTTP status.
        headers: Headers of the response.
        body: The complete body. For a large answer: the answer without its result.
        large: The large answer, whose result is not in `body`; None if `body` is the whole answer.
        odd_answers: Logs values that cannot be read; None to log nothing.
        now: The local time, which is needed if Retry-After is a date and there is no Date header.
        secret: The API key, which is removed from the texts of the answer and of errors.

    Raises:
        StatusError: The status is not a success. Each documented status has its own class.
        MalformedAnswerError: The body is not as documented.
        WrongJobError: The response is about another job.
    """
    if status not in rules.success:
        raise status_error(status, headers, body, job_id=job_id, now=now, secret=secret)
    if large is not None and large.is_partial:
        status = SOME_FAILED
    try:
        snapshot = rules.decode_job(body, status)
    except MalformedAnswerError as exc:
        problems = exc.problems  # raised below, because here `exc` would become the context
    else:
        snapshot = without_key(snapshot, secret, body)
        if not snapshot.job_id:
            snapshot = evolve(snapshot, job_id=job_id)
        if snapshot.job_id != job_id:
            raise WrongJobError(job_id=job_id, answered=snapshot.job_id)
        if snapshot.kind is not rules.kind:
            snapshot = evolve(snapshot, kind=rules.kind)
        if large is not None:
            snapshot = evolve(snapshot, data_omitted=True, kept_result=large.result)
        elif snapshot.data is not None and snapshot.received_result is None:  # a kind of your own
            received = ReceivedResult(body, (rules.result_field, "data"))
            snapshot = evolve(snapshot, received_result=received)
        return snapshot if odd_answers is None else odd_answers.checked(snapshot)
    raise MalformedAnswerError([*problems, *_content_type_problem(headers, secret)], job_id=job_id)


def read_page(
    rules: KindRules,
    status: int,
    headers: Headers,
    body: bytes,
    *,
    odd_answers: OddAnswers | None = None,
    now: datetime | None = None,
    secret: ApiKey | None = None,
) -> JobPage:
    """Read the response to a GET of the list; raises as `read_job` does."""
    if status != 200:  # noqa: PLR2004 - an HTTP status
        raise status_error(status, headers, body, job_id=None, now=now, secret=secret)
    try:
        page = rules.decode_page(body)
    except MalformedAnswerError as exc:
        problems = exc.problems  # raised below, because here `exc` would become the context
    else:
        page = without_key(page, secret, body)
        return page if odd_answers is None else odd_answers.checked(page)
    raise MalformedAnswerError([*problems, *_content_type_problem(headers, secret)])


def _content_type_problem(headers: Headers, secret: Secret[str] | None) -> list[str]:
    """If the Content-Type is not JSON, return a list with a text that names it; otherwise []."""
    content_type = headers.get("Content-Type") or "no type"
    if "json" in content_type.lower():
        return []
    return [f"it came as {showable(without(secret, content_type), 80)}"]


_ERRORS: Final[Mapping[int, type[StatusError]]] = {
    401: AuthenticationError,
    402: PaymentRequiredError,
    403: PermissionDeniedError,
    404: JobNotFoundError,
    408: ServerTimeoutError,
    422: UnprocessableError,
    429: RateLimitedError,
}


def read_refusal(
    job_id: str,
    status: int,
    headers: Headers,
    body: bytes,
    *,
    now: datetime | None = None,
    secret: Secret[str] | None = None,
) -> NoReturn:
    """Raise the error for a response with an error status; for the arguments, see `read_job`."""
    raise status_error(status, headers, body, job_id=job_id, now=now, secret=secret)


def status_error(
    status: int,
    headers: Headers,
    body: bytes,
    *,
    job_id: str | None,
    now: datetime | None = None,
    secret: Secret[str] | None = None,
) -> StatusError:
    """Return the error for a response with an error status; for the arguments, see `read_job`."""
    cls = _ERRORS.get(status, UnexpectedStatusError)
    if 300 <= status < 400:  # noqa: PLR2004 - classes of HTTP statuses
        cls = RedirectRefusedError
    elif not 100 <= status < 500:  # noqa: PLR2004 - classes of HTTP statuses
        cls = ServerError  # an invalid status, such as 600 or 099, means 5xx (RFC 9110, section 15)
    return cls(
        status=status,
        detail=_detail(body, secret),
        job_id=job_id,
        retry_after=parse_retry_after(headers, now=now),
    )


def _detail(body: bytes, secret: Secret[str] | None) -> str:
    """Return the message in the body of an error, or the beginning of the body, on one line.

    Args:
        body: The body.
        secret: The API key, which is removed from the text.
    """
    # The secret is removed after decoding, because the body can contain "=" as \u003d or &#61;.
    try:
        raw = loads(body[:MAX_ERROR_BYTES])
    except MalformedAnswerError:
        # The secret is also removed before the text is cut, because the cut could split it.
        page = without(secret, body[:MAX_ERROR_BYTES].decode("utf-8", "replace"))[:4096]
        text = without(secret, html.unescape(re.sub(r"<[^<>]*>", " ", page)))
        return showable(" ".join(text.split()), 200)
    message = error_text(raw) or (dumps(raw) if raw else "")
    return showable(without(secret, message), 500)
