"""`Session`: a client, a watcher and a fetcher that run in a background event loop.

`Batch`: the synchronous form of `adepoll.Batch`, which runs in the event loop of a session.
"""

import os
from collections.abc import AsyncIterable, AsyncIterator, Callable, Collection, Generator, Iterable
from contextlib import AsyncExitStack
from typing import (
    Any,
    Concatenate,
    Final,
    Literal,
    ParamSpec,
    Self,
    TypeAlias,
    TypeVar,
    overload,
)

from adepoll import (
    AdeClient,
    BatchJob,
    BatchProgress,
    BatchRun,
    ClosedError,
    Download,
    JobRef,
    JobSnapshot,
    JobWatcher,
    Outcome,
    ResultFetcher,
    UnresolvedJob,
    Watch,
    progress,
)
from adepoll import Batch as AsyncBatch
from adepoll.common.closing import Closeable
from adepoll.common.threads import items_of_thread
from adepoll.sync.background_loop import BackgroundLoop

JobIds: TypeAlias = Iterable[str | JobRef]
BatchJobIds: TypeAlias = Iterable[str | JobRef | BatchJob] | AsyncIterable[str | JobRef | BatchJob]
_T = TypeVar("_T")
_S = TypeVar("_S")
_P = ParamSpec("_P")

_IDS_AHEAD: Final = 1_000  # ids that are read from an iterator before they are needed


def _typed_like(
    _make: Callable[Concatenate[AdeClient, _P], object],
) -> Callable[[Callable[..., _T]], Callable[Concatenate[_S, _P], _T]]:
    """Tell type checkers that a method takes the same options as the function or class `_make`."""
    return lambda method: method


class Session(Closeable):
    """Client, watcher and fetcher for a program without asyncio.

    Use it as ``with Session() as session``, or close it with `close`. Several threads can use one
    session; all calls share the client's connections and request budget. The methods have the names
    of those of `JobWatcher`, `ResultFetcher` and `Batch`, and raise the same errors.
    """

    def __init__(self, client: Callable[[], AdeClient] = AdeClient) -> None:
        """Create a session; ``with`` opens it.

        Args:
            client: Function that creates the client, such as ``lambda: AdeClient(region="eu")``. It
                is called in the background thread. The session closes the client.
        """
        if not callable(client):
            raise TypeError(
                f"client must be a function that creates the client, got {type(client).__name__}; "
                "use client=lambda: AdeClient(...)"
            )
        self._make_client = client
        self._loop: BackgroundLoop | None = None
        self._open = AsyncExitStack()
        self._batches: dict[AsyncBatch, None] = {}  # the open ones

    def __repr__(self) -> str:
        """Return whether the session is open."""
        is_open = self._loop is not None and not self._loop.is_closed
        return f"<adepoll.sync.Session {'open' if is_open else 'not open'}>"

    def __enter__(self) -> Self:
        """Start the background thread, and open the client.

        Raises:
            MissingApiKeyError: The client has no API key.
            RuntimeError: The session is already open.
        """
        if self._loop is not None:
            raise RuntimeError("the session is open already")
        self._loop = BackgroundLoop()
        try:
            self._loop.run(self._start())
        except BaseException:
            self._loop.close()
            self._loop = None
            raise
        return self

    def close(self) -> None:
        """Close open batches and the client, and end the background thread.

        A second call does nothing.
        """
        loop, self._loop = self._loop, None
        if loop is not None and not loop.is_closed:
            try:
                loop.run(self._end())
            finally:
                loop.close()

    def wait(self, job: str | JobRef, *, timeout: float | None = None) -> JobSnapshot:
        """Return a job as soon as it has settled; see `JobWatcher.wait`.

        Raises:
            JobTimeoutError: The job has not settled within `timeout` seconds.
            AdePollError: The job was given up for another reason.
        """
        return self.loop.run(self._watcher.wait(job, timeout=timeout))

    @overload
    def watch(
        self,
        job_ids: JobIds,
        *,
        timeout: float | None = None,
        window: int | None = None,
        errors: Literal["raise"] = "raise",
        show_progress: bool = False,
    ) -> Generator[JobSnapshot, None, None]: ...

    @overload
    def watch(
        self,
        job_ids: JobIds,
        *,
        timeout: float | None = None,
        window: int | None = None,
        errors: Literal["yield"],
        show_progress: bool = False,
    ) -> Generator[JobSnapshot | UnresolvedJob, None, None]: ...

    def watch(
        self,
        job_ids: JobIds,
        *,
        timeout: float | None = None,
        window: int | None = None,
        errors: Literal["raise", "yield"] = "raise",
        show_progress: bool = False,
    ) -> Generator[JobSnapshot | UnresolvedJob, None, None]:
        """Yield each job as soon as it has settled; see `JobWatcher.watch`.

        Watching starts when the first job is requested. It ends when the generator is exhausted,
        closed or deleted, as after a `break`. ``show_progress=True`` shows a bar; see
        `adepoll.progress`.

        Raises:
            UnresolvedJobsError: At the end, if jobs were given up; not with ``errors="yield"``.
            AdePollError: An error that affects all jobs; see `Watch.__anext__`.
        """

        async def start() -> Watch[JobSnapshot | UnresolvedJob]:
            ids = _readable(job_ids)
            if errors == "yield":
                return self._watcher.watch(ids, timeout=timeout, window=window, errors="yield")
            watch: Watch[Any] = self._watcher.watch(
                ids, timeout=timeout, window=window, errors=errors
            )
            return watch

        watch = self.loop.run(start())
        return _iterate(self.loop, watch, watch.take_ready, show_progress=show_progress)

    def download(
        self,
        job: JobSnapshot | JobRef | str,
        path: str | os.PathLike[str],
        *,
        progress: Callable[[int, int | None], None] | None = None,
        overwrite: bool = False,
    ) -> Download:
        """Write the result of a job to a file; see `ResultFetcher.download`.

        `progress` is called in the background thread.
        """
        return self.loop.run(
            self._fetcher.download(job, path, progress=progress, overwrite=overwrite)
        )

    @_typed_like(AsyncBatch)
    def batch(self, **options: Any) -> "Batch":
        """Return a batch; the options are those of `adepoll.Batch`. A ``with`` block opens it."""
        return Batch(self, self._batches, **options)

    @property
    def loop(self) -> BackgroundLoop:
        """The background loop.

        Raises:
            ClosedError: The session is not open.
        """
        if self._loop is None:
            raise ClosedError("the session is not open; use it as `with Session() as session`")
        return self._loop

    @property
    def client(self) -> AdeClient:
        """The client; its coroutines can only run in the background loop."""
        self.loop  # noqa: B018 - raises if the session is not open
        return self._client

    async def _start(self) -> None:
        """Create the client, the watcher and the fetcher."""
        async with AsyncExitStack() as stack:
            self._client = await stack.enter_async_context(self._make_client())
            self._watcher = await stack.enter_async_context(JobWatcher(self._client))
            self._fetcher = await stack.enter_async_context(ResultFetcher(self._client))
            self._open = stack.pop_all()

    async def _end(self) -> None:
        """Close the open batches, then the fetcher, the watcher and the client."""
        async with self._open as stack:
            while self._batches:  # other threads may open and close batches meanwhile
                batch, _ = self._batches.popitem()
                stack.push_async_callback(batch.aclose)


class Batch(Closeable):
    """A batch for programs without asyncio; `Session.batch` creates it.

    Use it as ``with session.batch(journal="batch.db") as batch``, or close it with `close`. The end
    of the session closes it, too.
    """

    def __init__(
        self, session: Session, open_batches: dict[AsyncBatch, None], /, **options: Any
    ) -> None:
        """Create a batch; use `Session.batch` instead.

        While the batch is open, it is in `open_batches`, so that the session can close it.
        """
        self._session = session
        self._open_batches = open_batches
        self._batch = AsyncBatch(session.client, **options)

    def __enter__(self) -> Self:
        """Open the batch and its journal; raise the errors of `adepoll.Batch.__aenter__`."""
        self._session.loop.run(self._batch.__aenter__())
        self._open_batches[self._batch] = None
        return self

    def __repr__(self) -> str:
        """Return the text of the batch: journal, folder, and how far the last run has come."""
        return f"<adepoll.sync.{repr(self._batch).removeprefix('<')}"

    def close(self) -> None:
        """Stop the run, and close the journal. A second call does nothing."""
        if self._batch in self._open_batches:
            self._session.loop.run(self._batch.aclose())
            self._open_batches.pop(self._batch, None)

    def run(
        self,
        job_ids: BatchJobIds = (),
        *,
        timeout: float | None = None,
        replay: bool = False,
        show_progress: bool = False,
    ) -> Generator[Outcome, None, None]:
        """Yield the outcome of each job; see `adepoll.Batch.run`.

        Requesting the next outcome acknowledges the previous one. If a `break` or an error ends the
        loop, the last outcome is not acknowledged, and the next run yields this outcome again.
        ``show_progress=True`` shows a bar; see `adepoll.progress`.
        """

        async def start() -> BatchRun:
            return self._batch.run(_readable(job_ids), timeout=timeout, replay=replay)

        loop = self._session.loop
        run = loop.run(start())
        # One outcome for each request, because the next request acknowledges it.
        return _iterate(loop, run, list, show_progress=show_progress)

    @property
    def progress(self) -> BatchProgress:
        """Progress of the last run."""
        return self._batch.progress


def _iterate(
    loop: BackgroundLoop,
    stream: "Watch[_T] | BatchRun",
    take_ready: Callable[[], list[_T]],
    *,
    show_progress: bool,
) -> Generator[_T, None, None]:
    """Yield the items of an asynchronous stream, then close the stream.

    `take_ready` returns the items that have already arrived, so that one call of the loop takes
    many items. With `show_progress`, a bar is shown.
    """
    items: AsyncIterator[Any] = aiter(progress(stream) if show_progress else stream)

    async def take() -> list[_T]:
        first: _T | None = await anext(items, None)
        return [] if first is None else [first, *take_ready()]

    async def end() -> None:
        nonlocal items
        del items  # ends the bar
        await stream.aclose()

    try:
        while ready := loop.run(take()):
            yield from ready
    finally:
        if loop.is_closed:
            pass
        elif loop.owns_current_thread():  # Python has deleted the generator in the loop's thread
            stream.leave()
        else:
            loop.run(end())


def _readable(job_ids: Iterable[_T] | AsyncIterable[_T]) -> Iterable[_T] | AsyncIterable[_T]:
    """Return ids that the loop can read without blocking: a thread reads a blocking iterator."""
    if isinstance(job_ids, str | bytes | Collection) or not isinstance(job_ids, Iterable):
        return job_ids

    def read(emit: Callable[[_T], None]) -> None:
        for job_id in job_ids:
            emit(job_id)

    return items_of_thread(read, ahead=_IDS_AHEAD, name="adepoll-sync-ids")
