"""Server-sent events about jobs (WHATWG HTML, section 9.2)."""

import asyncio
import json
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from adepoll.api.job_kind import JobRef, job_key
from adepoll.api.models import JobStatus, Json
from adepoll.common.closing import EndsWhenLeft
from adepoll.common.redaction import showable
from adepoll.errors import AdePollError, ClosedError
from adepoll.watching.status_updates import StatusUpdate
from adepoll.watching.subscriptions import check_ids
from adepoll.watching.watcher import JobWatcher

__all__ = ["EVENT_STREAM_HEADERS", "JobEventStream", "as_event"]

EVENT_STREAM_HEADERS: Final[Mapping[str, str]] = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # otherwise nginx delays events until its buffer is full
}
"""Headers of a response whose body is a `JobEventStream`."""

_LETTERS: Final[Mapping[JobStatus | None, str]] = {
    JobStatus.PENDING: "p",
    JobStatus.PROCESSING: "r",
    JobStatus.COMPLETED: "c",
    JobStatus.FAILED: "f",
    JobStatus.CANCELLED: "x",
}
_STATUSES: Final = {letter: status for status, letter in _LETTERS.items() if status is not None}
# The letter of a job about which no event was sent. It also stands for an unknown status and for a
# job that was given up: their events may be sent again.
_NOT_SENT: Final = "-"
_MAX_ID_LENGTH: Final = 4_000  # characters; many servers accept 8 kB for all headers together
_RETRY_MS: Final = 2_000  # milliseconds after which a browser connects again
_MAX_TEXT_LENGTH: Final = 500  # characters of a label or failure reason


def as_event(update: StatusUpdate) -> Json:
    """Return the data of an event: the id and status of a job, and the reason if it failed.

    The keys are ``job_id``, ``kind``, ``status`` and ``is_last``. A job with a label has the key
    ``label``. A job that was given up has ``error``, the name of the error's class. The last event
    of a settled job has ``conforms`` and ``partial`` (attributes of `JobSnapshot`), and
    ``failure_reason`` if the service states a reason.
    """
    event: dict[str, Json] = {
        "job_id": update.job_id,
        "kind": update.kind.name,
        "status": None if update.status is None else update.status.value,
        "is_last": update.is_last,
    }
    if update.label is not None:
        event["label"] = showable(update.label, _MAX_TEXT_LENGTH)
    if update.error is not None:
        event["error"] = type(update.error).__name__
    if (job := update.snapshot) is not None and update.is_last:
        event["conforms"] = job.conforms
        event["partial"] = job.partial
        if job.failure_reason is not None:
            event["failure_reason"] = showable(job.failure_reason, _MAX_TEXT_LENGTH)
    return event


class JobEventStream(EndsWhenLeft[bytes]):
    """Status updates of jobs as server-sent events: an async iterator of bytes.

    The first event of each job has its present status. Each later event of the job has a new
    status. These events are named ``job``, and their data is the JSON that `as_event` returns.
    When all jobs have settled or were given up, the event ``end`` is sent. Then the page should
    close its ``EventSource``, which would otherwise connect again.

    If there is no event for `heartbeat` seconds, a comment is sent. The comment keeps proxies from
    closing the connection, and shows whether the connection is dead. A client that reads slowly
    only gets the latest status of each job, so that the stream needs no more memory.

    The id of an event has one letter for each job: the last status that was sent. A browser that
    connects again sends this id as ``Last-Event-ID``, and gets only the jobs with a new status. The
    server stores nothing for this. So a browser can connect to a restarted server, and to any of
    several worker processes. With more than 4,000 jobs, events have no id, and every status is sent
    again.

    The stream stops watching the jobs when you leave the ``async for`` loop, when you close the
    stream, or when it is garbage collected.
    """

    _ended = True

    def __init__(
        self,
        watcher: JobWatcher,
        job_ids: Iterable[str | JobRef],
        *,
        last_event_id: str | None = None,
        heartbeat: float = 15.0,
        encode: Callable[[StatusUpdate], Json] = as_event,
    ) -> None:
        """Create the stream; the jobs are watched from the first iteration on.

        Args:
            watcher: Watches the jobs.
            job_ids: The jobs. Their order must be the same when the browser connects again.
            last_event_id: The header ``Last-Event-ID`` of the request; None if it has none.
            heartbeat: Seconds without an event after which a comment is sent.
            encode: Returns the JSON data of an event.

        Raises:
            TypeError: `job_ids` is a single string.
            ValueError: `heartbeat` is not a positive number.
            ClosedError: The watcher is closed.
        """
        check_ids(job_ids)
        if not (math.isfinite(heartbeat) and heartbeat > 0):
            raise ValueError(f"heartbeat must be a positive number, got {heartbeat}")
        self._kind = watcher.kind
        jobs: dict[str, str | JobRef] = {}
        for job in job_ids:
            jobs.setdefault(job_key(job, self._kind), job)
        self._index = {key: index for index, key in enumerate(jobs)}
        self._sent = _read_id(last_event_id, len(jobs))
        self._heartbeat = heartbeat
        self._encode = encode
        last_status = {
            key: _STATUSES[letter].value
            for key, letter in zip(jobs, self._sent, strict=True)
            if letter in _STATUSES
        }
        self._updates = watcher.status_updates(jobs.values(), last_status=last_status)
        self._started = self._ended = False

    async def __anext__(self) -> bytes:
        """Return the bytes of the next event or comment.

        If an error ends the watch, such as a refused key, the last event is named ``failed``, and
        has the data ``{"error": NAME}``. If the watcher was closed because the server restarts, the
        stream ends without another event, so that the browser connects again.
        """
        if self._ended:
            raise StopAsyncIteration
        if not self._started:
            self._started = True
            return f"retry: {_RETRY_MS}\n\n".encode()
        try:
            async with asyncio.timeout(self._heartbeat):
                update = await anext(self._updates)
        except TimeoutError:
            return b": heartbeat\n\n"
        except StopAsyncIteration:
            self._ended = True
            return self._frame("end", {})
        except ClosedError:
            self._ended = True
            raise StopAsyncIteration from None
        except AdePollError as error:
            self._ended = True
            return self._frame("failed", {"error": type(error).__name__})
        key = job_key(JobRef(update.job_id, kind=update.kind), self._kind)
        self._sent[self._index[key]] = _LETTERS.get(update.status, _NOT_SENT)
        return self._frame("job", self._encode(update))

    async def aclose(self) -> None:
        """Stop watching the jobs for this stream."""
        self._ended = True
        await self._updates.aclose()

    def leave(self) -> None:
        """Schedule the end of the watch in the event loop; may be called in any thread."""
        if not self._ended:
            self._ended = True
            self._updates.leave()

    def _frame(self, name: str, data: Json) -> bytes:
        """Return the bytes of a server-sent event with this name and data.

        The event also has an id. When the browser connects again, it sends this id, which tells the
        server which statuses were sent.
        """
        # JSON text has no line breaks, so it fits into one data line.
        text = json.dumps(data, separators=(",", ":"))
        event_id = f"id: {''.join(self._sent)}\n" if 0 < len(self._sent) <= _MAX_ID_LENGTH else ""
        return f"{event_id}event: {name}\ndata: {text}\n\n".encode()


def _read_id(text: str | None, jobs: int) -> list[str]:
    """Return one letter for each job: the last status that a browser got before it reconnected.

    Return ``-`` (nothing was sent) for all jobs if the id is missing, or was not made for a stream
    with this number of jobs.

    Args:
        text: The id of an event, which the browser sends back; None if it sends no id.
        jobs: Number of jobs of the stream.
    """
    if text is None or len(text) != jobs or not set(text) <= {*_STATUSES, _NOT_SENT}:
        return [_NOT_SENT] * jobs
    return [*text]
