"""State of a batch or a watch, in numbers and in words, for the progress display. Does no I/O."""

from collections import deque
from collections.abc import Mapping
from typing import Final

from attrs import field, frozen

import adepoll
from adepoll import JobStatus
from adepoll.common.redaction import showable

_LONGEST_FAILURE: Final = 160  # characters
_MINUTE: Final = 60.0
_HOUR: Final = 3600.0


@frozen(kw_only=True)
class BatchState:
    """State of a batch at one moment.

    Attributes:
        known: Number of jobs whose ids have been read.
        complete: True once all ids have been read, so that `known` is the total.
        settled: Number of settled jobs by status.
        settled_before: Number of jobs that were already settled when this run began.
        unresolved: Number of jobs that were given up.
        not_fetched: Number of completed jobs whose result could not be fetched.
        fetching: Number of downloads in progress.
        bytes_fetched: Number of bytes of results that this run has downloaded.
        requests: Number of requests that this run has sent to the service.
        failure: Error message of the last failed request, if two or more requests in a row have
            failed; else None.
        throttled_for: Seconds until the next request may be sent; 0.0 if not throttled.
        time_left: Estimated seconds until the last job settles; None if unknown.
    """

    known: int
    complete: bool
    settled: Mapping[JobStatus, int] = field(factory=dict)
    settled_before: int = 0
    unresolved: int = 0
    not_fetched: int = 0
    fetching: int = 0
    bytes_fetched: int = 0
    requests: int = 0
    failure: str | None = None
    throttled_for: float = 0.0
    time_left: float | None = None

    @property
    def settled_count(self) -> int:
        """Number of settled jobs."""
        return sum(self.settled.values())

    def by_status(self) -> list[tuple[JobStatus, int]]:
        """Return each status that occurs and its number of jobs, always in the same order."""
        return [(status, count) for status in JobStatus if (count := self.settled.get(status))]

    @property
    def total(self) -> int | None:
        """Number of all jobs; None while more ids may follow."""
        return self.known if self.complete else None


def state_of_watch(
    watched: "adepoll.Watch[adepoll.JobSnapshot]",
    client: "adepoll.AdeClient",
    watcher: "adepoll.JobWatcher",
    *,
    fetching: int = 0,
    bytes_fetched: int = 0,
) -> BatchState:
    """Return the state of a watch.

    `fetching` is the number of downloads in progress. `bytes_fetched` is the number of downloaded
    bytes.
    """
    progress, stats = watched.progress, client.stats
    return BatchState(
        known=progress.known,
        complete=progress.complete,
        settled=progress.settled,
        unresolved=progress.unresolved,
        fetching=fetching,
        bytes_fetched=bytes_fetched,
        requests=stats.requests,
        failure=_failure(stats),
        throttled_for=stats.gate_closed_for,
        time_left=watcher.time_left() if progress.complete else None,
    )


def state_of_batch(batch: "adepoll.Batch", client: "adepoll.AdeClient") -> BatchState:
    """Return the state of a batch."""
    progress, stats = batch.progress, client.stats
    return BatchState(
        known=progress.known,
        complete=progress.complete,
        settled=progress.settled,
        settled_before=progress.before,
        unresolved=progress.unresolved,
        not_fetched=progress.missed,
        fetching=progress.fetching,
        bytes_fetched=progress.bytes_fetched,
        requests=stats.requests,
        failure=_failure(stats),
        throttled_for=stats.gate_closed_for,
        time_left=batch.time_left() if progress.complete else None,
    )


def _failure(stats: "adepoll.ClientStats") -> str | None:
    """Return the text of the last failure if the last two or more requests failed, else None."""
    return stats.last_failure if stats.failures_in_a_row > 1 else None


class Speed:
    """Speed of a batch, averaged over a time window.

    Attributes:
        jobs: Settled jobs per second.
        bytes: Downloaded bytes per second.
    """

    def __init__(self, window: float) -> None:
        """Create an object that averages over the last `window` seconds."""
        self._window = window
        self._samples: deque[tuple[float, int, int]] = deque()
        self.jobs = 0.0
        self.bytes = 0.0

    def add(self, now: float, state: BatchState) -> None:
        """Record the state at time `now`, in seconds. All times must come from one clock."""
        sample = (now, state.settled_count - state.settled_before, state.bytes_fetched)
        self._samples.append(sample)
        # Of the samples that are older than the window, only the newest one is kept. The speed is
        # measured from this sample, so that the measurement covers the whole window.
        while len(self._samples) > 2 and self._samples[1][0] <= now - self._window:  # noqa: PLR2004 - two samples are needed for a speed
            self._samples.popleft()
        since, jobs, size = self._samples[0]
        if now > since:
            self.jobs = (sample[1] - jobs) / (now - since)
            self.bytes = (sample[2] - size) / (now - since)


def describe(state: BatchState, speed: Speed) -> str:
    """Return the state of a batch and its speed as one line of text."""
    by_status = ", ".join(f"{count:,} {status.value}" for status, count in state.by_status())
    total = f"{state.known:,}" if state.complete else f"at least {state.known:,}"
    return ", ".join(
        (
            f"{state.settled_count:,} of {total} settled"
            + (f" ({by_status})" if by_status else ""),
            *describe_problems(state),
            *describe_speed(state, speed),
        )
    )


def describe_problems(state: BatchState) -> list[str]:
    """Return one phrase for each kind of problem that the state has."""
    phrases = []
    if state.unresolved:
        phrases.append(f"{state.unresolved:,} unresolved")
    if state.not_fetched:
        phrases.append(f"{state.not_fetched:,} results not fetched")
    if state.failure is not None:
        phrases.append(f"requests fail: {showable(state.failure, _LONGEST_FAILURE)}")
    return phrases


def describe_speed(state: BatchState, speed: Speed) -> list[str]:
    """Return phrases for speed, requests, downloads and remaining time."""
    phrases = [format_rate(speed.jobs)]
    if state.requests:
        phrases.append(counted(state.requests, "request"))
    if state.throttled_for >= 1:
        phrases.append(f"throttled for {format_duration(state.throttled_for)}")
    if state.fetching:
        phrases.append(counted(state.fetching, "download"))
    if state.bytes_fetched:
        phrases.append(f"{format_bytes(state.bytes_fetched)} fetched")
        if state.fetching:
            phrases.append(f"{format_bytes(speed.bytes)}/s")
    if state.complete and state.time_left is not None:
        phrases.append(f"about {format_duration(state.time_left)} left")
    return phrases


def counted(number: int, noun: str) -> str:
    """Return a number and its noun, such as ``1 request`` or ``1,200 requests``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def format_duration(seconds: float) -> str:
    """Return a duration as rounded text, such as ``12 min``; ``1 s`` if it is shorter."""
    for unit, size in (("h", _HOUR), ("min", _MINUTE)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 1):.0f} s"


def format_rate(per_second: float) -> str:
    """Return a rate, such as ``1.2/s`` or ``3.0/min``."""
    if per_second >= 10:  # noqa: PLR2004 - large rates have no decimals
        return f"{per_second:,.0f}/s"
    if per_second <= 0:
        return "0/s"
    if per_second >= 0.1:  # noqa: PLR2004 - smaller rates are per minute
        return f"{per_second:.1f}/s"
    return f"{per_second * _MINUTE:.1f}/min"


def format_bytes(size: float) -> str:
    """Return a size in decimal units, such as ``12 MB``."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size / 1e6:.0f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"  # noqa: PLR2004 - 1 MB in bytes
