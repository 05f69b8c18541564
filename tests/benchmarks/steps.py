"""Measures the longest step of the event loop while a watch reads many ids, closes or times out.

A step is one callback, or the part of a task between two suspensions. It is measured in CPU time of
the thread, so that other programs do not count. Garbage collection is off, because its pauses
depend on all objects of the process.
"""

import argparse
import asyncio
import gc
import time
from asyncio.events import Handle
from collections.abc import Awaitable

from adepoll import JobPage, JobSnapshot, JobStatus, JobWatcher, UnresolvedJobsError
from adepoll.api.models import from_timestamp

JOBS = 100_000
MOST_MS = 20


class Endless:
    """A source of jobs that never settle, with an empty list."""

    async def get_job(self, job_id: str) -> JobSnapshot:
        """Return an active job after 20 ms."""
        await asyncio.sleep(0.02)
        return JobSnapshot(
            job_id=job_id,
            status=JobStatus.PROCESSING,
            status_text="processing",
            received_at=from_timestamp(time.time()),
            progress=0.0,
        )

    async def list_jobs(
        self, *, page: int = 0, page_size: int = 100, status: JobStatus | None = None
    ) -> JobPage:
        """Return an empty page after 20 ms."""
        await asyncio.sleep(0.02)
        return JobPage(jobs=(), has_more=False)


async def report(what: str, work: Awaitable[object]) -> None:
    """Print the longest step of the loop while `work` is awaited."""
    longest = 0.0
    run = Handle._run

    def measure(handle: Handle) -> None:
        nonlocal longest
        began = time.thread_time()
        run(handle)
        longest = max(longest, time.thread_time() - began)

    Handle._run = measure  # type: ignore[method-assign] # asyncio has no public hook for each step
    try:
        await work
    finally:
        Handle._run = run  # type: ignore[method-assign] # restores the method
    print(f"{what:32} {1000 * longest:8.1f} ms    goal <= {MOST_MS} ms")


async def measure_all(discovery: str, count: int) -> None:
    """Measure each phase of a watch: reading ids, polling, closing, and a timeout."""
    job_ids = [f"job{number}" for number in range(count)]
    async with JobWatcher(Endless(), discovery=discovery) as watcher:  # type: ignore[arg-type] # `main` passes valid texts
        watch = watcher.watch(job_ids)

        async def read() -> None:
            async with asyncio.timeout(60):
                await watch.__aenter__()
                while not watch.progress.complete:  # noqa: ASYNC110 - the watch has no event for it
                    await asyncio.sleep(0)

        async def expire() -> None:
            try:
                async for _ in watcher.watch(job_ids, timeout=5.0):
                    pass
            except UnresolvedJobsError:
                pass

        await report(f"{discovery}: read {count} ids", read())
        await report(f"{discovery}: poll for 5 s", asyncio.sleep(5))
        await report(f"{discovery}: close", watch.aclose())
        await report(f"{discovery}: timeout", expire())


def main() -> None:
    """Measure with and without list sweeps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--jobs", type=int, default=JOBS, help="watched jobs (default: %(default)s)"
    )
    options = parser.parse_args()
    gc.disable()
    for discovery in ("get", "list"):
        asyncio.run(measure_all(discovery, options.jobs))


if __name__ == "__main__":
    main()
