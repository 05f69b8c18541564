"""SubscriptionHost: the kinds of jobs that a watcher polls, and what its subscriptions share.

Imports kind_polling and below.
"""

import asyncio
from collections.abc import Mapping
from typing import Protocol

from attrs import define

from adepoll.api.job_ids import is_plain
from adepoll.api.job_kind import V2_LETTERS, JobKind, JobRef, kind_and_id
from adepoll.api.source import JobSource, for_kind, kind_of
from adepoll.errors import ClosedError, ConfigurationError, InvalidJobIdError
from adepoll.scheduling.durations import Durations
from adepoll.watching.kind_polling import KindPolling, PollingOptions


class OpenSubscription(Protocol):
    """A subscription, as its host knows it."""

    def fail(self, error: BaseException) -> None:
        """End the subscription with an error."""


@define(eq=False)
class NamedJob:
    """A job that the caller has named.

    Attributes:
        key: Text of the reference: the id, with the kind before it unless the id alone means it.
        job_id: Id of the job.
        polling: Polls the jobs of its kind.
        label: The caller's own name for the job.
    """

    key: str
    job_id: str
    polling: KindPolling
    label: str | None = None


class SubscriptionHost:
    """The kinds of jobs that a watcher polls, and its open subscriptions.

    Attributes:
        kind: The watcher's own kind of jobs.
        own: Polls the jobs of that kind.
        by_kind: Polls the jobs of each kind that was named so far; the own kind is the first.
        subscriptions: Open subscriptions; a dict, as a set keeps no order.
        tasks: Tasks that read ids, or end subscriptions.
        closed: True if no subscription may start.
        loop: Event loop of the watcher; None before its first use.
    """

    def __init__(
        self, source: JobSource, options: PollingOptions, durations: Mapping[JobKind, Durations]
    ) -> None:
        """Poll nothing yet.

        Args:
            source: Answers the polls of all kinds.
            options: What all kinds have in common.
            durations: What is known of how long jobs take, by kind.
        """
        self._source = source
        self._options = options
        self._durations = durations
        self.kind = kind_of(source)
        self.by_kind: dict[JobKind, KindPolling] = {}
        self.own = self.add_kind(self.kind)
        self.subscriptions: dict[OpenSubscription, None] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        self.closed = False
        self.loop: asyncio.AbstractEventLoop | None = None

    def add_kind(self, kind: JobKind) -> KindPolling:
        """Return what polls the jobs of a new kind.

        Raises:
            ConfigurationError: The source has no jobs of that kind.
        """
        if (source := for_kind(self._source, kind)) is None:
            raise ConfigurationError(f"the source has no jobs of the kind {kind.name}")
        durations = self._durations.get(kind) or Durations()
        polling = self.by_kind[kind] = KindPolling(kind, source, self._options, durations)
        return polling

    def pump(self) -> None:
        """Start to sweep where that saves requests, then poll the jobs that are due."""
        for polling in self.by_kind.values():
            polling.pump()

    def check_open(self) -> None:
        """Raise ClosedError if no subscription may start in the running loop."""
        if self.closed:
            raise ClosedError("the watcher is closed")
        loop = asyncio.get_running_loop()
        self.loop = self.loop or loop
        if self.loop is not loop:
            raise ClosedError("the watcher belongs to another event loop; make one for each")

    def named(self, job: str | JobRef) -> NamedJob:
        """Return the job that a text or reference means.

        Raises:
            InvalidJobIdError: The id cannot be a job id, or the source has no jobs of that kind.
        """
        if is_plain(job) and job[0] not in V2_LETTERS:  # nearly all jobs, quickly
            return NamedJob(job, job, self.own)
        ref = JobRef.of(job).resolved(self.kind)
        kind = ref.kind or self.kind
        key = ref.text(self.kind)
        if (polling := self.by_kind.get(kind)) is None:
            try:
                polling = self.add_kind(kind)
            except ConfigurationError as exc:
                raise InvalidJobIdError(job_id=key, reason=str(exc)) from None
        return NamedJob(key, ref.job_id, polling, ref.label)

    def find(self, key: str) -> NamedJob | None:
        """Return the job with that key; None if no job of its kind was named."""
        kind, job_id = self.kind_and_id(key)
        polling = self.by_kind.get(kind)
        return None if polling is None else NamedJob(key, job_id, polling)

    def kind_and_id(self, key: str) -> tuple[JobKind, str]:
        """Return the kind and the id that a key consists of; an invalid id has the own kind."""
        return kind_and_id(key, self.kind, self.by_kind)

    def key_of(self, kind: JobKind, job_id: str) -> str:
        """Return the key of a job."""
        if kind is self.kind and job_id[0] not in V2_LETTERS:  # nearly all jobs, quickly
            return job_id
        return JobRef(job_id, kind=kind).text(self.kind)

    def keys_in_flight(self) -> list[str]:
        """Return the keys of the jobs whose polls are in flight."""
        return [
            self.key_of(kind, job_id)
            for kind, polling in self.by_kind.items()
            for job_id in polling.pollers.ids_in_flight()
        ]

    def overdue(self) -> int:
        """Return the number of jobs that are due, and wait for a poller."""
        return sum([polling.watched_jobs.poll_queue.overdue for polling in self.by_kind.values()])
