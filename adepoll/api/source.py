"""What a watcher asks about jobs: the `JobSource` protocol. Imports models only."""

from contextlib import AbstractAsyncContextManager
from typing import Protocol, runtime_checkable

from adepoll.api.models import JobPage, JobSnapshot, JobStatus


class JobSource(Protocol):
    """Anything that can be asked about jobs: `AdeClient`, a simulation, a cache of your own.

    Its errors are those of `adepoll.errors`; any other exception is taken for a bug, and stops
    the watcher.
    """

    async def get_job(self, job_id: str) -> JobSnapshot:
        """Look at one job, once."""

    async def list_jobs(
        self, *, page: int = 0, page_size: int = 100, status: JobStatus | None = None
    ) -> JobPage:
        """List one page of jobs; raise NotImplementedError if you cannot."""


@runtime_checkable
class SlottedSource(Protocol):
    """A source that waits at times (for its rate, for a retry) and need not hold a slot then."""

    def slotted(self, slot: AbstractAsyncContextManager[object]) -> JobSource:
        """Give a view of the source that enters `slot` for each request, and for that only."""


@runtime_checkable
class TimedSource(Protocol):
    """A source that knows the time by the service's clock, which `received_at` is of."""

    def service_time(self) -> float | None:
        """Give the Unix time of the service; None while that is not known."""


def hold_slots(source: JobSource, slot: AbstractAsyncContextManager[object]) -> JobSource:
    """Give a view of any source that enters `slot` for each request."""
    if isinstance(source, SlottedSource):
        return source.slotted(slot)
    return _SlotForTheCall(source, slot)


class _SlotForTheCall:
    """A source that knows nothing of slots; a call to it counts as one request."""

    def __init__(self, source: JobSource, slot: AbstractAsyncContextManager[object]) -> None:
        self._source = source
        self._slot = slot

    async def get_job(self, job_id: str) -> JobSnapshot:
        async with self._slot:
            return await self._source.get_job(job_id)

    async def list_jobs(
        self, *, page: int = 0, page_size: int = 100, status: JobStatus | None = None
    ) -> JobPage:
        async with self._slot:
            return await self._source.list_jobs(page=page, page_size=page_size, status=status)
