"""Latest: how many jobs stand, for one who may be slow: of each job only the newest is kept.

A Feed that is never full, since it holds one piece of news for each job at most. Imports feeds.
"""

import sys
from collections.abc import Mapping

from attrs import evolve, frozen

from adepoll.api.models import JobSnapshot, JobStatus
from adepoll.errors import AdePollError, InvalidJobIdError
from adepoll.watching.job_state import JobState
from adepoll.watching.subscriptions import BUFFERED, YIELDED, Feed, Mark, Stream


@frozen(kw_only=True)
class StatusUpdate:
    """How a job stands now.

    Attributes:
        job_id: The job.
        status: Where it stands; None where it was given up.
        status_text: The same as the service wrote it.
        snapshot: What the look at it saw, without the result, and `output_url` without its query;
            None where it was given up, and where all that is known is what others were told.
        error: Why it was given up.
    """

    job_id: str
    status: JobStatus | None = None
    status_text: str | None = None
    snapshot: JobSnapshot | None = None
    error: AdePollError | None = None

    @property
    def is_last(self) -> bool:
        """Whether nothing more will be told of the job."""
        return self.status is None or self.status.is_terminal


class StatusUpdatesFeed(Feed):
    """A feed of every change of status, of which one who is slow is told the last."""

    def __init__(self, told: Mapping[str, str]) -> None:
        """Make a feed.

        Args:
            told: Status text by job, where that was told before.
        """
        super().__init__(limit=sys.maxsize, every_change=True)
        self._told = told
        self._news: dict[str, StatusUpdate] = {}  # what waits longest comes first
        for job_id, text in told.items():
            if JobStatus.parse(text).is_terminal:
                self._jobs[job_id] = YIELDED

    def admit(self, job_id: str) -> None:
        """Start to follow a job."""
        super().admit(job_id)
        self._jobs[job_id] = self._told.get(job_id)

    def greet(self, entry: JobState) -> None:
        """Tell what others know of the job."""
        text = entry.status
        if text is not None and text != self._jobs[entry.job_id]:
            self._jobs[entry.job_id] = text
            self._tell(
                StatusUpdate(job_id=entry.job_id, status=JobStatus.parse(text), status_text=text)
            )

    def refuse(self, error: InvalidJobIdError) -> None:
        """An id that cannot be one is given up at once."""
        self._jobs[error.job_id] = YIELDED
        self._tell(StatusUpdate(job_id=error.job_id, error=error))

    def give_up(self, job_id: str, error: AdePollError) -> None:
        """The job ends as unresolved."""
        self._jobs[job_id] = BUFFERED
        self.open -= 1
        self._tell(StatusUpdate(job_id=job_id, error=error))

    def take(self, snapshot: JobSnapshot) -> bool:
        """Keep what is news, in place of what was."""
        told = self._jobs[snapshot.job_id]
        if isinstance(told, Mark) or told == snapshot.status_text:
            return True
        if snapshot.status.is_terminal:
            self._jobs[snapshot.job_id] = BUFFERED
            self.open -= 1
        else:
            self._jobs[snapshot.job_id] = snapshot.status_text
        self._tell(
            StatusUpdate(
                job_id=snapshot.job_id,
                status=snapshot.status,
                status_text=snapshot.status_text,
                snapshot=evolve(snapshot, data=None).redacted(),
            )
        )
        return True

    def pop_news(self) -> StatusUpdate | None:
        """Give the news that has waited longest."""
        if not self._news:
            return None
        news = self._news.pop(next(iter(self._news)))
        if news.is_last:
            self._jobs[news.job_id] = YIELDED
        return news

    def _tell(self, news: StatusUpdate) -> None:
        self._news[news.job_id] = news  # what it replaces had its place in the line, too
        self.ready.set()


class StatusUpdates(Stream[StatusUpdatesFeed]):
    """An async iterator of how jobs stand now, and an async context manager.

    It never holds more than one piece of news for each job, however slow its consumer is.
    """

    async def __anext__(self) -> StatusUpdate:
        """Give what is new of a job, as soon as there is something.

        Raises:
            AuthenticationError: The key was refused; likewise `PermissionDeniedError`.
            ClosedError: The watcher or its client was closed; or another task closed this while
                it waited.
        """
        if self._finished:
            raise StopAsyncIteration
        self._start()
        while (news := self._feed.pop_news()) is None:
            await self._wait_for_news()
        return news
