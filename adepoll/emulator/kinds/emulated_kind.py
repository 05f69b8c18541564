"""`EmulatedKind`: the rules of one kind of jobs, such as ids, requests and answers. No I/O."""

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import ClassVar, Final, Self

from attrs import frozen

from adepoll.api.models import JobStatus, Json
from adepoll.emulator.endpoints import Endpoint
from adepoll.emulator.jobs import Job, Outcome
from adepoll.emulator.kinds.forms import Form, Problem, Submission
from adepoll.emulator.odd_values import OddValue
from adepoll.emulator.result_parts import ResultParts, dump
from adepoll.emulator.results import ResultBody
from adepoll.emulator.stored_objects import Chunked

STATUSES: Final = {status.value: status for status in JobStatus if status is not JobStatus.UNKNOWN}
"""The statuses that the service documents, by their text."""


@frozen(kw_only=True)
class PageQuery:
    """A request for a page of the list.

    Attributes:
        page: Number of the page, from 0.
        page_size: Largest number of jobs.
        status: Only jobs with this status; None for all.
        impossible: True if the request names a status that does not exist. The page is then empty.
    """

    page: int = 0
    page_size: int = 10
    status: JobStatus | None = None
    impossible: bool = False


@frozen(kw_only=True)
class JobAnswer(Chunked):
    """The answer to a poll: a JSON object. If the job has a result, one of its fields contains it.

    Attributes:
        status: HTTP status.
        head: The bytes before the result; all bytes if there is no result.
        result: The result; None for an answer without a result.
        tail: The bytes after the result.
    """

    status: int
    head: bytes
    result: ResultBody | None = None
    tail: bytes = b""

    @classmethod
    def of(
        cls, others: dict[str, Json], field: str, result: ResultBody, *, status: int, first: bool
    ) -> Self:
        """Return an answer that contains a result.

        Args:
            others: The other fields of the answer; at least one.
            field: Name of the field with the result.
            result: The result.
            status: HTTP status.
            first: True if the result is the first field, False if it is the last one.
        """
        fields, name = dump(others).encode()[1:-1], f'"{field}":'.encode()
        if first:
            return cls(status=status, head=b"{" + name, result=result, tail=b"," + fields + b"}")
        return cls(status=status, head=b"{" + fields + b"," + name, result=result, tail=b"}")

    @property
    def size(self) -> int:
        """Length of the body, in bytes."""
        middle = 0 if self.result is None else self.result.size
        return len(self.head) + middle + len(self.tail)

    def read(self, start: int = 0, stop: int | None = None) -> bytes:
        """Return the bytes of the body from `start` up to `stop`."""
        stop = self.size if stop is None else stop
        if self.result is None:
            return self.head[start:stop]
        in_result = len(self.head)
        in_tail = in_result + self.result.size
        parts = (
            self.head[start:stop],
            self.result.read(start - in_result, stop - in_result),
            self.tail[max(start - in_tail, 0) : max(stop - in_tail, 0)],
        )
        return b"".join(parts)


class EmulatedKind(ABC):
    """One kind of jobs: its paths, its ids, and the JSON of its requests, answers and results.

    Attributes:
        name: Name of the kind, such as ``v1-extract``.
        path: Path of the job list. A slash and a job id after it make the path of the job.
        outcomes: How jobs of this kind can end.
        has_tiers: True if jobs of this kind have a `service_tier`.
        inline_limit: Largest result that is part of an answer, in bytes. A larger result is behind
            `output_url`. None for no limit.
        is_newest_first: True if the service documents that the list begins with the newest jobs.
        latest_model: The model of a job if the request that created it names no model.
    """

    name: ClassVar[str]
    path: ClassVar[str]
    outcomes: ClassVar[frozenset[Outcome]]
    has_tiers: ClassVar[bool]
    inline_limit: ClassVar[int | None]
    is_newest_first: ClassVar[bool]
    latest_model: ClassVar[str]

    def model(self, requested: str | None) -> str:
        """Return the requested model of a job; the latest one for None or ``...-latest``."""
        if not requested or requested.endswith("-latest"):
            return self.latest_model
        return requested

    def limit_of(self, job: Job) -> int | None:
        """Return the size above which the result of a job is behind a URL; None for no limit."""
        early = self.inline_limit is not None and OddValue.EARLY_URL in job.plan.odd_values
        return 0 if early else self.inline_limit

    def rng(self, job: Job, seed: int | str) -> random.Random:
        """Return a generator for the random values of the result of a job; see `result`."""
        return random.Random(f"{seed}/{job.job_id}")  # noqa: S311 - reproducible, not secret

    @abstractmethod
    def new_id(self, now: float, rng: random.Random) -> str:
        """Return the id of a job that is created at `now`, in Unix seconds."""

    @abstractmethod
    def read_submission(self, form: Form) -> Submission:
        """Read a request that creates a job; raise `InvalidRequestError` if it is invalid."""

    @abstractmethod
    def created(self, job: Job, *, now: float) -> Json:
        """Return the JSON body of the answer to the request that created the job."""

    @abstractmethod
    def answer(
        self, job: Job, *, now: float, org_id: str, result: ResultBody | None, url: str | None
    ) -> JobAnswer:
        """Return the answer to a poll of a job.

        Args:
            job: A job that the service has already received (its `received_at` is in the past).
            now: Unix seconds.
            org_id: Id of the organisation.
            result: The result; None if it is not part of the answer.
            url: `output_url`; None if the answer has no URL.
        """

    @abstractmethod
    def result(self, job: Job, *, seed: int | str, org_id: str) -> ResultParts:
        """Return the parts from which `ResultParts.fit` makes the JSON of the result, in any size.

        The same arguments return the same parts.

        Args:
            job: The job.
            seed: Determines the values. `World` passes another seed after `World.replace_result`.
            org_id: Id of the organisation.
        """

    @abstractmethod
    def read_query(self, query: Mapping[str, str]) -> PageQuery:
        """Parse the query of a list request; raise `InvalidRequestError` if it is invalid."""

    @abstractmethod
    def page(
        self, jobs: Sequence[Job], query: PageQuery, *, now: float, org_id: str, has_more: bool
    ) -> Json:
        """Return the JSON of a page of the job list.

        Args:
            jobs: The jobs of the page, which have arrived.
            query: The query of the request.
            now: The page shows the jobs as they were at this time, in Unix seconds.
            org_id: Id of the organisation.
            has_more: True if more jobs follow.
        """

    @abstractmethod
    def error(self, endpoint: Endpoint, status: int) -> Json:
        """Return the body of an error.

        Args:
            endpoint: Endpoint of the request.
            status: HTTP status.
        """

    @abstractmethod
    def invalid(self, problems: Sequence[Problem]) -> Json:
        """Return the JSON body of an answer with status 422, which describes the problems."""


MESSAGES: Final = {
    401: "Invalid or missing API key",
    402: "User balance is insufficient",
    403: "Forbidden",
    404: "Job ID not found",
    408: "Request timeout",
    409: "A job with this identifier is being created",
    429: "Rate limit exceeded",
    500: "Internal server error",
    503: "Service unavailable",
}
"""The usual text of an error, by HTTP status."""


def message_of(status: int) -> str:
    """Return the usual text of an error."""
    return MESSAGES.get(status) or HTTPStatus(status).phrase
