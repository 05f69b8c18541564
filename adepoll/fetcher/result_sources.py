"""Finds out where the result of a job is: in its snapshot, a file, an answer of the API, a storage.

If a completed v2 job is requested, the answer of the API contains the result, of any size.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeAlias
from weakref import WeakValueDictionary

from attrs import evolve, frozen

from adepoll.api import codec
from adepoll.api.client import AdeClient
from adepoll.api.job_kind import JobRef
from adepoll.api.kinds.kind_rules import KindRules
from adepoll.api.models import JobSnapshot, JobStatus
from adepoll.common.redaction import is_redacted
from adepoll.common.threads import start_in_thread
from adepoll.errors import ResultUnavailableError
from adepoll.fetcher.checked_reader import CheckedReader
from adepoll.fetcher.completed_job import raise_unless_completed, request_completed
from adepoll.fetcher.local_result import FileResult, InlineResult, LocalResult
from adepoll.fetcher.patience import StorageOrigins, TransferRetries
from adepoll.fetcher.polled_result import PolledReader, PolledResult
from adepoll.fetcher.sequential_reader import SequentialReader
from adepoll.fetcher.statistics import Counters
from adepoll.fetcher.storage_client import StorageClient
from adepoll.fetcher.stored_result import PresignedUrl, ResolveUrl, StoredResult

Job: TypeAlias = JobSnapshot | JobRef | str
"""A snapshot of a job, a reference to it, or its id."""

Reader: TypeAlias = LocalResult | CheckedReader | SequentialReader | PolledReader
"""Reads a result, or a range of it, in order."""


@frozen(kw_only=True)
class FoundResult:
    """Says where the result of a job is, and opens it.

    Attributes:
        ref: Reference to the job; its kind is set.
        rules: Rules of the job's kind.
        source: The snapshot of the job, if the result is in the snapshot, or in a file that it
            names. Otherwise, the object that requests the result from the API or from a storage.
    """

    ref: JobRef
    rules: KindRules
    source: JobSnapshot | PolledResult | StoredResult

    async def checked_reader(self, start: int, stop: int | None) -> Reader:
        """Return a reader of the result, or of a range of it, as `reader` does.

        A whole result from a storage is checked before its first byte is returned.
        """
        if isinstance(self.source, StoredResult) and (start, stop) == (0, None):
            return CheckedReader(self.source, self.rules.result_keys)
        return await self.reader(start, stop)

    async def reader(self, start: int = 0, stop: int | None = None) -> Reader:
        """Return a reader of the result, or of a range of it.

        Args:
            start: Offset of the first byte. A negative number counts from the end of the result.
            stop: Offset after the last byte; None for the end of the result.

        Raises:
            AdePollError: As for `SequentialReader.read`.
        """
        source, job_id = self.source, self.ref.job_id
        if not isinstance(source, JobSnapshot):
            return await source.reader(start, stop)
        if source.data is not None:
            body = await start_in_thread(_inline_body, source)
            return InlineResult(body, job_id=job_id, start=start, stop=stop)
        if source.kept_result is None:
            raise ResultUnavailableError(job_id=job_id)
        return FileResult(source.kept_result, job_id=job_id, start=start, stop=stop)


class ResultSources:
    """Finds out where the result of a job is, and opens it, for one fetcher.

    A result is in the snapshot of its job, in a file that a poll has written, or in a storage. The
    result of a v2 job is also in the API's answer if the job is requested again.
    """

    def __init__(
        self,
        client: AdeClient,
        storage: StorageClient,
        counters: Counters,
        *,
        patience: float,
        resolve_url: ResolveUrl | None,
    ) -> None:
        """Store the arguments; `ResultFetcher` documents them."""
        self._client = client
        self._kind = client.kind
        self._retry = client.retry
        self._rng = client.rng
        self._storage = storage
        self._counters = counters
        self._patience = patience
        self._resolve_url = resolve_url
        self._origins = StorageOrigins(self._retry, self._rng)
        # Simultaneous readers of a result with the same URL share one object, so that the URL is
        # renewed only once for all of them.
        self._urls: WeakValueDictionary[tuple[JobRef, str | None], PresignedUrl]
        self._urls = WeakValueDictionary()

    @asynccontextmanager
    async def find(self, job: Job, *, in_bulk: bool = False) -> AsyncGenerator[FoundResult, None]:
        """Yield a `FoundResult`, which says where the result of a job is.

        If `job` does not say where the result is, request the job from the API.

        Args:
            job: A snapshot of the job, a `JobRef`, or its id.
            in_bulk: True to read large chunks, which need several megabytes of memory.

        Raises:
            ResultNotReadyError: The job has not settled yet.
            JobFailedError: The job failed.
            JobCancelledError: The job was cancelled.
            ResultUnavailableError: The job has completed, but the service has no result of it.
            RequestError: The API failed.
        """
        self._storage.check_open()
        ref = ref_of(job)
        kind = ref.kind_or(self._kind)
        rules = self._client.rules_of(kind)
        if ref.kind is None:
            ref = evolve(ref, kind=kind)
        retries = self._retries()
        snapshot = job if isinstance(job, JobSnapshot) else None
        if snapshot is None or _must_be_requested(snapshot):
            is_completed = snapshot is not None
            if rules.can_be_large:
                polled = PolledResult(
                    self._client, ref, rules, retries, self._storage, is_completed=is_completed
                )
                try:
                    snapshot = await polled.begin()
                    if snapshot is None:
                        yield FoundResult(ref=ref, rules=rules, source=polled)
                        return
                finally:
                    await polled.aclose()
            elif is_completed:
                snapshot = await retries.until_answered(
                    partial(request_completed, self._client, ref)
                )
            else:
                snapshot = await self._client.get_job(ref)
        if snapshot.status is not JobStatus.COMPLETED:
            raise_unless_completed(snapshot)
        source: JobSnapshot | StoredResult = snapshot
        if snapshot.data is None and not _has_file(snapshot):
            if snapshot.output_url is None and self._resolve_url is None:
                raise ResultUnavailableError(job_id=ref.job_id)
            source = self._stored(ref, snapshot, retries, in_bulk=in_bulk)
        yield FoundResult(ref=ref, rules=rules, source=source)

    def _stored(
        self, ref: JobRef, job: JobSnapshot, retries: TransferRetries, *, in_bulk: bool
    ) -> StoredResult:
        """Return an object that requests the result of a job from a storage.

        All transfers of the same result share one `PresignedUrl`, so it is renewed only once. With
        `in_bulk`, large chunks are read.
        """
        key = (ref, job.output_url)
        url = self._urls.get(key)
        if url is None:
            url = self._urls[key] = PresignedUrl(
                self._client, ref, job, self._resolve_url, self._counters
            )
        return StoredResult(
            self._storage,
            url,
            retries,
            self._origins,
            job_id=ref.job_id,
            in_bulk=in_bulk,
        )

    def _retries(self) -> TransferRetries:
        return TransferRetries(
            self._retry,
            self._rng,
            patience=self._patience,
            check_open=self._storage.check_open,
            counters=self._counters,
        )


def _inline_body(job: JobSnapshot) -> bytes:
    """Return the JSON of the result that a snapshot contains.

    These are the bytes that the service sent, if the snapshot has kept them. Otherwise the decoded
    result is encoded again.
    """
    received = None if job.received_result is None else job.received_result.read()
    return codec.encode(job.data).encode() if received is None else received


def ref_of(job: Job) -> JobRef:
    """Return the `JobRef` of a job that is given as a snapshot, a `JobRef` or an id.

    Raises:
        InvalidJobIdError: The id cannot be a job id.
    """
    if isinstance(job, JobSnapshot):
        return JobRef(job.job_id, kind=job.kind, label=job.label)
    return JobRef.of(job)


def _must_be_requested(job: JobSnapshot) -> bool:
    """Return whether a completed job must be requested again, to find its result.

    This is the case if the snapshot contains neither the result, nor a file with the result, nor a
    usable URL of the result.
    """
    if job.status is not JobStatus.COMPLETED or job.data is not None or _has_file(job):
        return False
    # There is no usable URL if the snapshot was redacted, or saved without its URL.
    return job.data_omitted or job.output_url is None or is_redacted(job.output_url)


def _has_file(job: JobSnapshot) -> bool:
    return job.kept_result is not None and job.kept_result.path.exists()
