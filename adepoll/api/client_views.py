"""Views of an `AdeClient`: its jobs of one kind, and polls that are sent once.

Imports job_requests and below.
"""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from attrs import frozen

from adepoll.api.job_kind import JobKind, JobRef
from adepoll.api.job_requests import JobRequests
from adepoll.api.kinds.kind_rules import KindRules
from adepoll.api.models import JobPage, JobSnapshot, JobStatus


class ViewedClient(Protocol):
    """An `AdeClient`, as its views use it."""

    @property
    def kind(self) -> JobKind:
        """Kind of the jobs that are named by an id alone."""

    @property
    def get_job(self) -> Callable[..., Awaitable[JobSnapshot]]:
        """Poll one job."""

    @property
    def list_jobs(self) -> Callable[..., Awaitable[JobPage]]:
        """List one page of jobs."""

    def service_time(self) -> float | None:
        """Return the Unix time of the service."""


@frozen
class OwnMethods:
    """The methods of `AdeClient`, to find out whether a client has overridden or patched them."""

    get_job: Callable[..., Any]
    list_jobs: Callable[..., Any]


class ClientOfKind:
    """A view of an `AdeClient` whose ids mean jobs of one kind."""

    def __init__(
        self, client: ViewedClient, requests: JobRequests, rules: KindRules, own: OwnMethods
    ) -> None:
        """Create a view; see `AdeClient.for_kind`."""
        self._client = client
        self._requests = requests
        self._rules = rules
        self._own = own
        self.kind = rules.kind
        self.newest_first = rules.newest_first
        self.service_time = client.service_time

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
        """Return a view for callers that poll on a schedule; see `AdeClient.for_polling`."""
        return PollingClient(self._client, self._requests, self._rules, self._own, semaphore)


class PollingClient:
    """A view of an `AdeClient` that sends each request once and holds a semaphore meanwhile.

    All its jobs are of one kind.
    """

    def __init__(
        self,
        client: ViewedClient,
        requests: JobRequests,
        rules: KindRules,
        own: OwnMethods,
        semaphore: AbstractAsyncContextManager[object],
    ) -> None:
        """Create a view; see `AdeClient.for_polling`."""
        self._client = client
        self._requests = requests
        self._rules = rules
        self._own = own
        self._semaphore = semaphore
        self.kind = rules.kind
        self.service_time = client.service_time

    async def get_job(self, job_id: str) -> JobSnapshot:
        """Poll one job once; raises as `AdeClient.get_job` does."""
        client = self._client
        if getattr(client.get_job, "__func__", None) is self._own.get_job:
            return await self._requests.poll(self._rules, job_id, self._semaphore)
        job = job_id if self.kind == client.kind else JobRef(job_id, kind=self.kind)
        async with self._semaphore:
            return await client.get_job(job)

    async def list_jobs(
        self, *, page: int = 0, page_size: int = 100, status: JobStatus | None = None
    ) -> JobPage:
        """List one page of jobs; raises as `AdeClient.list_jobs` does."""
        client = self._client
        if getattr(client.list_jobs, "__func__", None) is self._own.list_jobs:
            return await self._requests.list_once(
                self._rules, page, page_size, status, self._semaphore
            )
        of_kind = {} if self.kind == client.kind else {"kind": self.kind}
        async with self._semaphore:
            return await client.list_jobs(page=page, page_size=page_size, status=status, **of_kind)
