"""OpenTelemetry spans of polls, list pages and results. Needs the extra ``otel``.

Create ``JobWatcher(TracedSource(client, tracer))`` and ``TracedFetcher(client, tracer)``. Spans
contain no URL, no key and no text from the service.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from os import PathLike
from typing import Final, TypedDict, Unpack

from opentelemetry.context import Context, attach, detach
from opentelemetry.trace import (
    Span,
    SpanKind,
    StatusCode,
    Tracer,
    get_current_span,
    set_span_in_context,
)

from adepoll.api.client import AdeClient
from adepoll.api.job_kind import JobKind
from adepoll.api.models import JobPage, JobSnapshot, JobStatus
from adepoll.api.results import JobResult
from adepoll.api.source import JobSource, clock_of, for_kind, for_polling, kind_of
from adepoll.api.transport_options import TransportOptions
from adepoll.errors import (
    ConfigurationError,
    InvalidJobIdError,
    RateLimitedError,
    ResultRefusedError,
    StatusError,
)
from adepoll.fetcher import Download, Job, Progress, ResolveUrl, ResultFetcher, ResultStream
from adepoll.fetcher.result_sources import ref_of

__all__ = ["FetcherOptions", "TracedFetcher", "TracedSource"]

_JOB_ID: Final = "adepoll.job.id"


class TracedSource:
    """A `JobSource` with a span for each poll and for each page of the list.

    The spans are named ``adepoll.poll`` and ``adepoll.list_page``. Each is the root of a trace: a
    poll serves all subscribers of the job and belongs to none of their requests. The event
    ``adepoll.request.sent`` marks when the request was sent, after it waited for its turn.

    Span attributes: ``adepoll.job.status``; ``adepoll.list.page``, ``adepoll.list.job_count`` and
    ``adepoll.list.has_more``; of errors ``error.type`` (the name of the class),
    ``http.response.status_code`` and, for status 429, ``adepoll.throttled``.
    """

    def __init__(self, source: JobSource, tracer: Tracer, *, with_ids: bool = False) -> None:
        """Wrap a source.

        Args:
            source: An `AdeClient`, or another source.
            tracer: Creates the spans.
            with_ids: True to add the job's id to the spans, as ``adepoll.job.id``.
        """
        self._source = source
        self._tracer = tracer
        self._with_ids = with_ids

    async def get_job(self, job_id: str) -> JobSnapshot:
        """As `JobSource.get_job`, with a span."""
        with _span(self._tracer, "adepoll.poll", Context()) as span:
            if self._with_ids:
                span.set_attribute(_JOB_ID, job_id)
            job = await self._source.get_job(job_id)
            span.set_attribute("adepoll.job.status", job.status.value)
            return job

    async def list_jobs(
        self, *, page: int = 0, page_size: int = 100, status: JobStatus | None = None
    ) -> JobPage:
        """As `JobSource.list_jobs`, with a span."""
        with _span(self._tracer, "adepoll.list_page", Context()) as span:
            span.set_attribute("adepoll.list.page", page)
            listed = await self._source.list_jobs(page=page, page_size=page_size, status=status)
            span.set_attribute("adepoll.list.job_count", len(listed.jobs))
            span.set_attribute("adepoll.list.has_more", listed.has_more)
            return listed

    def for_polling(self, semaphore: AbstractAsyncContextManager[object]) -> "TracedSource":
        """Return a traced source that holds `semaphore` during each request.

        See `JobSource.for_polling`.
        """
        held = for_polling(self._source, _MarkedSlot(semaphore))
        return TracedSource(held, self._tracer, with_ids=self._with_ids)

    @property
    def kind(self) -> JobKind:
        """Kind of the jobs of the source."""
        return kind_of(self._source)

    def for_kind(self, kind: JobKind) -> "TracedSource":
        """Return a traced view of the jobs of one kind; see `AdeClient.for_kind`."""
        if (source := for_kind(self._source, kind)) is None:
            raise ConfigurationError(f"the source has no jobs of the kind {kind.name}")
        return TracedSource(source, self._tracer, with_ids=self._with_ids)

    def service_time(self) -> float | None:
        """As the source's method; None if the source does not know the time."""
        clock = clock_of(self._source)
        return None if clock is None else clock()


class FetcherOptions(TypedDict, total=False):
    """The options of `ResultFetcher`, which describes them."""

    max_result_bytes: int
    connections: int
    connect_timeout: float
    read_timeout: float
    min_rate: float
    patience: float
    allow_private: bool
    resolve_url: ResolveUrl | None
    transport: TransportOptions | None


class TracedFetcher(ResultFetcher):
    """A `ResultFetcher` with a span for each result, as a child of the current span.

    The spans are named ``adepoll.download``, ``adepoll.result`` and ``adepoll.stream``; `items`
    uses a stream. The span of a stream ends with its block, but is not the current span within it.

    Span attributes of downloads and streams: ``adepoll.result.size`` (bytes returned to the caller)
    and ``adepoll.result.resume_count`` (transfers continued with a new request). Errors have the
    attributes that `TracedSource` lists.
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
            client: As for `ResultFetcher`.
            tracer: Creates the spans.
            with_ids: True to add the job's id to the spans, as ``adepoll.job.id``.
            **options: Options of `ResultFetcher`.
        """
        super().__init__(client, **options)
        self._tracer = tracer
        self._with_ids = with_ids

    async def result(self, job: Job) -> JobResult:
        """As `ResultFetcher.result`, with a span."""
        with _span(self._tracer, "adepoll.result") as span:
            self._add_job_id(span, job)
            return await super().result(job)

    async def download(
        self,
        job: Job,
        path: str | PathLike[str],
        *,
        progress: Progress | None = None,
        overwrite: bool = False,
    ) -> Download:
        """As `ResultFetcher.download`, with a span."""
        with _span(self._tracer, "adepoll.download") as span:
            self._add_job_id(span, job)
            download = await super().download(job, path, progress=progress, overwrite=overwrite)
            span.set_attribute("adepoll.result.size", download.bytes)
            span.set_attribute("adepoll.result.resume_count", download.resumed)
            return download

    @asynccontextmanager
    async def stream(
        self, job: Job, *, start: int = 0, stop: int | None = None
    ) -> AsyncGenerator[ResultStream, None]:
        """As `ResultFetcher.stream`, with a span."""
        # The span is not made current: the block belongs to the caller, and a generator that is
        # closed from another context could not restore the previous span.
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

    def _add_job_id(self, span: Span, job: Job) -> None:
        if self._with_ids:
            with suppress(InvalidJobIdError):  # the transfer raises it
                span.set_attribute(_JOB_ID, ref_of(job).job_id)


class _MarkedSlot:
    """A slot that adds an event to the current span when it is entered."""

    def __init__(self, slot: AbstractAsyncContextManager[object]) -> None:
        self._slot = slot

    async def __aenter__(self) -> None:
        await self._slot.__aenter__()
        get_current_span().add_event("adepoll.request.sent")

    async def __aexit__(self, *raised: object) -> bool | None:
        return await self._slot.__aexit__(*raised)  # type: ignore[arg-type]  # passed on unchanged


@contextmanager
def _span(tracer: Tracer, name: str, parent: Context | None = None) -> Iterator[Span]:
    """Create a span around a block, in the context `parent`, by default the current one.

    The message and the traceback of an error are not recorded, because they may contain job ids and
    text from the service.
    """
    span = tracer.start_span(name, parent, kind=SpanKind.CLIENT)
    # A poller inherits the context of the request that started it, including its baggage. That must
    # not be sent with polls for other requests.
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
    span.set_attribute("error.type", type(error).__name__)
    if isinstance(error, StatusError | ResultRefusedError):
        span.set_attribute("http.response.status_code", error.status)
    if isinstance(error, RateLimitedError):
        span.set_attribute("adepoll.throttled", True)
    if not isinstance(error, asyncio.CancelledError):  # a cancellation is not an error
        span.set_status(StatusCode.ERROR)
