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
_NOT_SENT: Final = "-"  # also for an unknown status and a job given up, which may be sent twice
_MAX_ID_LENGTH: Final = 4_000  # characters; many servers accept 8 kB of headers in all
_RETRY_MS: Final = 2_000
_MAX_TEXT_LENGTH: Final = 500


def as_event(update: StatusUpdate) -> Json:
    """Return the data of an event: the job's id, its status, and why it failed.

    The keys are ``job_id``, ``kind``, ``status``, ``is_last`` and, if they apply, ``label``,
    ``failure_reason``, ``conforms``, ``partial``, and ``error``, the name of the error's class.
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

    The first event of each job is its present status; then each change is an event. These events
    are named ``job``, and their data is the JSON of `as_event`. After all jobs have settled comes
    the event ``end``: then the page should close its ``EventSource``, which would otherwise connect
    again. If there is no event for `heartbeat` seconds, a comment is sent, so that proxies keep the
    connection and a dead connection is noticed. A client that reads slowly gets the latest status
    of each job, so that the memory for it does not grow.

    The id of an event has one letter for each job: the last status that was sent. A browser that
    connects again sends this id as ``Last-Event-ID`` and gets only what has changed. The server
    stores nothing for this, so it works after a restart and with any worker. With more than 4,000
    jobs there is no id, and every status is sent again.

    It ends when it is left, closed or garbage collected, as a `Watch` does.
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
        """Create the stream; jobs are watched from the first iteration on.

        Args:
            watcher: Watches the jobs.
            job_ids: The jobs, in an order that is the same when the browser connects again.
            last_event_id: The ``Last-Event-ID`` header of the request; None if it has none.
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

        An error that ends the watch, such as a refused key, is an event named ``failed`` with the
        data ``{"error": NAME}``. If the watcher is closed because the server restarts, the stream
        ends without an event, so that the browser connects again.
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
        """Stop watching the jobs soon. May be called in any thread."""
        if not self._ended:
            self._ended = True
            self._updates.leave()

    def _frame(self, name: str, data: Json) -> bytes:
        # JSON text has no line breaks, so it fits into one data line.
        text = json.dumps(data, separators=(",", ":"))
        event_id = f"id: {''.join(self._sent)}\n" if 0 < len(self._sent) <= _MAX_ID_LENGTH else ""
        return f"{event_id}event: {name}\ndata: {text}\n\n".encode()


def _read_id(text: str | None, jobs: int) -> list[str]:
    """Return the letter of each job in an event id; ``-`` for all if the id does not fit."""
    if text is None or len(text) != jobs or not set(text) <= {*_STATUSES, _NOT_SENT}:
        return [_NOT_SENT] * jobs
    return [*text]
