"""Creates the requests of a client about jobs, and restricts a client to jobs of one kind.

`ClientOfKind` and `PollingClient` send their requests through an `AdeClient`. An id that is passed
to them means a job of their kind. `ClientOfKind` repeats failed requests, as the client does;
`PollingClient` sends each request once.
"""

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Final, Protocol
from urllib.parse import quote, urlencode

import aiohttp
from attrs import define, field, frozen

from adepoll.api import protocol
from adepoll.api.job_ids import PLAIN_JOB_ID, check_job_id
from adepoll.api.job_kind import JobKind, JobRef
from adepoll.api.kinds.kind_rules import Api, KindRules
from adepoll.api.large_answer import LargeAnswer
from adepoll.api.models import MAX_PAGE_SIZE, JobPage, JobSnapshot, JobStatus
from adepoll.api.odd_answers import OddAnswers
from adepoll.api.request import Request, Root
from adepoll.api.result_folder import ResultFolder
from adepoll.api.source import checked_page, checked_snapshot
from adepoll.api.transport import Transport
from adepoll.common.redaction import ApiKey
from adepoll.throttling.hosts import Host
from adepoll.throttling.request_sender import RequestSender, Send


class WrappedClient(Protocol):
    """The attributes of an `AdeClient` that `ClientOfKind` and `PollingClient` use."""

    @property
    def kind(self) -> JobKind:
        """Default kind: the kind of each job whose id does not contain the kind."""

    @property
    def get_job(self) -> Callable[..., Awaitable[JobSnapshot]]:
        """The method that polls one job."""

    @property
    def list_jobs(self) -> Callable[..., Awaitable[JobPage]]:
        """The method that requests one page of the job list."""

    def service_time(self) -> float | None:
        """Return the Unix time of the service, in seconds; None if it is not known yet."""


@frozen
class OriginalMethods:
    """The methods `get_job` and `list_jobs` as the class `AdeClient` defines them.

    They are compared with the methods of a client. If a subclass or a test has replaced a method,
    `ClientOfKind` and `PollingClient` call the new one.
    """

    get_job: Callable[..., Any]
    list_jobs: Callable[..., Any]


class ClientOfKind:
    """A client for jobs of one kind. It sends its requests through an `AdeClient`.

    Every id that is passed to its methods means a job of this kind.
    """

    def __init__(
        self, client: WrappedClient, requests: "JobRequests", rules: KindRules, own: OriginalMethods
    ) -> None:
        """Create a client for the jobs to which `rules` apply; called by `AdeClient.for_kind`."""
        self._client = client
        self._requests = requests
        self._rules = rules
        self._own = own
        self.kind = rules.kind
        self.newest_first = rules.newest_first
        self.service_time = client.service_time
        self.origin = requests.origin(rules)

    async def get_job(self, job_id: str) -> JobSnapshot:
        """Poll one job once; raises as `AdeClient.get_job` does."""
        return await self._client.get_job(JobRef(job_id, kind=self.kind))

    async def list_jobs(
        self, *, page: int = 0, page_size: int = 100, status: JobStatus | None = None
    ) -> JobPage:
        """List one page of jobs; raises as `AdeClient.list_jobs` does."""
        return await self._client.list_jobs(
            page=page, page_size=page_size, status=status, kind=self.kind
        )

    def for_polling(self, semaphore: AbstractAsyncContextManager[object]) -> "PollingClient":
        """Return a client for callers that poll on a schedule; see `AdeClient.for_polling`."""
        return PollingClient(self._client, self._requests, self._rules, self._own, semaphore)


class PollingClient:
    """A client for code that polls on a schedule. It uses an `AdeClient`.

    It sends each request once, and holds a semaphore during the request. All its jobs are of one
    kind.
    """

    def __init__(
        self,
        client: WrappedClient,
        requests: "JobRequests",
        rules: KindRules,
        own: OriginalMethods,
        semaphore: AbstractAsyncContextManager[object],
    ) -> None:
        """Create a client for the jobs to which `rules` apply; called by `for_polling`."""
        self._client = client
        self._requests = requests
        self._rules = rules
        self._own = own
        self._semaphore = semaphore
        self.kind = rules.kind
        self.service_time = client.service_time

    def get_job(self, job_id: str) -> Coroutine[Any, Any, JobSnapshot]:
        """Poll one job once; raises as `AdeClient.get_job` does."""
        # Not `async def`: one more coroutine would make every poll slower.
        if getattr(self._client.get_job, "__func__", None) is self._own.get_job:
            requests, rules = self._requests, self._rules
            return requests.sender.call_once(
                requests.for_job(rules, job_id),
                requests.hosts[rules.api],
                self._semaphore,
                job_id=job_id,
            )
        return self._get_overridden(job_id)

    async def _get_overridden(self, job_id: str) -> JobSnapshot:
        """Poll one job with the client's own `get_job`, which a subclass or test has replaced."""
        ref = JobRef(job_id, kind=self.kind)
        job = job_id if ref.text(self._client.kind) == job_id else ref
        async with self._semaphore:
            return checked_snapshot(await self._client.get_job(job))

    async def list_jobs(
        self, *, page: int = 0, page_size: int = 100, status: JobStatus | None = None
    ) -> JobPage:
        """List one page of jobs; raises as `AdeClient.list_jobs` does."""
        client = self._client
        if getattr(client.list_jobs, "__func__", None) is self._own.list_jobs:
            requests, rules = self._requests, self._rules
            return await requests.sender.call_once(
                requests.for_page(rules, page, page_size, status),
                requests.hosts[rules.api],
                self._semaphore,
            )
        of_kind = {} if self.kind == client.kind else {"kind": self.kind}
        async with self._semaphore:
            listed = await client.list_jobs(
                page=page, page_size=page_size, status=status, **of_kind
            )
        return checked_page(listed)


@define(eq=False, kw_only=True)
class JobRequests:
    """Creates the requests of an `AdeClient`, and of its `ClientOfKind` and `PollingClient`.

    Attributes:
        api_key: The API key, which is removed from the texts of answers.
        sender: Decides when a request is sent.
        transport: Sends the request.
        roots: Base URL of the API, and its proxy, for v1 and for v2 jobs.
        hosts: The host in the request budget, for v1 and for v2 jobs.
        result_dir: Folder for results that are too large for memory. None: the snapshots of such
            answers contain no result.
        on_request: Function that is called once for each call of the client, before its first
            request; None if there is no such function.
    """

    api_key: ApiKey
    sender: RequestSender
    transport: Transport
    roots: Mapping[Api, Root]
    hosts: Mapping[Api, Host]
    result_dir: ResultFolder | None = None
    on_request: Callable[[], None] | None = None
    _odd_answers: OddAnswers = field(factory=OddAnswers, init=False)

    async def open(
        self, rules: KindRules, job_id: str, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        """Send the request of one poll, and return the response before its body is read.

        `AdeClient.open_answer` describes the headers.
        """
        if self.on_request is not None:
            self.on_request()
        root = self.roots[rules.api]
        statuses = rules.success | (_ANSWERS_TO_RANGES if headers else frozenset())
        request = Request(
            root=root,
            target=root.path + job_path(rules, job_id),
            headers={"Accept-Encoding": "identity", **headers},
            read=partial(protocol.read_refusal, job_id),
            job_id=job_id,
            adopt=partial(self.transport.adopt, statuses),
        )
        return await self.sender.call(partial(self.transport.get, request), self.hosts[rules.api])

    def origin(self, rules: KindRules) -> str:
        """Return the scheme, host and port to which requests about jobs of a kind are sent."""
        return str(self.roots[rules.api].url.origin())

    def for_job(self, rules: KindRules, job_id: str) -> Send[JobSnapshot]:
        """Return a function that sends the request for one poll of a job.

        Raises:
            InvalidJobIdError: The id cannot be a job id.
        """
        if self.on_request is not None:
            self.on_request()
        large = None
        if rules.can_be_large:
            large = partial(LargeAnswer, rules.result_field, self.result_dir)
        root = self.roots[rules.api]
        request = Request(
            root=root,
            target=root.path + job_path(rules, job_id),
            read=partial(
                protocol.read_job,
                rules,
                job_id,
                odd_answers=self._odd_answers,
                secret=self.api_key,
            ),
            job_id=job_id,
            large=large,
        )
        return partial(self.transport.get, request)

    def for_page(
        self, rules: KindRules, page: int, page_size: int, status: JobStatus | None
    ) -> Send[JobPage]:
        """Return a function that sends the request for one page of the job list.

        `AdeClient.list_jobs` describes the arguments and errors.
        """
        if self.on_request is not None:
            self.on_request()
        root = self.roots[rules.api]
        query = list_query(rules, page=page, page_size=page_size, status=status)
        request = Request(
            root=root,
            target=f"{root.path}{rules.path}?{query}",
            read=partial(
                protocol.read_page, rules, odd_answers=self._odd_answers, secret=self.api_key
            ),
        )
        return partial(self.transport.get, request)


def job_path(rules: KindRules, job_id: str) -> str:
    """Return the path of one job, with its id percent-encoded; raises `InvalidJobIdError`."""
    if type(job_id) is not str or PLAIN_JOB_ID.fullmatch(job_id) is None:
        job_id = quote(check_job_id(job_id), safe="")
    return f"{rules.path}/{job_id}"


def list_query(rules: KindRules, *, page: int, page_size: int, status: JobStatus | None) -> str:
    """Return the encoded query for one page of the list, whose path is `KindRules.path`.

    Args:
        rules: Rules of the kind of the jobs.
        page: Number of the page, counted from 0.
        page_size: 1 to 100.
        status: List only jobs with this status, which can also be a text such as "failed". None for
            all jobs.

    Raises:
        ValueError: An argument is out of range, or `status` is `JobStatus.UNKNOWN`.
    """
    if page < 0:
        raise ValueError(f"page must be 0 or more, got {page}")
    if not 1 <= page_size <= MAX_PAGE_SIZE:
        raise ValueError(f"page_size must be 1 to {MAX_PAGE_SIZE}, got {page_size}")
    wanted = None if status is None else JobStatus(status)
    if wanted is JobStatus.UNKNOWN:
        raise ValueError("status must be one that the service documents, got JobStatus.UNKNOWN")
    return urlencode(rules.list_query(page, page_size, wanted))


# Statuses of the response to a request for a range, if the condition of the request is not met, or
# if the range does not exist.
_ANSWERS_TO_RANGES: Final = frozenset({412, 416})
