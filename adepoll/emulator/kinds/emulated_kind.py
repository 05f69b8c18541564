"""EmulatedKind: the rules of one kind, that is what differs between the kinds of jobs. No I/O."""

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
"""The statuses that the service documents, by name."""


@frozen(kw_only=True)
class PageQuery:
    """A request for a page of the list.

    Attributes:
        page: Number of the page, from 0.
        page_size: Largest number of jobs.
        status: Only jobs with this status; None for all.
        impossible: True for a status text that no job has, so that the page is empty.
    """

    page: int = 0
    page_size: int = 10
    status: JobStatus | None = None
    impossible: bool = False


@frozen(kw_only=True)
class JobAnswer(Chunked):
    """The answer to a GET of one job: an envelope, with the result in it if there is one.

    Attributes:
        status: HTTP status.
        head: The bytes before the result, or all bytes.
        result: The result.
        tail: The bytes after the result.
    """

    status: int
    head: bytes
    result: ResultBody | None = None
    tail: bytes = b""

    @classmethod
    def of(
        cls, envelope: dict[str, Json], field: str, result: ResultBody, *, status: int, first: bool
    ) -> Self:
        """Return an answer whose envelope has the result in one more field.

        Args:
            envelope: The other fields, of which there is at least one.
            field: Name of the field.
            result: The result.
            status: HTTP status.
            first: True if the result is the first field, False if it is the last one.
        """
        fields, name = dump(envelope).encode()[1:-1], f'"{field}":'.encode()
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
        path: Path of the job list. The path of a job is this path, a slash and the job's id.
        outcomes: How jobs of this kind can end.
        has_tiers: True if a job has a `service_tier`.
        inline_limit: Largest result that is part of an answer, in bytes; None for no limit.
        is_newest_first: True if the service documents that the list begins with the newest jobs.
        latest_model: The model that a submission without a model gets.
    """

    name: ClassVar[str]
    path: ClassVar[str]
    outcomes: ClassVar[frozenset[Outcome]]
    has_tiers: ClassVar[bool]
    inline_limit: ClassVar[int | None]
    is_newest_first: ClassVar[bool]
    latest_model: ClassVar[str]

    def model(self, requested: str | None) -> str:
        """Return the model that a submission gets: the latest one, unless it names another."""
        if not requested or requested.endswith("-latest"):
            return self.latest_model
        return requested

    def limit_of(self, job: Job) -> int | None:
        """Return the size above which the result of a job is behind a URL; None for no limit."""
        early = self.inline_limit is not None and OddValue.EARLY_URL in job.plan.odd_values
        return 0 if early else self.inline_limit

    def rng(self, job: Job, seed: int | str) -> random.Random:
        """Return what draws the values of the result of a job, for the seed of the world."""
        return random.Random(f"{seed}/{job.job_id}")  # noqa: S311 - reproducible, not secret

    @abstractmethod
    def new_id(self, now: float, rng: random.Random) -> str:
        """Return the id of a job that is created at `now`, in Unix seconds."""

    @abstractmethod
    def read_submission(self, form: Form) -> Submission:
        """Read a submission; raises `InvalidRequestError`."""

    @abstractmethod
    def created(self, job: Job, *, now: float) -> Json:
        """Return the answer to a submission."""

    @abstractmethod
    def answer(
        self, job: Job, *, now: float, org_id: str, result: ResultBody | None, url: str | None
    ) -> JobAnswer:
        """Return the answer to a GET of a job that has arrived.

        Args:
            job: The job.
            now: Unix seconds.
            org_id: Id of the organisation.
            result: The result, if it is part of the answer.
            url: `output_url`, if the answer contains it.
        """

    @abstractmethod
    def result(self, job: Job, *, seed: int | str, org_id: str) -> ResultParts:
        """Return the parts of the result of a job. The same arguments return the same parts.

        Args:
            job: The job.
            seed: The seed of the world.
            org_id: Id of the organisation.
        """

    @abstractmethod
    def read_query(self, query: Mapping[str, str]) -> PageQuery:
        """Read the query of a request for a page; raises `InvalidRequestError`."""

    @abstractmethod
    def page(
        self, jobs: Sequence[Job], query: PageQuery, *, now: float, org_id: str, has_more: bool
    ) -> Json:
        """Return a page of the list.

        Args:
            jobs: The jobs of the page, which have arrived.
            query: The request.
            now: Unix seconds of what the list knows.
            org_id: Id of the organisation.
            has_more: True if more jobs follow.
        """

    @abstractmethod
    def error(self, endpoint: Endpoint, status: int, message: str | None = None) -> Json:
        """Return the body of an error.

        Args:
            endpoint: Endpoint of the request.
            status: HTTP status.
            message: Text for people; None for the usual one.
        """

    @abstractmethod
    def invalid(self, problems: Sequence[Problem]) -> Json:
        """Return the body of 422."""


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
