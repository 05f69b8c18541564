"""The v1 extract API without I/O: build a request, decipher an answer. Imports wire and below.

Paths, parameters, status codes and headers of the service stand here and nowhere else.
"""

import html
import math
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Final, Protocol
from urllib.parse import quote, urlencode

from adepoll.api import codec
from adepoll.api.job_ids import check_job_id, is_plain
from adepoll.api.models import JobPage, JobSnapshot, JobStatus, Json
from adepoll.api.service_clock import parse_http_date
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
from adepoll.redaction import REDACTED, showable

_JOBS: Final = "/v1/ade/extract/jobs"
MAX_PAGE_SIZE: Final = 100


class Headers(Protocol):
    """The headers of an answer: a case-insensitive mapping."""

    def get(self, name: str, /) -> str | None:
        """Give the header's value, None where there is none."""


def job_path(job_id: str) -> str:
    """Give the path of one job, the id encoded exactly once; raises `InvalidJobIdError`."""
    if not is_plain(job_id):
        job_id = quote(check_job_id(job_id), safe="")
    return f"{_JOBS}/{job_id}"


def list_path(*, page: int, page_size: int, status: JobStatus | None) -> str:
    """Give the path and query of one page of the list.

    Args:
        page: Counted from 0.
        page_size: 1 to 100.
        status: Only jobs of that status; None for all.

    Raises:
        ValueError: One of them is out of range.
    """
    if page < 0:
        raise ValueError(f"page must be 0 or more, got {page}")
    if not 1 <= page_size <= MAX_PAGE_SIZE:
        raise ValueError(f"page_size must be 1 to {MAX_PAGE_SIZE}, got {page_size}")
    if status is not None and JobStatus(status) is JobStatus.UNKNOWN:
        raise ValueError("status must be one that the service documents, got JobStatus.UNKNOWN")
    query: dict[str, str | int] = {"page": page, "pageSize": page_size}
    if status is not None:
        query["status"] = JobStatus(status).value  # the plain text is taken, too
    return f"{_JOBS}?{urlencode(query)}"


def decipher_job(
    status: int,
    headers: Headers,
    body: bytes,
    *,
    job_id: str,
    now: datetime | None = None,
    secret: str = "",
) -> JobSnapshot:
    """Make sense of the answer to a GET of one job.

    Args:
        status: HTTP status.
        headers: Of the answer.
        body: Whole.
        job_id: The job that was asked for.
        now: The wall clock, for a Retry-After date from a service that sends no Date.
        secret: The key of the request, which an error page may quote.

    Raises:
        StatusError: The status is no success; each documented one has its own class.
        MalformedAnswerError: The body is not what the service documents.
        WrongJobError: It is about another job.
    """
    if status not in {200, 206}:
        raise status_error(status, headers, body, job_id=job_id, now=now, secret=secret)
    try:
        snapshot = codec.decode_job(body, conforms=status != 206)  # noqa: PLR2004 - an HTTP status
    except MalformedAnswerError as exc:
        problems = exc.problems
    else:
        if snapshot.job_id != job_id:
            raise WrongJobError(job_id=job_id, answered=snapshot.job_id)
        return snapshot
    raise MalformedAnswerError([*problems, *_whose_page(headers)], job_id=job_id)


def decipher_page(
    status: int,
    headers: Headers,
    body: bytes,
    *,
    now: datetime | None = None,
    secret: str = "",
) -> JobPage:
    """Make sense of the answer to a GET of the list; raises as `decipher_job` does."""
    if status != 200:  # noqa: PLR2004 - an HTTP status
        raise status_error(status, headers, body, job_id=None, now=now, secret=secret)
    try:
        return codec.decode_page(body)
    except MalformedAnswerError as exc:
        problems = exc.problems
    raise MalformedAnswerError([*problems, *_whose_page(headers)])


def _whose_page(headers: Headers) -> list[str]:
    kind = headers.get("Content-Type") or "no type"
    return [] if "json" in kind.lower() else [f"it came as {showable(kind, 80)}"]


_ERRORS: Final[Mapping[int, type[StatusError]]] = {
    401: AuthenticationError,
    402: PaymentRequiredError,
    403: PermissionDeniedError,
    404: JobNotFoundError,
    408: ServerTimeoutError,
    422: UnprocessableError,
    429: RateLimitedError,
}


def status_error(
    status: int,
    headers: Headers,
    body: bytes,
    *,
    job_id: str | None,
    now: datetime | None = None,
    secret: str = "",
) -> StatusError:
    """Give the error of a status that is no success, with what the service said."""
    cls = _ERRORS.get(status, UnexpectedStatusError)
    if 300 <= status < 400:  # noqa: PLR2004 - classes of HTTP statuses
        cls = RedirectRefusedError
    elif status >= 500:  # noqa: PLR2004
        cls = ServerError
    return cls(
        status=status,
        detail=_detail(body, secret),
        job_id=job_id,
        retry_after=parse_retry_after(headers, now=now),
    )


def _detail(body: bytes, secret: str) -> str:
    """Give what an error body says: FastAPI's ``detail`` in one line, else its first words."""
    # The secret is looked for in what was decoded: "=" can be quoted as \u003d or &#61;.
    try:
        raw = codec.loads(body[:65_536])
    except MalformedAnswerError:
        # Here it is looked for before the cut, too, which could split it.
        page = _without(secret, body[:65_536].decode("utf-8", "replace"))[:4096]
        text = _without(secret, html.unescape(re.sub(r"<[^>]*>", " ", page)))
        return showable(" ".join(text.split()), 200)
    said = raw.get("detail", raw) if isinstance(raw, dict) else raw
    if isinstance(said, list):
        told = [_without(secret, _validation_problem(item)) for item in said[:5]]
        return "; ".join(showable(problem, 200) for problem in told)
    return showable(_without(secret, said if isinstance(said, str) else repr(said)))


def _without(secret: str, text: str) -> str:
    return text.replace(secret, REDACTED) if secret else text


def _validation_problem(item: Json) -> str:
    if not isinstance(item, dict):
        return repr(item)
    where = item.get("loc")
    path = ".".join(str(part) for part in where) if isinstance(where, list) else ""
    return f"{item.get('msg')} @ {path}" if path else str(item.get("msg"))


MAX_RETRY_AFTER: Final = 300.0
"""Longest Retry-After that is believed, in seconds; a longer one is taken for this."""

_SECONDS: Final = re.compile(r"\d+(\.\d*)?", re.ASCII)


def parse_retry_after(headers: Headers, *, now: datetime | None = None) -> float | None:
    """Read Retry-After (RFC 9110, section 10.2.3) as seconds from now.

    A date is counted from the answer's own Date, so that the two clocks need not agree; from
    `now` where there is none. Dates that have passed are 0, absurd waits are clamped to
    `MAX_RETRY_AFTER`, and what cannot be read is None.
    """
    value = (headers.get("Retry-After") or "").strip()
    if _SECONDS.fullmatch(value):
        return min(float(value), MAX_RETRY_AFTER)
    until = parse_http_date(value)
    since = parse_http_date(headers.get("Date") or "") or now
    if until is None or since is None:
        return None
    seconds = (until - since).total_seconds()
    return min(max(seconds, 0.0), MAX_RETRY_AFTER) if math.isfinite(seconds) else None
