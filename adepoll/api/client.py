"""AdeClient: polls and lists the jobs of one API key."""

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path
from random import Random
from typing import Final

import aiohttp
from attrs import evolve

from adepoll.api import protocol
from adepoll.api.config import read_base_urls, read_key
from adepoll.api.job_kind import PLAIN_V1_ID, JobKind, JobRef, check_kind
from adepoll.api.job_requests import ClientOfKind, JobRequests, OriginalMethods, PollingClient
from adepoll.api.kinds.kind_rules import Api, KindRules
from adepoll.api.kinds.registry import RULES
from adepoll.api.models import JobPage, JobSnapshot, JobStatus, JobSummary
from adepoll.api.redacting import without_key
from adepoll.api.result_folder import ResultFolder
from adepoll.api.retry_after import Headers
from adepoll.api.transport import Transport
from adepoll.api.transport_options import TransportOptions
from adepoll.common.closing import AsyncCloseable
from adepoll.common.redaction import Secret
from adepoll.errors import ConfigurationError, ServiceDownError, StatusError
from adepoll.errors.frames import without_arguments
from adepoll.throttling.rate_limiter import RateLimiter
from adepoll.throttling.request_sender import RequestSender
from adepoll.throttling.statistics import ClientStats
from adepoll.throttling.waiting_times import RetryPolicy


@without_arguments  # `api_key` is a secret, and `base_url` can contain a password
class AdeClient(AsyncCloseable):
    """A client of the ADE service: polls a job, lists a page of jobs, or lists all jobs.

    A job is named by its id or a `JobRef`. A v2 id contains the kind of its job. Any other id means
    a job of the client's default kind (`kind`), unless a `JobRef` names another kind.

    Use the client as ``async with AdeClient() as client``, or close it with `aclose`. A client has
    one key, one region and one request budget. Any number of tasks of one event loop can share a
    client, and several clients can share one budget (`rate_limiter`).
    """

    def __init__(
        self,
        api_key: str | None = None,
        *,
        region: str | None = None,
        base_url: str | None = None,
        v2_base_url: str | None = None,
        kind: JobKind = JobKind.V1_EXTRACT,
        kinds: Iterable[KindRules] = (),
        session: aiohttp.ClientSession | None = None,
        transport: TransportOptions | None = None,
        timeout: float = 30.0,
        outage_wait: float = 60.0,
        max_rate: float | None = None,
        retry: RetryPolicy | None = None,
        rate_limiter: RateLimiter | None = None,
        max_body_bytes: int = 8 * 2**20,
        inline_limit: int = 2**20,
        result_dir: str | PathLike[str] | None = None,
        max_connections: int | None = None,
        rng: Random | None = None,
    ) -> None:
        """Create a client. It connects to the service at the first call of another method.

        Args:
            api_key: The key; None reads the environment variable ``VISION_AGENT_API_KEY``.
            region: ``us`` (or ``production``, which means the same) or ``eu``. None reads the
                environment variable ``LANDINGAI_ADE_ENVIRONMENT``; if this is not set either, the
                region is ``us``.
            base_url: Address of the API, for example of a proxy or an emulator; not together with
                `region`. If both are None, ``LANDINGAI_ADE_BASE_URL`` is read first, then
                ``LANDINGAI_ADE_ENVIRONMENT``. (The official SDK raises an error if both variables
                are set.)
            v2_base_url: Address of the API for v2 jobs. None for the first of these that is set:
                `region`, ``LANDINGAI_ADE_V2_BASE_URL``, `base_url`, ``LANDINGAI_ADE_BASE_URL``,
                ``LANDINGAI_ADE_ENVIRONMENT``, region ``us``.
            kind: Default kind: the kind of each job for which neither the id (as v2 ids do) nor a
                `JobRef` names a kind.
            kinds: Rules of your own kinds of jobs, in addition to the kinds of the service.
            session: Your own aiohttp session, with its own proxies and certificates. The client
                does not close it, and a `ResultFetcher` does not use it. None for a session that
                the client creates and closes; it keeps no cookies and ignores netrc files.
            transport: Proxies, certificates and header limits; not together with `session`. None
                for the defaults, which read the proxies of the environment.
            timeout: Longest time of one request in seconds, from connecting to the last byte of the
                body. For a v2 answer larger than `inline_limit`, the time starts again after each
                64 KiB.
            outage_wait: Seconds for which `get_job`, `list_jobs` and `turn` wait while the service
                is down, before they raise `ServiceDownError`. A watcher uses its `outage_patience`
                instead.
            max_rate: Largest number of requests per second; None for no limit.
            retry: Decides when failed requests are sent again. If it is None, the policy of
                `rate_limiter` decides; without a `rate_limiter`, a default `RetryPolicy`. The retry
                budget is always that of the `rate_limiter`, if one is passed.
            rate_limiter: A request budget that this client shares with other clients of the same
                organisation and event loop; None for a budget of its own. The client does not close
                it.
            max_body_bytes: Largest accepted response body, in bytes after decompression. An answer
                about a v2 job may be larger, because its result is then not kept in memory.
            inline_limit: Largest answer about a v2 job, in bytes, whose result is kept in memory;
                see `JobSnapshot.data_omitted`.
            result_dir: Existing folder for the results of larger answers, so that they need not be
                requested again. The file of a result is deleted when its snapshot is no longer
                used. None: the snapshots of larger answers contain no result.
            max_connections: Largest number of concurrent requests; None for 256.
            rng: Random numbers for jitter. Pass one with a fixed seed to make runs reproducible.

        Raises:
            MissingApiKeyError: There is no key.
            ConfigurationError: The key, region, base URL or a proxy cannot be used.
            ValueError: A number is out of range; or `transport` was passed together with `session`,
                or `max_rate` or `max_connections` together with `rate_limiter`.
        """
        given_key = None if api_key is None else Secret(api_key)
        if not (math.isfinite(timeout) and timeout > 0):
            raise ValueError(f"timeout must be a positive number, got {timeout}")
        if not outage_wait >= 0:
            raise ValueError(f"outage_wait must be a number of 0 or more, got {outage_wait}")
        if not max_body_bytes >= 1:
            raise ValueError(f"max_body_bytes must be positive, got {max_body_bytes}")
        if not inline_limit >= 1:
            raise ValueError(f"inline_limit must be positive, got {inline_limit}")
        if session is not None and transport is not None:
            raise ValueError("pass session or transport, not both")
        key = read_key(given_key)
        self._base_url, v2_base_url = read_base_urls(base_url, v2_base_url, region)
        self._rules = {**RULES, **{rules.kind: rules for rules in kinds}}
        self._kind = self.rules_of(kind).kind
        self._rng = rng or Random()  # noqa: S311 - jitter, not a secret
        if rate_limiter is None:
            rate_limiter = RateLimiter(
                max_rate=max_rate,
                max_connections=256 if max_connections is None else max_connections,
                retry=retry,
                rng=self._rng,
            )
        elif max_rate is not None or max_connections is not None:
            raise ValueError("pass max_rate and max_connections to the RateLimiter, not the client")
        self._key = key
        self._retry = retry or rate_limiter.retry
        self._sender = RequestSender(
            rate_limiter, retry=self._retry, rng=self._rng, outage_wait=outage_wait
        )
        self._transport_options = transport or TransportOptions()
        self._transport = Transport(
            api_key=key,
            session=session,
            options=self._transport_options,
            timeout=timeout,
            max_body_bytes=max_body_bytes,
            inline_limit=inline_limit,
        )
        hosts = rate_limiter.hosts
        roots = {
            Api.V1: self._transport.root(self._base_url),
            Api.V2: self._transport.root(v2_base_url),
        }
        # The caller's `result_dir`, if there is one, then those of open batches.
        self._result_folders = [] if result_dir is None else [ResultFolder(Path(result_dir))]
        self._requests = JobRequests(
            api_key=key,
            sender=self._sender,
            transport=self._transport,
            roots=roots,
            hosts={api: hosts.get(str(root.url.origin())) for api, root in roots.items()},
            result_dir=self._result_folders[0] if self._result_folders else None,
        )
        # Only a subclass needs the call; without it, each poll is a little faster.
        if type(self)._before_request is not AdeClient._before_request:  # noqa: SLF001 - a method of this class
            self._requests.on_request = self._before_request

    def __repr__(self) -> str:
        """Return the class and the address, without the key."""
        return f"AdeClient(base_url={self._base_url!r})"

    async def aclose(self) -> None:
        """Close the client, and its session unless you passed it. Later calls raise ClosedError.

        Raises:
            ClosedError: The client is used in another event loop that is still open.
        """
        self._sender.check_loop()
        self._sender.close()
        await self._transport.aclose()

    @property
    def base_url(self) -> str:
        """The address of the API for v1 jobs: scheme, host and path, without a slash at the end."""
        return self._base_url

    @property
    def v2_base_url(self) -> str:
        """The address of the API for v2 jobs, without a slash at the end."""
        return str(self._requests.roots[Api.V2].url).rstrip("/")

    @property
    def origin(self) -> str:
        """Scheme, host and port of the service for jobs of the client's default kind."""
        return self._requests.origin(self.rules_of(self._kind))

    @property
    def kind(self) -> JobKind:
        """Default kind: the kind of each job whose id does not contain the kind."""
        return self._kind

    @property
    def newest_first(self) -> bool:
        """True if the list of jobs of the client's default kind shows the newest jobs first."""
        return self.rules_of(self._kind).newest_first

    def rules_of(self, kind: JobKind) -> KindRules:
        """Return the rules of a kind of jobs; raise `ConfigurationError` if it is unknown."""
        rules = self._rules.get(kind) if isinstance(kind, JobKind) else None  # type: ignore[redundant-expr]  # a caller can pass any object
        if rules is None:
            check_kind(kind)
            raise ConfigurationError(
                f"no rules for jobs of the kind {kind.name!r}; pass them as kinds=[...]"
            )
        return rules

    @property
    def retry(self) -> RetryPolicy:
        """The policy that decides when failed requests are sent again."""
        return self._retry

    @property
    def transport(self) -> TransportOptions:
        """Proxies, certificates and header limits. A `ResultFetcher` uses the same by default."""
        return self._transport_options

    @property
    def rng(self) -> Random:
        """Source of the random numbers for jitter, as passed to the constructor."""
        return self._rng

    @property
    def stats(self) -> ClientStats:
        """The statistics of the client, as a copy that does not change later."""
        return self._sender.stats(bytes_received=self._transport.bytes_received)

    def outage(self, kind: JobKind | None = None) -> ServiceDownError | None:
        """Return an error if the host of a kind of jobs is down; None if the host is not down.

        v1 and v2 jobs can have different hosts, and only one of them may be down. This method is
        about one host; `stats.failures_in_a_row` is about the host with the most failures.

        Args:
            kind: Kind of the jobs; None for the client's kind.
        """
        host = self._requests.hosts[self.rules_of(kind or self._kind).api]
        return host.error() if host.is_down else None

    @contextmanager
    def keeping_results_in(self, folder: Path) -> Iterator[None]:
        """Use `folder` as `result_dir` in the block, unless the client already has a `result_dir`.

        If several blocks are open, the folder of the earliest one is used.
        """
        folders, added = self._result_folders, ResultFolder(folder)
        folders.append(added)
        self._requests.result_dir = folders[0]
        try:
            yield
        finally:
            folders.remove(added)
            self._requests.result_dir = folders[0] if folders else None

    def service_time(self) -> float | None:
        """Return the Unix time of the service, in seconds; None before the first response.

        The time is calculated from the Date headers of responses.
        """
        return self._transport.clock.unix_time(asyncio.get_running_loop().time())

    async def get_job(self, job: str | JobRef) -> JobSnapshot:
        """Poll one job once, and return what the service says about it.

        For the longest time that a call can take, see docs/budget.md#retries.

        Raises:
            InvalidJobIdError: The id cannot be a job id; nothing was sent.
            ConfigurationError: The kind is unknown; nothing was sent.
            RequestError: No usable response arrived, even after retries of temporary failures. It
                is a `StatusError` if the service answered with an error status, and a
                `TransportError` if no response arrived.
            ServiceDownError: The service is down, and `outage_wait` seconds have passed. It is a
                subclass of `TransportError`.
            ClosedError: The client is closed.
        """
        requests = self._requests
        if type(job) is str and PLAIN_V1_ID.fullmatch(job):  # a shortcut for nearly all ids
            job_id, label, rules = job, None, self._rules[self._kind]
        else:
            ref = JobRef.of(job)
            job_id, label, rules = ref.job_id, ref.label, self.rules_of(ref.kind_or(self._kind))
        send = requests.for_job(rules, job_id)
        snapshot = await self._sender.call(send, requests.hosts[rules.api])
        return snapshot if label is None else evolve(snapshot, label=label)

    @asynccontextmanager
    async def open_answer(
        self, job: JobRef, headers: Mapping[str, str]
    ) -> AsyncGenerator[aiohttp.ClientResponse, None]:
        """Send the request of one poll, and yield the response before its body is read.

        The response is closed at the end of the ``async with`` block. `ResultFetcher` uses this
        method to read a large result.

        Args:
            job: The job.
            headers: Headers that request a range of the answer; the status of the response can then
                also be 412 or 416. Empty to request the whole answer.

        Raises:
            AdePollError: As for `get_job`.
        """
        rules = self.rules_of(job.kind_or(self._kind))
        response = await self._requests.open(rules, job.job_id, headers)
        try:
            yield response
        finally:
            self._transport.release(response)

    def without_key(self, snapshot: JobSnapshot, body: bytes) -> JobSnapshot:
        """Return a snapshot that does not contain the API key.

        `ResultFetcher` uses this method for an answer from `open_answer`.

        Args:
            snapshot: A snapshot that was read from an answer.
            body: The answer.
        """
        return without_key(snapshot, self._key, body)

    async def list_jobs(
        self,
        *,
        page: int = 0,
        page_size: int = 100,
        status: JobStatus | None = None,
        kind: JobKind | None = None,
    ) -> JobPage:
        """Return one page of the list of the key's jobs of one kind.

        Args:
            page: Number of the page, counted from 0.
            page_size: 1 to 100.
            status: List only jobs with this status; None for all.
            kind: Kind of the jobs; None for the client's kind.

        Raises:
            ValueError: An argument is out of range; nothing was sent.
            ConfigurationError: The kind is unknown; nothing was sent.
            RequestError: As for `get_job`.
            ClosedError: The client is closed.
        """
        rules, requests = self.rules_of(kind or self._kind), self._requests
        send = requests.for_page(rules, page, page_size, status)
        is_of_cancelled = status is not None and JobStatus(status) is JobStatus.CANCELLED
        if is_of_cancelled and not rules.can_be_cancelled:
            return JobPage(jobs=())
        return await self._sender.call(send, requests.hosts[rules.api])

    async def iter_jobs(
        self, *, status: JobStatus | None = None, kind: JobKind | None = None
    ) -> AsyncIterator[JobSummary]:
        """Yield all jobs of the key of one kind, page by page, each id once.

        A job can be missed, because jobs can move to another page between two requests. The
        iteration ends after the last page, or after 3 pages in a row without a new job.

        Args:
            status: Yield only jobs with this status; None for all.
            kind: Kind of the jobs; None for the client's kind.

        Raises:
            ConfigurationError: The kind is unknown.
            RequestError: As for `get_job`.
            ClosedError: The client is closed.
        """
        seen: set[str] = set()
        page = pages_without_new = 0
        while pages_without_new < _MAX_PAGES_WITHOUT_NEW:
            listed = await self.list_jobs(page=page, status=status, kind=kind)
            any_new = False
            for job in listed.jobs:
                if job.job_id not in seen:
                    any_new = True
                    seen.add(job.job_id)
                    yield job
            if not listed.has_more or not listed.jobs:
                return
            pages_without_new = 0 if any_new else pages_without_new + 1
            page += 1

    def turn(self, *, kind: JobKind | None = None) -> AbstractAsyncContextManager[None]:
        """Wait until the request budget allows one more request, which your own code then sends.

        Use it for requests that adepoll does not send, such as the creation of a job::

            async with client.turn():
                try:
                    created = await sdk.parse_jobs.create(document=document)
                except landingai_ade.APIStatusError as error:
                    response = error.response
                    raise client.error_of(response.status_code, response.headers) from error

        Send one request in the block, and switch off the retries of the library that sends it. The
        client counts the request as its own while the block runs. The budget records a
        `RequestError` that leaves the block: after a `RateLimitedError`, all requests of the budget
        wait for at least `retry_after` seconds. Any other exception leaves the budget unchanged.

        Args:
            kind: Kind of the job, which decides the host; None for the client's own kind.

        Raises:
            ConfigurationError: The kind is unknown.
            ServiceDownError: The service is down, and `outage_wait` seconds have passed.
            ClosedError: The client is closed.
        """
        return self._sender.turn(self._requests.hosts[self.rules_of(kind or self._kind).api])

    def error_of(self, status: int, headers: Headers, body: bytes = b"") -> StatusError:
        """Return the error for a response that your own code received.

        Raise the returned error in an ``async with client.turn()`` statement, so that the request
        budget records the error.

        Args:
            status: HTTP status of the response, an error status.
            headers: Headers of the response, as httpx or aiohttp returns them.
            body: Body of the response; its error message becomes part of the message of the
                returned error.
        """
        return protocol.status_error(
            status, headers, body, job_id=None, now=datetime.now(UTC), secret=self._key
        )

    def _before_request(self) -> None:
        """Do nothing. A subclass can override this method to run code before requests.

        It is called once for each poll and each page of the list, but not before retries.
        """

    def for_kind(self, kind: JobKind) -> "ClientOfKind":
        """Return a client for jobs of one kind, which sends its requests through this client.

        An id that you pass to the returned client always means a job of this kind.

        Raises:
            ConfigurationError: The kind is not known.
        """
        return ClientOfKind(self, self._requests, self.rules_of(kind), _ORIGINAL_METHODS)

    def for_polling(self, semaphore: AbstractAsyncContextManager[object]) -> "PollingClient":
        """Return a client for code that polls on a schedule, such as a watcher.

        The returned client sends its requests through this client. It holds `semaphore` from the
        start of a request to the end of its response, but not while the request waits for the rate
        limit. It repeats no failed request, since its caller polls again later. (Only a request on
        a stale connection is sent once more.)

        If `get_job` or `list_jobs` of this client is overridden or patched, the returned client
        calls the new method, and holds `semaphore` during the whole call.
        """
        rules = self.rules_of(self._kind)
        return PollingClient(self, self._requests, rules, _ORIGINAL_METHODS, semaphore)


_ORIGINAL_METHODS: Final = OriginalMethods(AdeClient.get_job, AdeClient.list_jobs)
_MAX_PAGES_WITHOUT_NEW: Final = 3
