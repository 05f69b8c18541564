"""Status updates: the present status of many jobs, for a consumer that may be slow.

Imports subscriptions and below. At most one update of each job is held, so that it needs no buffer
and polls never pause.
"""

from collections import OrderedDict
from collections.abc import Mapping

from attrs import evolve, frozen

from adepoll.api.models import JobSnapshot, JobStatus
from adepoll.errors import AdePollError
from adepoll.watching.job_state import JobState
from adepoll.watching.subscriptions import BUFFERED, JobIds, Subscription, SubscriptionHost
from adepoll.watching.watch import Stream


@frozen(kw_only=True)
class StatusUpdate:
    """The present status of a job.

    Attributes:
        job_id: Id of the job.
        status: Its status; None if the job was given up.
        status_text: The status as the service wrote it.
        snapshot: Snapshot of the poll, without the result, and with an `output_url` without its
            query; None if the job was given up, and if the status comes from an earlier poll for
            another subscriber.
        error: Why the job was given up.
    """

    job_id: str
    status: JobStatus | None = None
    status_text: str | None = None
    snapshot: JobSnapshot | None = None
    error: AdePollError | None = None

    @property
    def is_last(self) -> bool:
        """True if no other update of the job follows."""
        return self.status is None or self.status.is_terminal


class StatusUpdateSubscription(Subscription):
    """A subscription that keeps the latest update of each job until it is taken."""

    def __init__(
        self, host: SubscriptionHost, job_ids: JobIds, *, last_status: Mapping[str, str]
    ) -> None:
        """Create a subscription; see `JobWatcher.status_updates`."""
        super().__init__(host, job_ids, every_change=True)
        self._last_status = dict(last_status)
        for job_id, text in last_status.items():
            if JobStatus.parse(text).is_terminal:
                self._jobs[job_id] = BUFFERED  # its last update was taken earlier
        self._updates: OrderedDict[str, StatusUpdate] = OrderedDict()  # the oldest comes first

    def deliver(self, snapshot: JobSnapshot) -> bool:
        """Keep a changed status, in place of an earlier update of the job."""
        job_id, text = snapshot.job_id, snapshot.status_text
        last = self._jobs.get(job_id, BUFFERED)
        if last == text or not (last is None or isinstance(last, str)):
            return True
        if snapshot.status.is_terminal:
            self._jobs[job_id] = BUFFERED
            self.open -= 1
        else:
            self._jobs[job_id] = text
        self._keep(
            StatusUpdate(
                job_id=job_id,
                status=snapshot.status,
                status_text=text,
                snapshot=evolve(snapshot, data=None).redacted(),
            )
        )
        return True

    def take(self) -> StatusUpdate | None:
        """Return the update that has waited longest; None if there is none."""
        if not self._updates:
            return None
        job_id, update = self._updates.popitem(last=False)
        if update.is_last:
            self._forget(job_id)
        self._room_changed.set()
        return update

    def _untaken(self) -> int:
        return len(self._updates)

    def _subscribe(self, job_id: str, now: float) -> JobState:
        self._jobs[job_id] = self._last_status.pop(job_id, None)
        state = super()._subscribe(job_id, now)
        text = state.status
        if text is not None and text != self._jobs[job_id]:  # known from polls for others
            status = JobStatus.parse(text)
            # A settled job that is still watched waits for another subscriber's room. This one has
            # room, so that a poll follows immediately and delivers the end.
            if not status.is_terminal:
                self._jobs[job_id] = text
                self._keep(StatusUpdate(job_id=job_id, status=status, status_text=text))
        return state

    def _record_error(self, job_id: str, error: AdePollError) -> None:
        self._jobs[job_id] = BUFFERED
        self._keep(StatusUpdate(job_id=job_id, error=error))

    def _keep(self, update: StatusUpdate) -> None:
        self._updates[update.job_id] = update  # in the place of the one that it replaces
        self.ready.set()


class StatusUpdates(Stream[StatusUpdateSubscription, StatusUpdate]):
    """An async iterator of `StatusUpdate`, and an async context manager.

    It holds at most one update of each job, however slow its consumer is. Watching starts and ends
    as with `Watch`; jobs that are given up come like the others.
    """
