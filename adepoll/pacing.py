"""The request budget that every call to the API goes through: rate, 429 gate, retries, waits.

Imports errors only, and is the only importer of backoff. All times are seconds of `loop.time()`.
"""

import asyncio
import math
from collections.abc import Iterator
from random import Random

import backoff
from attrs import field, frozen
from attrs.validators import ge, gt

from adepoll.errors import ClosedError, RateLimitedError, RequestError


def _finite(_instance: object, attribute: object, value: float) -> None:
    if not math.isfinite(value):
        name = getattr(attribute, "name", "value")
        raise ValueError(f"{name} must be finite, got {value}")


@frozen(kw_only=True)
class RetryPolicy:
    """When to send a request again that failed for a passing reason.

    Waits grow exponentially and are drawn evenly between 0 and their bound ("full jitter", M.
    Brooker, AWS Architecture Blog, 2015). All retries of a client draw on one budget, which
    successes refill (Finagle's RetryBudget), so that an outage is met with fewer requests and not
    with more.

    Attributes:
        attempts: How often a call is tried in all, 1 for never again.
        base: Bound of the first wait, seconds.
        factor: Growth of the bound from wait to wait.
        max_wait: Largest bound, seconds.
        budget: How many retries may be spent before any success, at start and at most.
        refill: Retries that one success gives back: 0.2 allows one in five to fail forever.
    """

    attempts: int = field(default=5, validator=ge(1))
    base: float = field(default=0.5, validator=[_finite, gt(0)])
    factor: float = field(default=2.0, validator=[_finite, ge(1)])
    max_wait: float = field(default=30.0, validator=[_finite, gt(0)])
    budget: float = field(default=50.0, validator=[_finite, ge(0)])
    refill: float = field(default=0.2, validator=[_finite, ge(0)])

    def waits(self, rng: Random) -> Iterator[float]:
        """Draw the waits between tries, in seconds, without end."""
        # backoff's own full_jitter draws from the global generator; ours must be replayable.
        bounds = backoff.expo(base=self.factor, factor=self.base, max_value=self.max_wait)
        next(bounds)  # the first value of backoff's generators is not a wait
        for bound in bounds:
            yield rng.uniform(0, bound)


class Pacer:
    """What stands before every request of one client.

    A caller awaits `turn`, gets hold of a connection, asks `take` and sends, or goes back to the
    line where that says no; then it reports with `succeeded` or `failed`. `may_retry` draws on
    the retry budget. Nothing here holds a connection or a semaphore.
    """

    def __init__(self, *, max_rate: float | None, retry: RetryPolicy, rng: Random) -> None:
        """Make a pacer.

        Args:
            max_rate: Most requests per second; None for no limit of our own.
            retry: How retries are spaced and budgeted.
            rng: Source of all jitter.
        """
        if max_rate is not None and not (math.isfinite(max_rate) and max_rate > 0):
            raise ValueError(f"max_rate must be a positive number or None, got {max_rate}")
        self._interval = 0.0 if max_rate is None else 1.0 / max_rate
        self._retry = retry
        self._rng = rng
        self._line = asyncio.Lock()  # those who must wait do so in the order they came
        self._closed = asyncio.Event()
        self._next = -math.inf  # when the rate allows the next request
        self._opens = -math.inf  # when the gate opens
        self._closed_at = -math.inf
        self._least_bound = min(retry.base, retry.max_wait)
        self._bound = self._least_bound  # of the gate's jitter; grows with closings in a row
        self._caution = 0.0  # spacing of requests after the gate has opened, until successes
        self._budget = retry.budget

    @property
    def gate_opens_at(self) -> float:
        """When the gate opens, in loop time; in the past where it is open."""
        return self._opens

    @property
    def retry_budget(self) -> float:
        """How many retries may be spent now."""
        return self._budget

    async def turn(self) -> float:
        """Wait until one more request may be sent; nothing is counted before `take`.

        Gives the time since when it might be sent: earlier than now where a timer fired late.
        """
        loop = asyncio.get_running_loop()
        if not self._line.locked() and self._due <= (now := loop.time()):
            return now
        async with self._line:
            due = loop.time()
            while (wait := self._due - loop.time()) > 0:
                due = self._due
                await self.pause(wait)  # the gate may close further meanwhile
            return due

    async def pause(self, seconds: float) -> None:
        """Wait so long, or until `close`, which raises `ClosedError`."""
        try:
            async with asyncio.timeout(seconds):
                await self._closed.wait()
        except TimeoutError:
            return
        raise ClosedError("the client is closed")

    def close(self) -> None:
        """End all waits: what they wait for will not be sent."""
        self._closed.set()

    def take(self, due: float) -> bool:
        """Count one request as sent now, if it may be: what `turn` gave can have passed since.

        Args:
            due: What `turn` gave.
        """
        now = asyncio.get_running_loop().time()
        if now < self._due:
            return False
        if self._interval or self._caution:
            caution = self._rng.uniform(0, 2 * self._caution)
            # A timer that fired late must not lower the rate: up to one interval is made up for.
            since = max(self._next, due, now - self._interval)
            self._next = since + max(self._interval, caution)
        return True

    @property
    def _due(self) -> float:
        """When the gate and the rate allow the next request."""
        return max(self._opens, self._next) if self._interval or self._caution else self._opens

    def succeeded(self) -> None:
        """The service answered as it should."""
        self._bound = self._least_bound
        self._caution = self._caution / 2 if self._caution > _LEAST_CAUTION else 0.0
        self._budget = min(self._retry.budget, self._budget + self._retry.refill)

    def failed(self, error: RequestError, *, sent_at: float) -> None:
        """The request that was sent at `sent_at` came back with that error.

        A 429, and anything with a Retry-After, closes the gate for all. Retry-After is a floor;
        jitter only adds to it.
        """
        if error.retry_after is None and not isinstance(error, RateLimitedError):
            return
        now = asyncio.get_running_loop().time()
        if sent_at >= self._closed_at:
            # Those sent before the gate closed bring no news of what came after it.
            self._bound = min(self._retry.max_wait, self._bound * self._retry.factor)
            self._caution = min(_MOST_CAUTION, max(2 * self._caution, _FIRST_CAUTION))
        self._closed_at = now
        floor = error.retry_after or 0.0
        bound = self._bound if error.retry_after is None else min(self._bound, 1.0)
        jitter = self._rng.uniform(0, bound)
        self._opens = max(self._opens, now + floor + jitter)

    def may_retry(self) -> bool:
        """Take one retry from the budget, if there is one."""
        if self._budget < 1:
            return False
        self._budget -= 1
        return True


_FIRST_CAUTION = 0.02
_MOST_CAUTION = 1.0
_LEAST_CAUTION = 0.001
