"""JobRequests: the requests of one client about jobs, and what follows from odd answers.

Imports transport, protocol, odd_answers and throttling.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Final

import aiohttp
from attrs import define, field

from adepoll.api import protocol
from adepoll.api.kinds.kind_rules import Api, KindRules
from adepoll.api.large_answer import LargeAnswer
from adepoll.api.models import JobPage, JobSnapshot, JobStatus
from adepoll.api.odd_answers import OddAnswers
from adepoll.api.result_folder import ResultFolder
from adepoll.api.transport import Root, Transport
from adepoll.throttling.request_sender import RequestSender, Send


def _do_nothing() -> None:
    """Do nothing: the default of `JobRequests.on_request`."""


@define(eq=False, kw_only=True)
class JobRequests:
    """Sends the requests of one client, for the client and for its views.

    Attributes:
        sender: Sends requests within the budget.
        transport: Sends one request.
        roots: Address of each generation of the service.
        result_dir: Folder for results that are too large for memory; None to leave them out.
        on_request: Called before each request.
    """

    sender: RequestSender
    transport: Transport
    roots: Mapping[Api, Root]
    result_dir: ResultFolder | None = None
    on_request: Callable[[], None] = _do_nothing
    _odd_answers: OddAnswers = field(factory=OddAnswers, init=False)

    async def get(self, rules: KindRules, job_id: str) -> JobSnapshot:
        """Poll a job, again after temporary failures; raises as `AdeClient.get_job` does."""
        return self._checked(await self.sender.call(self._job(rules, job_id)))

    async def poll(
        self, rules: KindRules, job_id: str, semaphore: AbstractAsyncContextManager[object]
    ) -> JobSnapshot:
        """Poll a job once, and hold `semaphore` during the request."""
        return self._checked(await self.sender.call_once(self._job(rules, job_id), semaphore))

    async def list(
        self, rules: KindRules, page: int, page_size: int, status: JobStatus | None
    ) -> JobPage:
        """Request a page of the job list, and retry it after a temporary failure.

        Raises the errors of `AdeClient.list_jobs`.
        """
        if not rules.can_be_cancelled and status in {JobStatus.CANCELLED, "cancelled"}:
            return JobPage(jobs=())
        request = self._page(rules, page, page_size, status)
        return self._checked_page(await self.sender.call(request))

    async def list_once(
        self,
        rules: KindRules,
        page: int,
        page_size: int,
        status: JobStatus | None,
        semaphore: AbstractAsyncContextManager[object],
    ) -> JobPage:
        """Request a page of the job list without retries; hold `semaphore` during the request."""
        request = self._page(rules, page, page_size, status)
        return self._checked_page(await self.sender.call_once(request, semaphore))

    async def open(
        self, rules: KindRules, job_id: str, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        """Return the response about a job, whose body is not read yet; see `open_answer`."""
        self.on_request()
        request = self.transport.opening(
            self.roots[rules.api],
            protocol.job_path(rules, job_id),
            partial(protocol.read_refusal, job_id),
            job_id,
            statuses=rules.success | (_ANSWERS_TO_RANGES if headers else frozenset()),
            headers=headers,
        )
        return await self.sender.call(request)

    def _job(self, rules: KindRules, job_id: str) -> Send[JobSnapshot]:
        self.on_request()
        path = protocol.job_path(rules, job_id)
        read = partial(protocol.read_job, rules, job_id)
        large = None
        if rules.can_be_large:
            large = partial(LargeAnswer, rules.result_field, self.result_dir)
        return self.transport.request(self.roots[rules.api], path, read, job_id, large=large)

    def _page(
        self, rules: KindRules, page: int, page_size: int, status: JobStatus | None
    ) -> Send[JobPage]:
        self.on_request()
        path = protocol.list_path(rules, page=page, page_size=page_size, status=status)
        return self.transport.request(
            self.roots[rules.api], path, partial(protocol.read_page, rules)
        )

    def _checked(self, snapshot: JobSnapshot) -> JobSnapshot:
        if snapshot.extra or snapshot.status.is_terminal or snapshot.status is _UNKNOWN:
            self._odd_answers.check(snapshot)
        return snapshot

    def _checked_page(self, listed: JobPage) -> JobPage:
        if listed.extra:
            self._odd_answers.check(listed)
        return listed


_UNKNOWN: Final = JobStatus.UNKNOWN  # Python 3.11 looks members of an Enum up in Python
_ANSWERS_TO_RANGES: Final = frozenset({412, 416})  # the range, or its condition, does not fit
