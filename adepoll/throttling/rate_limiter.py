"""The request budget that every call to the API goes through: window, rate, gate, retries.

Imports errors and limits, and is the only importer of backoff. All times are seconds of
`loop.time()`.
"""

import asyncio
import math
from collections import deque
from collections.abc import Iterator
from random import Random
from typing import Final

import backoff
from attrs import define, field, frozen
from attrs.validators import ge, gt

from adepoll.errors import ClosedError, RateLimitedError, RequestError
from adepoll.throttling.estimators import Outage, Rate, Window


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


@define
class Sent:
    """A request on the wire, as `Pacer.take` counted it.

    Attributes:
        at: When it was sent.
        epoch: Of the window then: what it comes to is no news of what happened meanwhile.
    """

    at: float
    epoch: int


class Pacer:
    """What stands before every request of one client.

    A caller awaits `turn`, gets hold of what else it needs, asks `take` and sends, or goes back
    to the line where that says no; then it reports with `succeeded`, `failed` or `withdrawn`.
    `may_retry` draws on the retry budget. Nothing here holds a connection or a semaphore.

    Who may send is decided by what `limits` has learnt: a window on the requests on the wire, a
    rate once a 429 came, single probes in an outage. Beside that stands the gate, which a 429 or
    a Retry-After closes for all, and after which the window begins anew with one.
    """

    def __init__(
        self,
        *,
        max_rate: float | None,
        retry: RetryPolicy,
        rng: Random,
        max_connections: int = 256,
    ) -> None:
        """Make a pacer.

        Args:
            max_rate: Most requests per second; None for no limit of our own.
            retry: How retries are spaced and budgeted.
            rng: Source of all jitter.
            max_connections: Most requests on the wire at once.
        """
        if max_rate is not None and not (math.isfinite(max_rate) and max_rate > 0):
            raise ValueError(f"max_rate must be a positive number or None, got {max_rate}")
        if max_connections < 1:
            raise ValueError(f"max_connections must be positive, got {max_connections}")
        self._least_interval = 0.0 if max_rate is None else 1.0 / max_rate
        self._interval = self._least_interval
        self._retry = retry
        self._rng = rng
        self._window = Window(max_connections)
        self._rate = Rate()
        self._outage = Outage(lambda: retry.waits(rng))
        self._next = -math.inf  # when the rate allows the next request
        self._opens = -math.inf  # when the gate opens
        self._clear = False  # neither rate, gate nor outage has a say; as `take` found last
        self._least_bound = min(retry.base, retry.max_wait)
        self._bound = self._least_bound  # of the gate's jitter; grows with closings in a row
        self._budget = retry.budget
        self._line: deque[asyncio.Future[float]] = deque()  # cancelled ones are skipped later
        self._called = 0  # how many of the line were called, and have not come yet
        self._held_back = False  # the rate made the first of the line wait
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False
        self._closed = asyncio.Event()  # for those who pause
        self._loop: asyncio.AbstractEventLoop | None = None  # to ask which one runs is slow

    @property
    def gate_opens_at(self) -> float:
        """When the gate opens, in loop time; in the past where it is open."""
        return self._opens

    @property
    def retry_budget(self) -> float:
        """How many retries may be spent now."""
        return self._budget

    @property
    def rate_limit(self) -> float | None:
        """Requests per second that 429s have left; None where no limit is known."""
        return self._rate.value

    @property
    def window(self) -> int:
        """Most requests on the wire at once, for now."""
        return self._window.size

    @property
    def in_flight(self) -> int:
        """Requests on the wire."""
        return self._window.on_wire

    @property
    def failures_in_a_row(self) -> int:
        """How many requests have failed since one succeeded, 429 not counted."""
        return self._outage.failures

    def ready(self) -> float | None:
        """Give what `turn` gives where one more request may be sent at once; else None.

        Minus infinity where nothing has stood in the way for long.

        Raises:
            ClosedError: `close` was called.
        """
        if self._is_closed:
            raise ClosedError(_CLOSED)
        if self._line or (self._called and not self._room_for_more()):
            return None
        if self._clear:
            return None if self._window.full else -math.inf
        now = asyncio.get_running_loop().time()
        return now if self._due() <= now else None

    async def turn(self) -> float:
        """Wait until one more request may be sent; nothing is counted before `take`.

        Gives the time since when it might be sent: earlier than now where a timer fired late.

        Raises:
            ClosedError: `close` was called.
        """
        if (now := self.ready()) is not None:
            return now
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[float] = loop.create_future()
        self._line.append(waiter)
        self._serve()
        try:
            due = await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled():
                self._called -= 1  # it was called, and will not come
            self._serve()
            raise
        self._called -= 1
        if self._is_closed:
            raise ClosedError(_CLOSED)
        # Who was called takes its turn in this very step, if it can; then it is the next one's.
        loop.call_soon(self._serve)
        return due

    async def pause(self, seconds: float) -> None:
        """Wait so long, or until `close`, which raises `ClosedError`."""
        try:
            async with asyncio.timeout(seconds):
                await self._closed.wait()
        except TimeoutError:
            return
        raise ClosedError(_CLOSED)

    def close(self) -> None:
        """End all waits: what they wait for will not be sent."""
        self._is_closed = True
        self._closed.set()
        self._stop_timer()
        for waiter in self._line:
            if not waiter.done():
                waiter.set_result(math.inf)
        self._line.clear()

    def take(self, due: float) -> Sent | None:
        """Count one request as sent now, if it may be: what `turn` gave can have passed since.

        Args:
            due: What `turn` gave.
        """
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        now = self._loop.time()
        if self._clear:
            if self._window.full:
                return None
        elif now < self._due():
            return None
        else:
            self._clear = not (self._interval or self._outage.on)
        if self._rate.sent(now, held_back=self._held_back):
            self._set_interval()
        self._held_back = False
        if self._interval:
            # A timer that fired late must not lower the rate: up to one interval is made up for.
            self._next = max(self._next, due, now - self._interval) + self._interval
        self._window.sent()
        return Sent(now, self._window.epoch)

    def succeeded(self, sent: Sent) -> int:
        """The service answered that request as it should; give how many before it had failed."""
        window = self._window
        window.ended(sent.epoch, well=True)
        if self._budget < self._retry.budget:
            self._budget = min(self._retry.budget, self._budget + self._retry.refill)
        if sent.epoch == window.epoch:
            self._bound = self._least_bound
            self._rate.granted += 1
        failures = self._outage.failures
        if failures and self._outage.succeeded():
            window.shut()  # so that not all who waited for it are sent at once
        if self._line:
            self._serve()
        return failures

    def failed(self, error: RequestError, sent: Sent) -> None:
        """That request came back with that error.

        A 429, and anything with a Retry-After, closes the gate for all. Retry-After is a floor;
        jitter only adds to it. Other passing errors, many in a row, are an outage. An error that
        would not pass is the answer of a service that is well.
        """
        throttled = isinstance(error, RateLimitedError)
        if error.retry_after is None and not error.transient:
            self.succeeded(sent)
            return
        now = asyncio.get_running_loop().time()
        self._clear = False
        fresh = sent.epoch == self._window.epoch  # else it is no news: sent before the last trouble
        self._window.ended(sent.epoch)
        if throttled and fresh:
            self._rate.refused(now, sent_at=sent.at)
            self._set_interval()
        if throttled or error.retry_after is not None:
            if fresh:
                self._bound = min(self._retry.max_wait, self._bound * self._retry.factor)
                self._window.shut()
            self._close_gate(now, error.retry_after)
        if throttled:
            self._rate.closed_until(self._opens)
        elif not error.transient:
            self._outage.succeeded()
        elif self._outage.failed(now, fresh=fresh):
            self._window.shut()
        if self._line:
            self._serve()

    def withdrawn(self, sent: Sent) -> None:
        """That request was given up by its caller, or broke off for a reason of our own."""
        self._window.ended(sent.epoch)
        if self._line:
            self._serve()

    def may_retry(self) -> bool:
        """Take one retry from the budget, if there is one."""
        if self._budget < 1:
            return False
        self._budget -= 1
        return True

    def _due(self) -> float:
        """When the next request may be sent; infinity where an answer must come before."""
        if self._window.full:
            return math.inf
        due = max(self._opens, self._outage.probe_at)
        return max(due, self._next) if self._interval else due

    def _room_for_more(self) -> bool:
        """Whether one more may be sent at once besides those who were called and have not come."""
        # If not, once there was a line, all would join it for ever: on a busy loop somebody has
        # always been called.
        return not self._interval and self._called < self._window.room

    def _set_interval(self) -> None:
        rate = self._rate.value
        self._interval = max(self._least_interval, 0.0 if rate is None else 1.0 / rate)

    def _close_gate(self, now: float, retry_after: float | None) -> None:
        if retry_after is None:
            floor, bound = 0.0, self._bound
        else:
            floor = retry_after
            bound = min(self._bound, max(_LEAST_JITTER, _JITTER_SHARE * floor))
        self._opens = max(self._opens, now + floor + self._rng.uniform(0, bound))

    def _serve(self, rung: float = math.inf) -> None:
        """Call the first in line when they may send: now, by a timer, or after the next answer.

        Args:
            rung: For when the timer was set, where it is the timer that calls.
        """
        self._stop_timer()
        while self._line and self._line[0].done():
            del self._line[0]  # was cancelled
        if self._called or not self._line:
            return
        loop = asyncio.get_running_loop()
        now, due = loop.time(), self._due()
        if due <= now:
            # Where no rate spaces them, all for whom there is room are called at once: one by one,
            # the line would never end on a busy loop.
            room = 1 if self._interval else self._window.room
            while self._line and self._called < room:
                waiter = self._line.popleft()
                if not waiter.done():
                    self._called += 1
                    waiter.set_result(min(rung, now))
        elif due < math.inf:
            if due == self._next and self._interval > self._least_interval:
                self._held_back = True
            # A timer may fire early by the clock's resolution, and must not do so for ever.
            wait = max(due - now, _SHORTEST_WAIT)
            self._timer = loop.call_later(wait, self._serve, due)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


_CLOSED: Final = "the client is closed"
_LEAST_JITTER: Final = 0.1  # seconds, on top of a Retry-After
_JITTER_SHARE: Final = 0.1  # of a Retry-After
_SHORTEST_WAIT: Final = 4e-9  # seconds
