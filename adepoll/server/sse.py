"""Server-sent events of jobs, as browsers take them (WHATWG HTML, section 9.2). Imports latest.

Knows no web framework: what it gives are the bytes of a body of type ``text/event-stream``.
"""

import asyncio
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Final, Self

from adepoll.api.models import JobStatus, Json
from adepoll.errors import AdePollError, ClosedError
from adepoll.redaction import showable
from adepoll.watching.status_updates import StatusUpdate
from adepoll.watching.watcher import JobWatcher

EVENT_STREAM_HEADERS: Final[Mapping[str, str]] = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx would hold events back until it has a bufferful
}
"""Headers of an answer whose body `JobEventStream` is."""

_LETTERS: Final[Mapping[JobStatus | None, str]] = {
    JobStatus.PENDING: "p",
    JobStatus.PROCESSING: "r",
    JobStatus.COMPLETED: "c",
    JobStatus.FAILED: "f",
    JobStatus.CANCELLED: "x",
}
_STATUSES: Final = {letter: status for status, letter in _LETTERS.items() if status is not None}
_UNTOLD: Final = "-"  # also for what can be told again: an unknown status, a job given up
_LONGEST_ID: Final = 4_000  # characters; many servers take headers of 8 kB in all
_RETRY_MS: Final = 2_000
_LONGEST_TEXT: Final = 500


def as_event(news: StatusUpdate) -> Json:
    """Give what a page needs of a job: its id, where it stands, and why it ended badly.

    The keys are ``job_id``, ``status``, ``is_last`` and, where they apply, ``failure_reason``,
    ``conforms`` and ``error``, which is the name of the error's class.
    """
    event: dict[str, Json] = {
        "job_id": news.job_id,
        "status": None if news.status is None else news.status.value,
        "is_last": news.is_last,
    }
    if news.error is not None:
        event["error"] = type(news.error).__name__
    if (job := news.snapshot) is not None and news.is_last:
        event["conforms"] = job.conforms
        if job.failure_reason is not None:
            event["failure_reason"] = showable(job.failure_reason, _LONGEST_TEXT)
    return event


class JobEventStream:
    """How jobs stand, as server-sent events: an async iterator of bytes, and a context manager.

    First comes how each job stands, then every change, in events named ``job`` whose data is the
    JSON of `as_event`; when all jobs have ended comes ``end``, upon which the page should close its
    ``EventSource``, as it would connect again. Where nothing comes for a while, a comment does, so
    that proxies and dead connections are noticed. Who reads slowly is told the last state of each
    job, and what is kept for it never grows.

    The id of each event holds one letter a job: what has been told of it. A browser that connects
    again sends it as ``Last-Event-ID``, and is told only what is new. As the server keeps nothing
    for that, it holds across restarts and workers. With more than 4,000 jobs there is no id, and
    all is told again.
    """

    def __init__(
        self,
        watcher: JobWatcher,
        job_ids: Iterable[str],
        *,
        last_event_id: str | None = None,
        heartbeat: float = 15.0,
        encode: Callable[[StatusUpdate], Json] = as_event,
    ) -> None:
        """Make the events; nothing is asked before the first iteration.

        Args:
            watcher: Follows the jobs.
            job_ids: The jobs, in an order that is the same when the browser connects again.
            last_event_id: What the browser sent as ``Last-Event-ID``, if it did.
            heartbeat: Seconds without an event after which a comment is given.
            encode: Makes the data of an event, JSON.

        Raises:
            TypeError: `job_ids` is a single string.
            ValueError: `heartbeat` is no positive number.
        """
        if isinstance(job_ids, str):
            raise TypeError("job_ids must be an iterable of ids, not one id; use [job_id]")
        if not (math.isfinite(heartbeat) and heartbeat > 0):
            raise ValueError(f"heartbeat must be a positive number, got {heartbeat}")
        ordered = [*dict.fromkeys(job_ids)]
        self._places = {job_id: place for place, job_id in enumerate(ordered)}
        self._told = _read_id(last_event_id, ordered)
        self._heartbeat = heartbeat
        self._encode = encode
        told = {
            job_id: _STATUSES[letter].value
            for job_id, letter in zip(ordered, self._told, strict=True)
            if letter in _STATUSES
        }
        self._latest = watcher.latest(ordered, told=told)
        self._begun = self._ended = False

    def __aiter__(self) -> Self:
        """Give the events themselves."""
        return self

    async def __anext__(self) -> bytes:
        """Give the bytes of the next event, or of a comment.

        An error that ends the watching (the key was refused) is an event, too, named ``failed``;
        its data is ``{"error": NAME}``. Where the watcher is closed, as when its server restarts,
        the events just end, and a browser connects again by itself.
        """
        if self._ended:
            raise StopAsyncIteration
        if not self._begun:
            self._begun = True
            return f"retry: {_RETRY_MS}\n\n".encode()
        try:
            async with asyncio.timeout(self._heartbeat):
                news = await anext(self._latest)
        except TimeoutError:
            return b": nothing new\n\n"
        except StopAsyncIteration:
            self._ended = True
            return self._frame("end", {})
        except ClosedError:
            self._ended = True
            raise StopAsyncIteration from None
        except AdePollError as error:
            self._ended = True
            return self._frame("failed", {"error": type(error).__name__})
        if (place := self._places.get(news.job_id)) is not None:
            self._told[place] = _LETTERS.get(news.status, _UNTOLD)
        return self._frame("job", self._encode(news))

    async def __aenter__(self) -> Self:
        """Give the events themselves."""
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop following the jobs."""
        await self.aclose()

    async def aclose(self) -> None:
        """Stop following the jobs."""
        self._ended = True
        await self._latest.aclose()

    def _frame(self, name: str, data: Json) -> bytes:
        # JSON has no line breaks, so that all of it is one line of data.
        text = json.dumps(data, separators=(",", ":"))
        event_id = f"id: {''.join(self._told)}\n" if 0 < len(self._told) <= _LONGEST_ID else ""
        return f"{event_id}event: {name}\ndata: {text}\n\n".encode()


def _read_id(text: str | None, job_ids: Sequence[str]) -> list[str]:
    """Give what has been told of each job; nothing, where the id is of other jobs or none."""
    if text is None or len(text) != len(job_ids) or not set(text) <= {*_STATUSES, _UNTOLD}:
        return [_UNTOLD] * len(job_ids)
    return [*text]
