"""Status updates: the present status of many jobs, for a consumer that may be slow.

Only the latest update of each job is kept. So memory stays bounded without a buffer, and polls
never pause.
"""

from collections import OrderedDict
from collections.abc import Mapping

from attrs import frozen

from adepoll.api.job_kind import JobKind, job_key
from adepoll.api.models import JobSnapshot, JobStatus
from adepoll.common.safe_repr import SafeRepr
from adepoll.errors import AdePollError
from adepoll.watching.job_state import JobState
from adepoll.watching.kind_polling import NamedJob, SubscriptionOwner
from adepoll.watching.subscriptions import BUFFERED, JobIds, Subscription
from adepoll.watching.watch import Stream


@frozen(kw_only=True)
class StatusUpdate(SafeRepr):
    """The present status of a job.

    Attributes:
        job_id: Id of the job.
        kind: Kind of the job.
        label: The caller's own name for the job; None if the caller gave no name.
        status: Status of the job; None if the job was given up.
        status_text: The status as the service wrote it; None if the job was given up.
        snapshot: Snapshot of the poll, without the result and the query of `output_url`. None if
            the job was given up, or if the status comes from an earlier poll for another
            subscriber.
        error: Why the job was given up; None if it was not.
    """

    job_id: str
    kind: JobKind = JobKind.V1_EXTRACT
    label: str | None = None
    status: JobStatus | None = None
    status_text: str | None = None
    snapshot: JobSnapshot | None = None
    error: AdePollError | None = None

    @property
    def is_last(self) -> bool:
        """True if no other update of the job follows."""
        return self.status is None or self.status.is_terminal


class StatusUpdateSubscription(Subscription):
    """A subscription that keeps the latest update of each job until the consumer takes it."""

    def __init__(
        self, owner: SubscriptionOwner, job_ids: JobIds, *, last_status: Mapping[str, str | None]
    ) -> None:
        """Create a subscription; see `JobWatcher.status_updates`."""
        super().__init__(owner, job_ids, every_change=True)
        # Status texts from `last_status` by key, for active jobs whose ids were not read yet.
        self._last_status: dict[str, str] = {}
        for job, text in last_status.items():
            if text is None:
                continue
            key = job_key(job, owner.kind)
            if JobStatus.parse(text).is_terminal:
                self._jobs[key] = BUFFERED  # the consumer has this job's last update already
            else:
                self._last_status[key] = text
        self._updates: OrderedDict[str, StatusUpdate] = OrderedDict()  # the oldest comes first

    def deliver(self, key: str, snapshot: JobSnapshot) -> bool:
        """Keep a changed status; it replaces an earlier update of the job."""
        text = snapshot.status_text
        last = self._jobs.get(key, BUFFERED)
        if last == text or not (last is None or isinstance(last, str)):
            return True
        if snapshot.status.is_terminal:
            self._jobs[key] = BUFFERED
            self._count_ended()
        else:
            self._jobs[key] = text
        without_result = self.labelled(key, snapshot).without_data()
        self._keep(
            key, status=snapshot.status, status_text=text, snapshot=without_result.redacted()
        )
        return True

    def take(self) -> StatusUpdate | None:
        """Return the update that has waited longest; None if no update waits."""
        if not self._updates:
            return None
        key, update = self._updates.popitem(last=False)
        if update.is_last:
            self._forget(key)
        self._room_changed.set()
        return update

    def _untaken(self) -> int:
        """Return the number of updates that wait for the consumer."""
        return len(self._updates)

    def _subscribe(self, job: NamedJob, now: float) -> JobState:
        """Watch a job. If polls for other subscribers have found its status, keep an update now."""
        self._jobs[job.key] = self._last_status.pop(job.key, None)
        state = super()._subscribe(job, now)
        text = state.status
        # The status can be known from polls that were made for other subscribers.
        if text is not None and text != self._jobs[job.key]:
            status = JobStatus.parse(text)
            # A settled job is still watched only while it waits for room in another subscriber's
            # buffer. This subscription always has room, so a poll follows immediately, and delivers
            # the final status.
            if not status.is_terminal:
                self._jobs[job.key] = text
                self._keep(job.key, status=status, status_text=text)
        return state

    def _record_error(self, key: str, error: AdePollError) -> None:
        """Keep an update with the error of a job that was given up."""
        self._jobs[key] = BUFFERED
        self._keep(key, error=error)

    def _keep(
        self,
        key: str,
        *,
        status: JobStatus | None = None,
        status_text: str | None = None,
        snapshot: JobSnapshot | None = None,
        error: AdePollError | None = None,
    ) -> None:
        """Keep an update of a job for the consumer, in place of an earlier update of the job.

        `StatusUpdate` describes the arguments.
        """
        kind, job_id = self._owner.kind_and_id(key)
        self._updates[key] = StatusUpdate(
            job_id=job_id,
            kind=kind,
            label=self._labels.get(key),
            status=status,
            status_text=status_text,
            snapshot=snapshot,
            error=error,
        )
        self.ready.set()


class StatusUpdates(Stream[StatusUpdateSubscription, StatusUpdate]):
    """An async iterator of `StatusUpdate`, and an async context manager.

    It holds at most one update of each job, however slow the consumer is. Watching starts and ends
    as it does for `Watch`. A job that is given up is yielded, too: its update has the error.
    """
