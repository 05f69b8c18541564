"""OpenTelemetry spans of looks, list pages and results. Needs the extra ``otel``, the API alone.

``JobWatcher(TracedSource(client, tracer))``, ``TracedFetcher(client, tracer)``. No tracer is taken
from a global one, and no span holds a URL, a key or what the service said.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
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
from adepoll.api.models import ExtractResult, JobPage, JobSnapshot, JobStatus
from adepoll.api.source import JobSource, TimedSource, for_polling
from adepoll.errors import RateLimitedError, ResultRefusedError, StatusError
from adepoll.fetcher import Download, Progress, ResolveUrl, ResultFetcher, ResultStream

_JOB_ID: Final = "adepoll.job.id"


class TracedSource:
    """A `JobSource` that makes a span of each look at a job, and of each page of the list.

    Spans are named ``adepoll.look`` and ``adepoll.list``, and begin a trace of their own: a look
    is made for all who wait for the job, and belongs to none of their requests. The event ``sent``
    tells when the request went out, where it had to wait for its turn before.

    Attributes of spans: ``adepoll.job.status``; ``adepoll.list.page``, ``.jobs`` and
    ``.has_more``; ``error.type``, the error's class; ``http.response.status_code`` of an error;
    ``adepoll.throttled`` for a 429.
    """

    def __init__(self, source: JobSource, tracer: Tracer, *, with_ids: bool = False) -> None:
        """Wrap any source.

        Args:
            source: Who is asked: an `AdeClient`, mostly.
            tracer: Makes the spans.
            with_ids: Whether spans have the job's id, as ``adepoll.job.id``.
        """
        self._source = source
        self._tracer = tracer
        self._with_ids = with_ids

    async def get_job(self, job_id: str) -> JobSnapshot:
        """As that of the source."""
        with _span(self._tracer, "adepoll.look", Context()) as span:
            if self._with_ids:
                span.set_attribute(_JOB_ID, job_id)
            job = await self._source.get_job(job_id)
            span.set_attribute("adepoll.job.status", job.status.value)
            return job

    async def list_jobs(
        self, *, page: int = 0, page_size: int = 100, status: JobStatus | None = None
    ) -> JobPage:
        """As that of the source."""
        with _span(self._tracer, "adepoll.list", Context()) as span:
            span.set_attribute("adepoll.list.page", page)
            listed = await self._source.list_jobs(page=page, page_size=page_size, status=status)
            span.set_attribute("adepoll.list.jobs", len(listed.jobs))
            span.set_attribute("adepoll.list.has_more", listed.has_more)
            return listed

    def for_polling(self, semaphore: AbstractAsyncContextManager[object]) -> "TracedSource":
        """Return a view that holds `semaphore` during each request, as that of the source does."""
        held = for_polling(self._source, _Sending(semaphore))
        return TracedSource(held, self._tracer, with_ids=self._with_ids)

    def service_time(self) -> float | None:
        """As that of the source; None where it does not know."""
        return self._source.service_time() if isinstance(self._source, TimedSource) else None


class FetcherOptions(TypedDict, total=False):
    """The options of `ResultFetcher`, which says what they mean."""

    max_result_bytes: int
    connections: int
    connect_timeout: float
    read_timeout: float
    min_rate: float
    allow_private: bool
    resolve_url: ResolveUrl | None


class TracedFetcher(ResultFetcher):
    """A `ResultFetcher` that makes a span of each result, within the current one.

    Spans are named ``adepoll.download``, ``adepoll.result`` and ``adepoll.stream``, which `items`
    reads from, too. A stream's ends with its block, and is not the current one within it.

    Attributes of spans: ``adepoll.result.bytes``, those that were given, and
    ``adepoll.result.resumed``, how often a connection had to take over, of downloads and streams;
    of errors what `TracedSource` tells.
    """

    def __init__(
        self,
        client: AdeClient,
        tracer: Tracer,
        *,
        with_ids: bool = False,
        **options: Unpack[FetcherOptions],
    ) -> None:
        """Make a fetcher; nothing is requested before the first call.

        Args:
            client: As for `ResultFetcher`, and so are all `options`.
            tracer: Makes the spans.
            with_ids: Whether spans have the job's id, as ``adepoll.job.id``.
            options: Those of `ResultFetcher`.
        """
        super().__init__(client, **options)
        self._tracer = tracer
        self._with_ids = with_ids

    async def result(self, job: JobSnapshot | str) -> ExtractResult:
        """As that of `ResultFetcher`."""
        with _span(self._tracer, "adepoll.result") as span:
            self._name(span, job)
            return await super().result(job)

    async def download(
        self,
        job: JobSnapshot | str,
        path: str | PathLike[str],
        *,
        progress: Progress | None = None,
        overwrite: bool = False,
    ) -> Download:
        """As that of `ResultFetcher`."""
        with _span(self._tracer, "adepoll.download") as span:
            self._name(span, job)
            download = await super().download(job, path, progress=progress, overwrite=overwrite)
            span.set_attribute("adepoll.result.bytes", download.bytes)
            span.set_attribute("adepoll.result.resumed", download.resumed)
            return download

    @asynccontextmanager
    async def stream(
        self, job: JobSnapshot | str, *, start: int = 0, stop: int | None = None
    ) -> AsyncGenerator[ResultStream, None]:
        """As that of `ResultFetcher`."""
        # What is done in the block is the caller's; and to leave a context again where a generator
        # is closed by somebody else, in another one, cannot be done.
        span = self._tracer.start_span("adepoll.stream", kind=SpanKind.CLIENT)
        self._name(span, job)
        try:
            async with super().stream(job, start=start, stop=stop) as stream:
                try:
                    yield stream
                finally:
                    span.set_attribute("adepoll.result.bytes", stream.received)
                    span.set_attribute("adepoll.result.resumed", stream.resumed)
        except BaseException as error:
            _tell(span, error)
            raise
        finally:
            span.end()

    def _name(self, span: Span, job: JobSnapshot | str) -> None:
        if self._with_ids:
            span.set_attribute(_JOB_ID, job if isinstance(job, str) else job.job_id)


class _Sending:
    """A slot that tells the current span when it is entered."""

    def __init__(self, slot: AbstractAsyncContextManager[object]) -> None:
        self._slot = slot

    async def __aenter__(self) -> None:
        await self._slot.__aenter__()
        get_current_span().add_event("sent")

    async def __aexit__(self, *raised: object) -> bool | None:
        return await self._slot.__aexit__(*raised)  # type: ignore[arg-type]  # as they came


@contextmanager
def _span(tracer: Tracer, name: str, parent: Context | None = None) -> Iterator[Span]:
    """Make a span around a block; without a parent, within the current one.

    Neither the error's message nor its traceback is recorded: they name jobs, and quote.
    """
    span = tracer.start_span(name, parent, kind=SpanKind.CLIENT)
    # Who looks for all has the context of whom it was started by, down to their baggage. None of
    # that may travel with the request.
    token = attach(set_span_in_context(span, parent))
    try:
        yield span
    except BaseException as error:
        _tell(span, error)
        raise
    finally:
        detach(token)
        span.end()


def _tell(span: Span, error: BaseException) -> None:
    span.set_attribute("error.type", type(error).__name__)
    if isinstance(error, StatusError | ResultRefusedError):
        span.set_attribute("http.response.status_code", error.status)
    if isinstance(error, RateLimitedError):
        span.set_attribute("adepoll.throttled", True)
    if not isinstance(error, asyncio.CancelledError):  # nobody wants to know any more: no error
        span.set_status(StatusCode.ERROR)
