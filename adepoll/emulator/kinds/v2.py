"""The rules that the v2 kinds have in common: ids, answers, list and errors. Does no I/O."""

import random
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Final

from adepoll.api.models import JobStatus, Json
from adepoll.emulator.endpoints import Endpoint
from adepoll.emulator.jobs import Job, Outcome
from adepoll.emulator.kinds.emulated_kind import (
    STATUSES,
    EmulatedKind,
    JobAnswer,
    PageQuery,
    message_of,
)
from adepoll.emulator.kinds.forms import FormReader, InvalidRequestError, Problem, read_integer
from adepoll.emulator.odd_values import OddValue, iso_time, odd_envelope
from adepoll.emulator.profiles import STANDARD, TIERS
from adepoll.emulator.result_parts import dump
from adepoll.emulator.results import ResultBody

OPENAPI_SPEC: Final = "https://api.ade.landing.ai/openapi.json"

_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32
_ULID_LETTERS: Final = 26
_RANDOM_BITS: Final = 80
_MOST_PROGRESS: Final = 0.98
# Multiples of this number, modulo 1, are spread evenly over 0 to 1 (golden ratio).
_GOLDEN: Final = 0.6180339887
_CODES: Final = {
    401: "invalid_api_key",
    402: "insufficient_credits",
    403: "forbidden",
    404: "not_found",
    408: "request_timeout",
    409: "conflict",
    429: "rate_limit_exceeded",
}


class V2Kind(EmulatedKind):
    """The base class of the v2 kinds. A subclass adds what differs between these kinds.

    Attributes:
        id_prefix: Text with which the job ids begin.
    """

    id_prefix: str

    outcomes = frozenset(Outcome) - {Outcome.CANCELLED}
    has_tiers = True
    inline_limit = None
    is_newest_first = True

    @abstractmethod
    def metadata(self, job: Job) -> dict[str, Json]:
        """Return the `metadata` of the result of a job."""

    def new_id(self, now: float, rng: random.Random) -> str:
        """Return a new job id: `id_prefix` and a ULID (48 bits of time in ms, 80 random bits)."""
        number = int(now * 1_000) << _RANDOM_BITS | rng.getrandbits(_RANDOM_BITS)
        letters = [
            _ALPHABET[number >> 5 * place & 31] for place in range(_ULID_LETTERS - 1, -1, -1)
        ]
        return self.id_prefix + "".join(letters)

    def created(self, job: Job, *, now: float) -> Json:
        """Return the JSON body of the answer to the request that created the job.

        The job can have ended already.
        """
        status = job.status_at(now)
        if status is None or not status.is_terminal:
            status = JobStatus.PENDING
        body: dict[str, Json] = {
            "job_id": job.job_id,
            "status": status.value,
            "created_at": iso_time(job.received_at),
        }
        return odd_envelope(body, job.plan.odd_values, _moments(job))

    def answer(
        self,
        job: Job,
        *,
        now: float,
        org_id: str,  # noqa: ARG002 - the signature of the base class
        result: ResultBody | None,
        url: str | None,
    ) -> JobAnswer:
        """Return the answer to a poll of a job."""
        if (status := job.status_at(now)) is None:
            raise AssertionError("a job in an answer must have arrived")
        body: dict[str, Json] = {
            "job_id": job.job_id,
            "status": status.value,
            "created_at": iso_time(job.received_at),
        }
        if status is JobStatus.PROCESSING:
            body["progress"] = _progress(job, now=now)
        if status.is_terminal:
            body["completed_at"] = iso_time(job.finished_at)
        if status is JobStatus.FAILED:
            reason = job.failure_reason_at(now)
            body["error"] = {"code": job.plan.error_code, "message": reason}
        if url is not None:
            body |= {"output_url": url, "metadata": self.metadata(job)}
        http_status = 200
        if status is JobStatus.COMPLETED and job.plan.outcome is Outcome.PARTIAL:
            http_status = job.plan.partial_status or 200
        odd = job.plan.odd_values
        body = odd_envelope(body, odd, _moments(job))
        if result is None:
            return JobAnswer(status=http_status, head=dump(body).encode())
        first = OddValue.RESULT_FIRST in odd
        return JobAnswer.of(body, "result", result, status=http_status, first=first)

    def read_query(self, query: Mapping[str, str]) -> PageQuery:
        """Parse the query of a list request; raise `InvalidRequestError` if it is invalid.

        `page_size` is documented, and the official SDK sends `pageSize` for parse jobs, so both are
        accepted. A `status` that does not exist is valid, and the page is then empty.
        """
        problems: list[Problem] = []
        name = "page_size" if "page_size" in query else "pageSize"
        page = read_integer(query, "page", problems, default=0, minimum=0)
        size = read_integer(query, name, problems, default=10, minimum=1, maximum=100)
        if problems:
            raise InvalidRequestError(problems)
        text = query.get("status") or None
        status = None if text is None else STATUSES.get(text)
        impossible = text is not None and status is None
        return PageQuery(page=page, page_size=size, status=status, impossible=impossible)

    def page(
        self,
        jobs: Sequence[Job],
        query: PageQuery,
        *,
        now: float,
        org_id: str,  # noqa: ARG002 - the signature of the base class
        has_more: bool,
    ) -> Json:
        """Return the JSON of a page of the v2 job list; see `EmulatedKind.page`."""
        return {
            "jobs": [_summary(job, now=now) for job in jobs],
            "has_more": has_more,
            "page": query.page,
            "page_size": query.page_size,
        }

    def error(self, endpoint: Endpoint, status: int) -> Json:  # noqa: ARG002 - the signature of the base class
        """Return the body of an error: `error` for 401 and 403, else `code` and `message`."""
        text = message_of(status)
        if status in {401, 403}:
            return {"error": text}
        return {"code": _CODES.get(status, "internal_error"), "message": text}

    def invalid(self, problems: Sequence[Problem]) -> Json:
        """Return the JSON body of an answer with status 422: one text with all problems."""
        texts = [f"{'.'.join(where)}: {message}" for where, message, _ in problems]
        return {"code": "validation_error", "message": "; ".join(texts)}


def read_tier(reader: FormReader) -> str:
    """Return the `service_tier` that a request asks for; ``standard`` if it asks for none."""
    return reader.choice("service_tier", TIERS) or STANDARD


def billing(job: Job, credits_used: float) -> dict[str, Json]:
    """Return the JSON object `billing` of the metadata: `credits_used` and the service tier."""
    return {"service_tier": job.tier, "total_credits": credits_used}


def _progress(job: Job, *, now: float) -> float:
    """Return an estimate of the progress, at most 0.98.

    It is the share of the processing that is done, times a number from 0.6 to 1.6.
    """
    factor = 0.6 + job.number * _GOLDEN % 1
    return round(min(job.share_done(now) * factor, _MOST_PROGRESS), 4)


def _summary(job: Job, *, now: float) -> dict[str, Json]:
    """Return a job as it is shown in the job list."""
    if (status := job.status_at(now)) is None:
        raise AssertionError("a job in an answer must have arrived")
    item: dict[str, Json] = {
        "job_id": job.job_id,
        "status": status.value,
        "created_at": iso_time(job.received_at),
        "completed_at": iso_time(job.finished_at) if status.is_terminal else None,
        "failure_reason": job.failure_reason_at(now),
        "model_version": job.version if status is JobStatus.COMPLETED else None,
    }
    return odd_envelope(item, job.plan.odd_values, _moments(job))


def _moments(job: Job) -> dict[str, float]:
    return {"created_at": job.received_at, "completed_at": job.finished_at}
