"""A service with a limit, in virtual time, for tests and benchmarks of the request budget.

It has no jobs and no responses, so that a simulated hour of requests costs seconds.
"""

import asyncio
import math
from random import Random

import attrs

from adepoll.errors import RateLimitedError


@attrs.define
class TokenBucket:
    """A limit of `rate` requests per second; `burst` is the size of the bucket, which is full."""

    rate: float
    burst: float = 1.0
    tokens: float = attrs.field(init=False)
    counted_at: float = -math.inf

    def __attrs_post_init__(self):
        self.tokens = self.burst

    def admits(self, now):
        added = self.rate * (now - self.counted_at)
        self.tokens, self.counted_at = min(self.burst, self.tokens + added), now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True

    def ended(self):
        pass


@attrs.define
class FixedWindow:
    """A limit of `count` requests in each window of `seconds`."""

    count: int
    seconds: float = 60.0
    current: int = -1
    used: int = 0

    def admits(self, now):
        if (window := int(now // self.seconds)) != self.current:
            self.current, self.used = window, 0
        self.used += 1
        return self.used <= self.count

    def ended(self):
        pass


@attrs.define
class ConcurrencyLimit:
    """A limit of `count` requests at the same time."""

    count: int
    running: int = 0

    def admits(self, _now):
        if self.running >= self.count:
            return False
        self.running += 1
        return True

    def ended(self):
        self.running -= 1


@attrs.define
class LimitedService:
    """Answers requests after a latency: with success, or with 429 above its limit.

    Attributes:
        limit: Decides which requests succeed; None for all.
        retry_after: Shortest and longest `Retry-After`, seconds, rounded up; None for no header.
        latency: Shortest and longest time of a response, seconds.
        rng: Random numbers for both.
        fail: Returns an error to raise in the middle of a request, or None; called with the time.
        sent: Times at which requests were sent.
        served: Times at which requests succeeded.
        throttled: Number of 429s.
        early: Requests that were sent before a known `Retry-After` had passed.
    """

    limit: object = None
    retry_after: tuple[float, float] | None = (1.0, 1.0)
    latency: tuple[float, float] = (0.02, 0.2)
    rng: Random = attrs.field(factory=lambda: Random(1))
    fail: object = None
    sent: list[float] = attrs.field(factory=list)
    served: list[float] = attrs.field(factory=list)
    throttled: int = 0
    early: int = 0
    closed_until: float = -math.inf

    async def request(self, sent):
        """Send one request; `closed_until` holds for callers with one budget."""
        loop = asyncio.get_running_loop()
        assert sent.at == loop.time()
        self.sent.append(sent.at)
        self.early += sent.at < self.closed_until
        latency = self.rng.uniform(*self.latency)
        await asyncio.sleep(latency / 2)
        if self.fail is not None and (error := self.fail(loop.time())) is not None:
            await asyncio.sleep(latency / 2)
            raise error
        limit = self.limit
        admitted = limit is None or limit.admits(loop.time())
        await asyncio.sleep(latency / 2)
        if not admitted:
            self.throttled += 1
            raise RateLimitedError(status=429, retry_after=self._retry_after(loop.time()))
        if limit is not None:
            limit.ended()
        self.served.append(loop.time())

    def _retry_after(self, now):
        if self.retry_after is None:
            return None
        wait = math.ceil(10 * self.rng.uniform(*self.retry_after)) / 10
        self.closed_until = max(self.closed_until, now + wait)
        return wait

    def served_between(self, start, end):
        return sum(start <= time < end for time in self.served)

    def sent_between(self, start, end):
        return sum(start <= time < end for time in self.sent)
