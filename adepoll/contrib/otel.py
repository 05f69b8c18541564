"""Creates OpenTelemetry spans for polls, list pages and results. Needs the extra ``otel``.

Create ``JobWatcher(TracedSource(client, tracer))`` and ``TracedFetcher(client, tracer)``. Spans
contain no URL, no key and no text from the service.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from os import PathLike
from typing import Final, TypeAlias, TypedDict, Unpack

from opentelemetry.context import Context, attach, detach
from opentelemetry.trace import (
    Span,
    SpanKind,
    StatusCode,
    Tracer,
    get_current_span,
    set_span_in_context,
)

from adepoll import (
    AdeClient,
    ConfigurationError,
    Download,
    InvalidJobIdError,
    JobKind,
    JobPage,
    JobRef,
    JobResult,
    JobSnapshot,
    JobSource,
    JobStatus,
    RateLimitedError,
    ResultFetcher,
    ResultRefusedError,
    ResultStream,
    StatusError,
    TransportOptions,
)
from adepoll.api.source import clock_of, for_kind, for_polling, is_newest_first, kind_of, origin_of
from adepoll.common.semaphores import SemaphoreWrapper

__all__ = ["FetcherOptions", "TracedFetcher", "TracedSource"]

_JOB_ID: Final = "adepoll.job.id"
_Job: TypeAlias = JobSnapshot | JobRef | str


class TracedSource:
    """A `JobSource` with a span for each poll and for each page of the list.

    The spans are named ``adepoll.poll`` and ``adepoll.list_page``. Each span is the root of a new
    trace: a poll serves all subscribers of a job, so it cannot be part of one subscriber's trace.
    The event ``adepoll.request.sent`` marks the time at which the request got its turn and was
    sent.

    A poll has the span attribute ``adepoll.job.status``. A list page has ``adepoll.list.page``,
    ``adepoll.list.job_count`` and ``adepoll.list.has_more``. After an error, a span has
    ``error.type`` (the name of the class), ``http.response.status_code`` if there was a response,
    and ``adepoll.throttled`` if the status was 429.
    """

    def __init__(self, source: JobSource, tracer: Tracer, *, with_ids: bool = False) -> None:
        """Wrap a source.

        Args:
            source: An `AdeClient`, or another source.
            tracer: Creates the spans.
            with_ids: True to add the id of the job to the spans of polls, as ``adepoll.job.id``.
        """
        self._source = source
        self._tracer = tracer
        self._with_ids = with_ids

    async def get_job(self, job_id: str) -> JobSnapshot:
        """Do what `JobSource.get_job` does, within a span."""
        with _span(self._tracer, "adepoll.poll", Context()) as span:
            if self._with_ids:
                span.set_attribute(_JOB_ID, job_id)
            job = await self._source.get_job(job_id)
            span.set_attribute("adepoll.job.status", job.status.value)
            return job

    async def list_jobs(
        self, *, page: int = 0, page_size: int = 100, status: JobStatus | None = None
    ) -> JobPage:
        """Do what `JobSource.list_jobs` does, within a span."""
        with _span(self._tracer, "adepoll.list_page", Context()) as span:
            span.set_attribute("adepoll.list.page", page)
            listed = await self._source.list_jobs(page=page, page_size=page_size, status=status)
            span.set_attribute("adepoll.list.job_count", len(listed.jobs))
            span.set_attribute("adepoll.list.has_more", listed.has_more)
            return listed

    def for_polling(self, semaphore: AbstractAsyncContextManager[object]) -> "TracedSource":
        """Return a traced source that holds `semaphore` during each request.

        The watcher calls this; `JobSource.for_polling` describes it.
        """
        held = for_polling(self._source, _SemaphoreWithEvent(semaphore))
        return TracedSource(held, self._tracer, with_ids=self._with_ids)

    @property
    def kind(self) -> JobKind:
        """Kind of the jobs of this source, such as v1-extract."""
        return kind_of(self._source)

    @property
    def newest_first(self) -> bool:
        """True if the list of the source shows the newest jobs first."""
        return is_newest_first(self._source)

    @property
    def origin(self) -> str:
        """Scheme, name and port of the host that has the jobs; empty if the source does not say."""
        return origin_of(self._source)

    def for_kind(self, kind: JobKind) -> "TracedSource":
        """Return a traced source of the jobs of one kind, as `AdeClient.for_kind` does.

        Raises:
            ConfigurationError: The source has no jobs of this kind.
        """
        if (source := for_kind(self._source, kind)) is None:
            raise ConfigurationError(f"the source has no jobs of the kind {kind.name}")
        return TracedSource(source, self._tracer, with_ids=self._with_ids)

    def service_time(self) -> float | None:
        """Return the time of the service in Unix seconds; None if the source does not know it."""
        clock = clock_of(self._source)
        return None if clock is None else clock()


class FetcherOptions(TypedDict, total=False):
    """The options of `ResultFetcher`, whose docstring describes them."""

    max_result_bytes: int
    connections: int
    connect_timeout: float
    read_timeout: float
    min_rate: float
    patience: float
    allow_private: bool
    resolve_url: Callable[[JobSnapshot], str | Awaitable[str]] | None
    transport: TransportOptions | None


class TracedFetcher(ResultFetcher):
    """A `ResultFetcher` with a span for each result. The span is a child of the current span.

    The spans are named ``adepoll.download``, ``adepoll.result`` and ``adepoll.stream``. `items`
    reads a stream, so its span is ``adepoll.stream``. This span ends with the ``async with`` block.
    Within the block, the caller's span is the current span.

    Downloads and streams have the span attributes ``adepoll.result.size`` (bytes written, or
    returned to the caller) and ``adepoll.result.resume_count`` (resumptions after a failure). After
    an error, a span has the same attributes as a span of `TracedSource`.
    """

    def __init__(
        self,
        client: AdeClient,
        tracer: Tracer,
        *,
        with_ids: bool = False,
        **options: Unpack[FetcherOptions],
    ) -> None:
        """Create a fetcher. It sends no request before the first call.

        Args:
            client: The client whose results are fetched.
            tracer: Creates the spans.
            with_ids: True to add the id of the job to the spans, as ``adepoll.job.id``.
            **options: Options of `ResultFetcher`.
        """
        super().__init__(client, **options)
        self._tracer = tracer
        self._with_ids = with_ids

    async def result(self, job: _Job) -> JobResult:
        """Do what `ResultFetcher.result` does, within a span."""
        with _span(self._tracer, "adepoll.result") as span:
            self._add_job_id(span, job)
            return await super().result(job)

    async def download(
        self,
        job: _Job,
        path: str | PathLike[str],
        *,
        progress: Callable[[int, int | None], None] | None = None,
        overwrite: bool = False,
    ) -> Download:
        """Do what `ResultFetcher.download` does, within a span."""
        with _span(self._tracer, "adepoll.download") as span:
            self._add_job_id(span, job)
            download = await super().download(job, path, progress=progress, overwrite=overwrite)
            span.set_attribute("adepoll.result.size", download.bytes)
            span.set_attribute("adepoll.result.resume_count", download.resumed)
            return download

    @asynccontextmanager
    async def stream(
        self, job: _Job, *, start: int = 0, stop: int | None = None
    ) -> AsyncGenerator[ResultStream, None]:
        """Do what `ResultFetcher.stream` does, within a span."""
        # The span does not become the current span, for two reasons. The block is code of the
        # caller. And if this generator is closed in another context, it cannot restore the previous
        # span there.
        span = self._tracer.start_span("adepoll.stream", kind=SpanKind.CLIENT)
        self._add_job_id(span, job)
        try:
            async with super().stream(job, start=start, stop=stop) as stream:
                try:
                    yield stream
                finally:
                    span.set_attribute("adepoll.result.size", stream.received)
                    span.set_attribute("adepoll.result.resume_count", stream.resumed)
        except BaseException as error:
            _record_error(span, error)
            raise
        finally:
            span.end()

    def _add_job_id(self, span: Span, job: _Job) -> None:
        if self._with_ids:
            with suppress(InvalidJobIdError):  # the transfer raises this error later
                job_id = job.job_id if isinstance(job, JobSnapshot) else job
                span.set_attribute(_JOB_ID, JobRef.of(job_id).job_id)


class _SemaphoreWithEvent:
    """Wraps the semaphore of a watcher, to record in the span when a request is sent.

    When a request is sent, the event ``adepoll.request.sent`` is added to the current span. It is a
    `SemaphoreWrapper`.
    """

    def __init__(self, given: AbstractAsyncContextManager[object]) -> None:
        self._wrapped = given if isinstance(given, SemaphoreWrapper) else None
        self.semaphore = given if self._wrapped is None else self._wrapped.semaphore

    def sent(self, task: asyncio.Task[object] | None, now: float) -> None:
        if self._wrapped is not None:
            self._wrapped.sent(task, now)
        get_current_span().add_event("adepoll.request.sent")

    def waits_again(self, task: asyncio.Task[object] | None, now: float) -> None:
        if self._wrapped is not None:
            self._wrapped.waits_again(task, now)

    async def __aenter__(self) -> None:
        await self.semaphore.__aenter__()
        self.sent(asyncio.current_task(), asyncio.get_running_loop().time())

    async def __aexit__(self, *raised: object) -> bool | None:
        return await self.semaphore.__aexit__(*raised)  # type: ignore[arg-type]  # the three arguments of `__aexit__`


@contextmanager
def _span(tracer: Tracer, name: str, parent: Context | None = None) -> Iterator[Span]:
    """Create a span for the code in the ``with`` block.

    `parent` is the context with the parent of the span; None for the current context.

    Message and traceback of an error are not recorded, because they may contain job ids and text
    from the service.
    """
    span = tracer.start_span(name, parent, kind=SpanKind.CLIENT)
    # The context of `parent` replaces the current one for the block. A poller has inherited the
    # current context from the request that started it. The baggage of that request must not be sent
    # with polls for other requests.
    token = attach(set_span_in_context(span, parent))
    try:
        yield span
    except BaseException as error:
        _record_error(span, error)
        raise
    finally:
        detach(token)
        span.end()


def _record_error(span: Span, error: BaseException) -> None:
    """Record the class and the status of an error in a span, but not its message."""
    span.set_attribute("error.type", type(error).__name__)
    if isinstance(error, StatusError | ResultRefusedError):
        span.set_attribute("http.response.status_code", error.status)
    if isinstance(error, RateLimitedError):
        span.set_attribute("adepoll.throttled", True)
    if not isinstance(error, asyncio.CancelledError):  # a cancellation is not an error
        span.set_status(StatusCode.ERROR)
