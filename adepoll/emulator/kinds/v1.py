"""The rules that both v1 kinds have in common: ids, answers, list and errors. Does no I/O."""

import random
import uuid
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
from adepoll.emulator.kinds.forms import InvalidRequestError, Problem, read_integer
from adepoll.emulator.odd_values import OddValue, odd_envelope
from adepoll.emulator.result_parts import dump
from adepoll.emulator.results import ResultBody

INLINE_LIMIT: Final = 1_000_000
"""Largest result sent as `data`, in bytes; larger results are behind `output_url`."""

_PARTIAL: Final = 206


class V1Kind(EmulatedKind):
    """The base class of the v1 kinds. A subclass adds what differs between these kinds."""

    outcomes = frozenset(Outcome)
    has_tiers = False
    inline_limit = INLINE_LIMIT
    is_newest_first = False

    @abstractmethod
    def metadata(self, job: Job, *, org_id: str) -> dict[str, Json]:
        """Return the `metadata` of a completed job."""

    @abstractmethod
    def progress(self, job: Job, *, now: float) -> float:
        """Return the progress of a job that is being processed, from 0.0 to 1.0."""

    def new_id(self, now: float, rng: random.Random) -> str:  # noqa: ARG002 - the signature of the base class
        """Return a UUID."""
        return str(uuid.UUID(int=rng.getrandbits(128), version=4))

    def created(self, job: Job, *, now: float) -> Json:  # noqa: ARG002 - the signature of the base class
        """Return the JSON body of the answer to the request that created the job."""
        return {"job_id": job.job_id}

    def answer(
        self, job: Job, *, now: float, org_id: str, result: ResultBody | None, url: str | None
    ) -> JobAnswer:
        """Return the answer to a poll of a job, with the fields in the documented order."""
        body = self._summary(job, now=now)
        completed = job.status_at(now) is JobStatus.COMPLETED
        body |= {
            "org_id": org_id,
            "version": job.version if completed else None,
            "metadata": self.metadata(job, org_id=org_id) if completed else None,
            "output_url": url,
        }
        status = 200
        if completed and job.plan.outcome is Outcome.PARTIAL:
            status = job.plan.partial_status or _PARTIAL
        odd = job.plan.odd_values
        body = odd_envelope(body, odd, _moments(job))
        if result is None:
            return JobAnswer(status=status, head=dump(body | {"data": None}).encode())
        first = OddValue.RESULT_FIRST in odd
        return JobAnswer.of(body, "data", result, status=status, first=first)

    def read_query(self, query: Mapping[str, str]) -> PageQuery:
        """Parse the query of a list request; raise `InvalidRequestError` if it is invalid."""
        problems: list[Problem] = []
        page = read_integer(query, "page", problems, default=0, minimum=0)
        size = read_integer(query, "pageSize", problems, default=10, minimum=1, maximum=100)
        status = query.get("status")
        if status is not None and status not in STATUSES:
            expected = "'cancelled', 'completed', 'failed', 'pending' or 'processing'"
            problems.append((("query", "status"), f"Input should be {expected}", "literal_error"))
        if problems:
            raise InvalidRequestError(problems)
        wanted = None if status is None else STATUSES[status]
        return PageQuery(page=page, page_size=size, status=wanted)

    def page(
        self,
        jobs: Sequence[Job],
        query: PageQuery,  # noqa: ARG002 - the signature of the base class
        *,
        now: float,
        org_id: str,
        has_more: bool,
    ) -> Json:
        """Return the JSON of a page of the v1 job list; see `EmulatedKind.page`."""
        items = [
            odd_envelope(self._summary(job, now=now), job.plan.odd_values, _moments(job))
            for job in jobs
        ]
        return {"jobs": items, "org_id": org_id, "has_more": has_more}

    def error(self, endpoint: Endpoint, status: int) -> Json:
        """Return the body of an error: a JSON object with one text.

        The key of the text is `error` for requests that create jobs, and for the statuses 401 and
        403. In all other cases, it is `message`.
        """
        key = "error" if endpoint is Endpoint.CREATE or status in {401, 403} else "message"
        return {key: message_of(status)}

    def invalid(self, problems: Sequence[Problem]) -> Json:
        """Return the JSON body of an answer with status 422: problems in the form of FastAPI."""
        return {
            "detail": [
                {"loc": [*where], "msg": message, "type": kind} for where, message, kind in problems
            ]
        }

    def _summary(self, job: Job, *, now: float) -> dict[str, Json]:
        """Return a job as the job list shows it."""
        if (status := job.status_at(now)) is None:
            raise AssertionError("a job in an answer must have arrived")
        received_at = int(job.received_at)
        progress = 1.0 if status is JobStatus.COMPLETED else 0.0
        if status is JobStatus.PROCESSING:
            progress = self.progress(job, now=now)
        return {
            "job_id": job.job_id,
            "status": status.value,
            "received_at": received_at,
            "progress": progress,
            "created_at": received_at,
            "failure_reason": job.failure_reason_at(now),
        }


def _moments(job: Job) -> dict[str, float]:
    return {"received_at": job.received_at, "created_at": job.received_at}
