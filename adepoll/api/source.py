"""JobSource: the object that a watcher polls.

A source must have `get_job`, and should have `list_jobs`: without it, jobs are polled as if the
list could not be read. The methods of the other protocols here are optional. They are called only
if they are real functions. The reason: a mock object (`unittest.mock`) seems to have every method.
"""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from types import FunctionType, MethodType
from typing import Any, Final, Protocol, runtime_checkable

from attrs import evolve

from adepoll.api.job_kind import JobKind
from adepoll.api.models import JobPage, JobSnapshot, JobStatus


class JobSource(Protocol):
    """An object that can be polled: an `AdeClient`, a simulation, or a cache of your own.

    Its methods raise the errors of `adepoll.errors`. Any other exception is treated as a bug, and
    stops the watcher. All its jobs are of one kind, which its attribute `kind` names; without this
    attribute, the kind is `JobKind.V1_EXTRACT`. A `SourceOfKinds` has jobs of several kinds.

    The times of snapshots and list entries, such as `JobSnapshot.received_at`, should be aware
    datetimes. A naive one counts as UTC, not as local time.
    """

    async def get_job(self, job_id: str, /) -> JobSnapshot:
        """Poll one job once."""

    async def list_jobs(
        self, *, page: int = 0, page_size: int = 100, status: JobStatus | None = None
    ) -> JobPage:
        """List one page of jobs; raise NotImplementedError if the source has no list."""


@runtime_checkable
class PollingSource(Protocol):
    """A `JobSource` whose methods can wait before they send a request, as for a rate limit.

    Because of `for_polling`, a watcher does not hold its semaphore during this wait.
    """

    def for_polling(self, semaphore: AbstractAsyncContextManager[object]) -> JobSource:
        """Return a source with the same jobs that holds `semaphore` only during a request."""


@runtime_checkable
class SourceOfKinds(Protocol):
    """A source that has jobs of several kinds, such as an `AdeClient`."""

    @property
    def kind(self) -> JobKind:
        """Kind of the jobs that this source itself polls and lists; see `for_kind` for others."""

    def for_kind(self, kind: JobKind) -> JobSource:
        """Return a source with the jobs of `kind`; raise `ConfigurationError` if it is unknown."""


@runtime_checkable
class TimedSource(Protocol):
    """A source that knows the time of the service, so that the age of a job can be calculated."""

    def service_time(self) -> float | None:
        """Return the Unix time of the service, in seconds; None if it is not known yet."""


def for_polling(source: JobSource, semaphore: AbstractAsyncContextManager[object]) -> JobSource:
    """Return a source with the same jobs that holds `semaphore` during each request.

    If `source` has no method `for_polling`, it is not known when a request is sent. The returned
    source then holds `semaphore` during the whole call.
    """
    if isinstance(source, PollingSource) and type(source.for_polling) in _REAL:
        view: JobSource = source.for_polling(semaphore)
        return view
    return _HeldDuringCalls(source, semaphore)


def kind_of(source: JobSource) -> JobKind:
    """Return the kind of the jobs of a source; `JobKind.V1_EXTRACT` if it does not say."""
    kind = getattr(source, "kind", None)
    return kind if isinstance(kind, JobKind) else JobKind.V1_EXTRACT


def for_kind(source: JobSource, kind: JobKind) -> JobSource | None:
    """Return a source with the jobs of one kind.

    The result is None if `source` has jobs of a single kind, and this is another kind. If `source`
    has jobs of several kinds, its method `for_kind` is called.

    Raises:
        ConfigurationError: `source` has jobs of several kinds, but does not know this kind.
    """
    if kind == kind_of(source):
        return source
    if isinstance(source, SourceOfKinds) and type(source.for_kind) in _REAL:
        view: JobSource = source.for_kind(kind)
        return view
    return None


def is_newest_first(source: JobSource) -> bool:
    """Return whether the list of a source shows the newest jobs first."""
    return getattr(source, "newest_first", False) is True


def origin_of(source: JobSource) -> str:
    """Return the `origin` of a source: scheme, name and port of the host that has its jobs.

    A watcher uses it because failures at one host say nothing about the jobs at another. If a
    source has no attribute `origin`, return an empty text.
    """
    origin = getattr(source, "origin", None)
    return origin if isinstance(origin, str) else ""


def clock_of(source: JobSource) -> Callable[[], float | None] | None:
    """Return the method `service_time` of a source; None if the source does not have it."""
    if isinstance(source, TimedSource) and type(source.service_time) in _REAL:
        return source.service_time
    return None


def check_source(source: object) -> None:
    """Raise TypeError if an object cannot be a source: it has no `get_job`, or is a class.

    Without this check, the first poll would end all watches with an error that is hard to read.
    """
    if isinstance(source, type):
        got = f"the class {source.__name__}"
    elif callable(getattr(source, "get_job", None)):
        return
    else:
        got = f"an object of the class {type(source).__name__}"
    raise TypeError(
        f"the source must be an object with a method get_job, such as an AdeClient, not {got}"
    )


def checked_snapshot(snapshot: object) -> JobSnapshot:
    """Return what `get_job` of a caller's source has returned; raise TypeError if it is wrong."""
    if isinstance(snapshot, JobSnapshot):
        return snapshot
    name = type(snapshot).__name__
    raise TypeError(f"`get_job` of the source must return a JobSnapshot, not a {name}")


def checked_page(page: JobPage) -> JobPage:
    """Return what `list_jobs` of a caller's source has returned; raise TypeError if it is wrong."""
    if hasattr(page, "jobs"):  # also a mock of a page
        return page
    name = type(page).__name__
    raise TypeError(f"`list_jobs` of the source must return a JobPage, not a {name}")


def aware(time: datetime) -> datetime:
    """Return a time of a caller's source as an aware datetime; a naive one is UTC."""
    return time.replace(tzinfo=UTC) if time.utcoffset() is None else time


def with_aware_times(snapshot: JobSnapshot) -> JobSnapshot:
    """Return a snapshot of a caller's source with aware times only; naive ones are UTC."""
    times = {name: getattr(snapshot, name) for name in _TIMES}
    changed: dict[str, Any] = {
        name: aware(time)
        for name, time in times.items()
        if isinstance(time, datetime) and time.utcoffset() is None
    }
    return evolve(snapshot, **changed) if changed else snapshot


_TIMES: Final = ("received_at", "created_at", "completed_at")

# The types of real functions. `clock_of` compares them with `type(...)`: `isinstance` would also
# accept a mock that claims to be a function.
_REAL: Final = (FunctionType, MethodType)


class _HeldDuringCalls:
    """Wraps a source without `for_polling`, and holds the semaphore during each call.

    If the source returns something else than a snapshot or a page, its methods raise TypeError.
    """

    def __init__(self, source: JobSource, semaphore: AbstractAsyncContextManager[object]) -> None:
        self._source = source
        self._semaphore = semaphore

    async def get_job(self, job_id: str) -> JobSnapshot:
        async with self._semaphore:
            return checked_snapshot(await self._source.get_job(job_id))

    async def list_jobs(
        self, *, page: int = 0, page_size: int = 100, status: JobStatus | None = None
    ) -> JobPage:
        if not hasattr(self._source, "list_jobs"):
            raise NotImplementedError("the source has no list")
        async with self._semaphore:
            listed = await self._source.list_jobs(page=page, page_size=page_size, status=status)
        return checked_page(listed)
