"""How a batch stands, in numbers and in words; what progress displays draw. Does no I/O."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from attrs import field, frozen

from adepoll.api.models import JobStatus

_MINUTE: Final = 60.0
_HOUR: Final = 3600.0


@frozen(kw_only=True)
class Standing:
    """How far a batch has come, at one moment.

    Attributes:
        known: Jobs taken so far.
        complete: Whether those are all.
        settled: Jobs that have ended, by status.
        before: How many of the settled an earlier run had settled.
        unresolved: Jobs that were given up.
        missed: Results that could not be brought home.
        fetching: Downloads under way.
        bytes_fetched: Bytes of results that this run has downloaded.
        requests: Requests to the service by this run.
        throttled_for: Seconds until requests may be sent again; 0.0 where they may.
        time_left: Seconds until the last job has ended, as far as can be guessed.
    """

    known: int
    complete: bool
    settled: Mapping[JobStatus, int] = field(factory=dict)
    before: int = 0
    unresolved: int = 0
    missed: int = 0
    fetching: int = 0
    bytes_fetched: int = 0
    requests: int = 0
    throttled_for: float = 0.0
    time_left: float | None = None

    @property
    def ended(self) -> int:
        """Jobs that have ended."""
        return sum(self.settled.values())

    def by_status(self) -> list[tuple[JobStatus, int]]:
        """Give how many have ended in each way, always in the same order."""
        return [(status, count) for status in JobStatus if (count := self.settled.get(status))]

    @property
    def requests_per_job(self) -> float | None:
        """Requests for each job that this run has settled; None before the first."""
        count = self.ended - self.before
        return self.requests / count if count > 0 else None

    @property
    def total(self) -> int | None:
        """All jobs; None while more may come."""
        return self.known if self.complete else None


class Speed:
    """How fast jobs settle and bytes come, over the last seconds.

    Attributes:
        jobs: Jobs settled per second.
        bytes: Bytes fetched per second.
    """

    def __init__(self, window: float) -> None:
        """`window` is how many seconds count."""
        self._window = window
        self._samples: deque[tuple[float, int, int]] = deque()
        self.jobs = 0.0
        self.bytes = 0.0

    def take(self, now: float, standing: Standing) -> None:
        """Take in how it stands at `now`, in seconds of any clock."""
        sample = (now, standing.ended - standing.before, standing.bytes_fetched)
        self._samples.append(sample)
        # The last one that is older stays: else a seldom look would have nothing to compare with.
        while len(self._samples) > 2 and self._samples[1][0] <= now - self._window:  # noqa: PLR2004 - two make a speed
            self._samples.popleft()
        since, jobs, size = self._samples[0]
        if now > since:
            self.jobs = (sample[1] - jobs) / (now - since)
            self.bytes = (sample[2] - size) / (now - since)


class Downloads:
    """Counts downloads under way, and their bytes as they come.

    Attributes:
        under_way: Downloads that have begun and not ended.
        bytes: Bytes that have come.
    """

    def __init__(self) -> None:
        """Nothing has come yet."""
        self.under_way = 0
        self.bytes = 0

    @contextmanager
    def one(self) -> Iterator[Callable[[int, int | None], None]]:
        """Count one download; gives what `ResultFetcher.download` takes as `progress`."""
        last: int | None = None

        def progress(there: int, _size: int | None) -> None:
            nonlocal last
            # What an earlier try had left does not count, nor what another version has replaced.
            self.bytes += max(there - last, 0) if last is not None else 0
            last = there

        self.under_way += 1
        try:
            yield progress
        finally:
            self.under_way -= 1


# --- in words ------------------------------------------------------------------------------------


def in_words(standing: Standing, speed: Speed) -> str:
    """Give all that is worth telling, on one line."""
    by_status = ", ".join(f"{count:,} {status.value}" for status, count in standing.by_status())
    of = f"{standing.known:,}" if standing.complete else f"at least {standing.known:,}"
    return ", ".join(
        (
            f"{standing.ended:,} of {of} settled" + (f" ({by_status})" if by_status else ""),
            *troubles(standing),
            *paces(standing, speed),
        )
    )


def troubles(standing: Standing) -> list[str]:
    """Give what goes wrong."""
    told = []
    if standing.unresolved:
        told.append(f"{standing.unresolved:,} unresolved")
    if standing.missed:
        told.append(f"{standing.missed:,} results missed")
    return told


def paces(standing: Standing, speed: Speed) -> list[str]:
    """Give how fast it goes, what it costs, and how long it may still take."""
    told = [in_time(speed.jobs)]
    if (price := standing.requests_per_job) is not None:
        told.append(f"{price:.2f} requests a job")
    if standing.throttled_for >= 1:
        told.append(f"throttled for {roughly(standing.throttled_for)}")
    if standing.fetching:
        told.append(f"{standing.fetching:,} download{'s' * (standing.fetching != 1)}")
    if standing.bytes_fetched:
        told.append(f"{in_bytes(standing.bytes_fetched)} fetched")
        if standing.fetching:
            told.append(f"{in_bytes(speed.bytes)}/s")
    if standing.complete and standing.time_left is not None:
        told.append(f"about {roughly(standing.time_left)} left")
    return told


def roughly(seconds: float) -> str:
    """Give a duration in the unit that suits it; a guess is not better than that."""
    for unit, size in (("h", _HOUR), ("min", _MINUTE)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 1):.0f} s"


def in_time(rate: float) -> str:
    """Give a rate, which is per second, in the unit that suits it."""
    if rate >= 10:  # noqa: PLR2004 - from here on a decimal tells nothing
        return f"{rate:,.0f}/s"
    if rate <= 0:
        return "0/s"
    return f"{rate:.1f}/s" if rate >= 0.1 else f"{rate * _MINUTE:.1f}/min"  # noqa: PLR2004 - as above


def in_bytes(size: float) -> str:
    """Give a size in the decimal unit that suits it."""
    for unit, one in (("TB", 1e12), ("GB", 1e9)):
        if size >= one:
            return f"{size / one:.1f} {unit}"
    return f"{size / 1e6:.0f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"  # noqa: PLR2004 - a megabyte
