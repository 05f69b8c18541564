"""Simulates three ways of polling for comparison: SDK's waiter, plain loop, clairvoyant polling.

The plain loop reads the list again and again. Clairvoyant polling knows the end of each job. The
simulations need no event loop. Times are seconds since the start of a workload.
"""

import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from heapq import heapify, heappop, heappush, heapreplace
from random import Random

from attrs import field, frozen

LATENCY = (0.02, 0.2)
PAGE = 100  # jobs on a page of the list
REPEATED = 5


@frozen(kw_only=True)
class Job:
    """A job of a workload.

    Attributes:
        number: Number of the job.
        received_at: Time at which the service receives the job.
        started_at: Time from which the job is no longer pending.
        ended_at: Time at which the job settles.
        handed_at: Time at which the watcher gets the id.
        measured: True if the figures of the row include this job.
        awaited: True if there is a separate call of `wait` for this job.
    """

    number: int
    received_at: float
    started_at: float
    ended_at: float
    handed_at: float
    measured: bool = True
    awaited: bool = False

    def lag(self, at: float) -> float:
        """Return the lag if the consumer gets the snapshot at the time `at`."""
        return at - max(self.ended_at, self.handed_at)


@frozen(kw_only=True)
class Played:
    """The figures of one way of polling.

    Attributes:
        lags: Lags of the measured jobs in rising order.
        requests: Requests per measured job, including its share of the pages of the list.
        note: Text about a problem; empty if there was none.
    """

    lags: Sequence[float] = field(repr=False)
    requests: float
    note: str = ""

    @property
    def mean(self) -> float:
        """Mean lag."""
        return math.fsum(self.lags) / len(self.lags) if self.lags else math.inf

    @property
    def standard_error(self) -> float:
        """Standard error of the mean lag."""
        if len(self.lags) < 2:
            return 0.0
        return statistics.stdev(self.lags) / math.sqrt(len(self.lags))

    @property
    def p95(self) -> float:
        """Lag that 95% of the jobs do not exceed."""
        return self.lags[min(len(self.lags) * 95 // 100, len(self.lags) - 1)]

    @property
    def longest(self) -> float:
        """Longest lag."""
        return self.lags[-1]


def official_waits() -> Iterator[float]:
    """Yield the waits of the official SDK's waiter: 1 s, x1.5, up to 10 s."""
    wait = 1.0
    while True:
        yield wait
        wait = min(wait * 1.5, 10.0)


def play_official(
    jobs: Sequence[Job], rng: Random, *, budget: float | None = None, places: int | None = None
) -> Played:
    """Poll each job as the official SDK's waiter does.

    Requests that exceed the budget wait in the order in which they became due. So do requests if
    `places` requests are in flight. If there is neither limit, jobs do not affect each other. Then
    each job is played several times, for more exact figures.
    """
    if budget is None and places is None:
        jobs = [job for job in jobs for _ in range(REPEATED)]
    queue = [(job.handed_at, number, job, official_waits()) for number, job in enumerate(jobs)]
    heapify(queue)
    interval = 1 / budget if budget else 0.0
    slot = -math.inf
    free_at = [-math.inf] * (places or 0)  # time at which each place becomes free
    lags = []
    requests = 0
    while queue:
        due, number, job, waits = heappop(queue)
        sent = max(due, slot, free_at[0] if places else due)
        slot = sent + interval
        latency = rng.uniform(*LATENCY)
        if places:
            heapreplace(free_at, sent + latency)
        requests += job.measured
        if sent + latency / 2 < job.ended_at:
            heappush(queue, (sent + latency + next(waits), number, job, waits))
        elif job.measured:
            lags.append(job.lag(sent + latency))
    return Played(lags=sorted(lags), requests=requests / len(lags))


def play_plain_loop(
    jobs: Sequence[Job], rng: Random, *, budget: float, list_lag: float = 0.0, foreign: int = 0
) -> Played:
    """Repeat: read the list of active jobs, then poll the jobs that are missing from it."""
    interval = 1 / budget
    now = min(job.handed_at for job in jobs)
    open_jobs = sorted(jobs, key=lambda job: job.handed_at)
    lags = []
    requests = 0
    while open_jobs:
        started = now
        seen = started - list_lag
        listed = [job for job in open_jobs if job.received_at <= seen < job.ended_at]
        pending = sum(seen < job.started_at for job in listed)
        pages = max(-(-pending // PAGE), 1)
        pages += max(-(-(len(listed) - pending + foreign) // PAGE), 1)
        requests += pages
        now += (pages - 1) * interval + max(interval, rng.uniform(*LATENCY))
        here = {job.number for job in listed}
        still_open = []
        for job in open_jobs:
            if job.number in here or job.handed_at > started:
                still_open.append(job)
                continue
            latency = rng.uniform(*LATENCY)
            requests += 1
            if now + latency / 2 < job.ended_at:
                still_open.append(job)
            elif job.measured:
                lags.append(job.lag(now + latency))
            now += interval
        open_jobs = still_open
    return Played(lags=sorted(lags), requests=requests / len(jobs))


def play_clairvoyant(jobs: Iterable[Job], *, budget: float) -> Played:
    """Poll each job once, as soon after its end as the budget allows."""
    slot = -math.inf
    lags = []
    for job in sorted(jobs, key=lambda job: max(job.ended_at, job.handed_at)):
        slot = max(slot + 1 / budget, job.ended_at, job.handed_at)
        if job.measured:
            lags.append(job.lag(slot + sum(LATENCY) / 2))
    return Played(lags=sorted(lags), requests=1.0)
