"""Functions that open a session for a single call, and close it afterwards."""

import os
from collections.abc import Callable, Generator
from typing import Literal, overload

from adepoll import AdeClient, Download, JobRef, JobSnapshot, UnresolvedJob
from adepoll.sync.session import JobIds, Session


def wait(
    job: str | JobRef,
    *,
    timeout: float | None = None,
    client: Callable[[], AdeClient] = AdeClient,
) -> JobSnapshot:
    """Return a job as soon as it has settled; see `Session.wait`.

    Args:
        job: The job.
        timeout: Seconds after which `JobTimeoutError` is raised; None for no limit.
        client: Creates the client; see `Session`.
    """
    with Session(client) as session:
        return session.wait(job, timeout=timeout)


@overload
def watch(
    job_ids: JobIds,
    *,
    timeout: float | None = None,
    errors: Literal["raise"] = "raise",
    show_progress: bool = False,
    client: Callable[[], AdeClient] = AdeClient,
) -> Generator[JobSnapshot, None, None]: ...


@overload
def watch(
    job_ids: JobIds,
    *,
    timeout: float | None = None,
    errors: Literal["yield"],
    show_progress: bool = False,
    client: Callable[[], AdeClient] = AdeClient,
) -> Generator[JobSnapshot | UnresolvedJob, None, None]: ...


def watch(
    job_ids: JobIds,
    *,
    timeout: float | None = None,
    errors: Literal["raise", "yield"] = "raise",
    show_progress: bool = False,
    client: Callable[[], AdeClient] = AdeClient,
) -> Generator[JobSnapshot | UnresolvedJob, None, None]:
    """Yield each job as soon as it has settled; see `Session.watch`.

    Args:
        job_ids: An iterable of any size.
        timeout: Seconds after which jobs that have not settled are given up; None for no limit.
        errors: What becomes of jobs that are given up; see `JobWatcher.watch`.
        show_progress: True to show a bar; see `adepoll.progress`.
        client: Creates the client; see `Session`.
    """
    with Session(client) as session:
        if errors == "yield":
            yield from session.watch(
                job_ids, timeout=timeout, errors="yield", show_progress=show_progress
            )
        else:
            yield from session.watch(
                job_ids, timeout=timeout, errors=errors, show_progress=show_progress
            )


def download(
    job: JobSnapshot | JobRef | str,
    path: str | os.PathLike[str],
    *,
    progress: Callable[[int, int | None], None] | None = None,
    overwrite: bool = False,
    client: Callable[[], AdeClient] = AdeClient,
) -> Download:
    """Write the result of a completed job to a file; see `ResultFetcher.download`.

    Args:
        job: A snapshot of the job, a `JobRef`, or its id.
        path: The file; its folder must exist.
        progress: Called in a background thread with the bytes written so far and in total; see
            `adepoll.download_progress`.
        overwrite: True to replace an existing file.
        client: Creates the client; see `Session`.
    """
    with Session(client) as session:
        return session.download(job, path, progress=progress, overwrite=overwrite)
