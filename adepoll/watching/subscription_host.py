"""SubscriptionHost: what the subscriptions of one watcher share, and how they name jobs.

Imports pollers and below.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

from attrs import define, field

from adepoll.api.job_ids import is_plain
from adepoll.api.job_kind import V2_LETTERS, JobKind, JobRef, kind_of_id
from adepoll.errors import ClosedError, ConfigurationError, InvalidJobIdError
from adepoll.watching.pollers import Pollers


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
        pollers: Poll the jobs of its kind.
        label: The caller's own name for the job.
    """

    key: str
    job_id: str
    pollers: Pollers
    label: str | None = None


@define(eq=False, kw_only=True)
class SubscriptionHost:
    """What the subscriptions of one watcher share.

    Attributes:
        pollers: Poll the jobs of the watcher's own kind.
        on_new_jobs: Called when jobs were added.
        kind: The watcher's own kind of jobs.
        add_kind: Returns the pollers of another kind; raises `ConfigurationError` if there is none.
        others: Pollers of the other kinds in use.
        subscriptions: Open subscriptions; a dict, as a set keeps no order.
        tasks: Tasks that read ids, or end subscriptions.
        closed: True if no subscription may start.
        loop: Event loop of the watcher; None before its first use.
    """

    pollers: Pollers
    on_new_jobs: Callable[[], None]
    kind: JobKind = JobKind.V1_EXTRACT
    add_kind: "Callable[[JobKind], Pollers] | None" = None
    others: dict[JobKind, Pollers] = field(factory=dict)
    subscriptions: dict[OpenSubscription, None] = field(factory=dict)
    tasks: set[asyncio.Task[None]] = field(factory=set)
    closed: bool = False
    loop: asyncio.AbstractEventLoop | None = None

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
            return NamedJob(job, job, self.pollers)
        ref = JobRef.of(job).resolved(self.kind)
        kind = ref.kind or self.kind
        key = ref.text(self.kind)
        if kind == self.kind:
            return NamedJob(key, ref.job_id, self.pollers, ref.label)
        if (pollers := self.others.get(kind)) is None:
            try:
                pollers = self.others[kind] = self._added(kind)
            except ConfigurationError as exc:
                raise InvalidJobIdError(job_id=key, reason=str(exc)) from None
        return NamedJob(key, ref.job_id, pollers, ref.label)

    def find(self, key: str) -> NamedJob | None:
        """Return the job with that key; None if no job of its kind was named."""
        kind, job_id = self.kind_and_id(key)
        pollers = self.pollers if kind == self.kind else self.others.get(kind)
        return None if pollers is None else NamedJob(key, job_id, pollers)

    def kind_and_id(self, key: str) -> tuple[JobKind, str]:
        """Return the kind and the id that a key consists of; an invalid id has the own kind."""
        name, slash, job_id = key.partition("/")
        if slash and (kind := JobKind(name)) in {self.kind, *self.others, *JobKind.all()}:
            return kind, job_id
        return kind_of_id(key) or self.kind, key

    def key_of(self, kind: JobKind, job_id: str) -> str:
        """Return the key of a job."""
        if kind is self.kind and job_id[0] not in V2_LETTERS:  # nearly all jobs, quickly
            return job_id
        return JobRef(job_id, kind=kind).text(self.kind)

    def keys_in_flight(self) -> list[str]:
        """Return the keys of the jobs whose polls are in flight."""
        keys = self.pollers.ids_in_flight()
        for kind, pollers in self.others.items():
            keys += [self.key_of(kind, job_id) for job_id in pollers.ids_in_flight()]
        return keys

    def overdue(self) -> int:
        """Return the number of jobs that are due, and wait for a poller."""
        all_pollers = (self.pollers, *self.others.values())
        return sum(pollers.watched_jobs.poll_queue.overdue for pollers in all_pollers)

    def _added(self, kind: JobKind) -> Pollers:
        if self.add_kind is None:
            raise ConfigurationError(f"there are no jobs of the kind {kind.name} here")
        return self.add_kind(kind)
