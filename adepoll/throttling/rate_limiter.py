"""The request budget of a client: when each request is sent, and what a 429 changes.

Imports errors and the rest of throttling; knows nothing of HTTP. Times are seconds of
`loop.time()`.
"""

import asyncio
import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from contextvars import Context
from random import Random
from typing import Final, TypeAlias, TypeVar

from attrs import define

from adepoll.errors import (
    AuthenticationError,
    ClosedError,
    PermissionDeniedError,
    RateLimitedError,
    RequestError,
    StatusError,
)
from adepoll.throttling.estimators import Outage, Rate, Window
from adepoll.throttling.retrying import RetryPolicy
from adepoll.throttling.statistics import ClientStats

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

Send: TypeAlias = Callable[[float], Awaitable[_T]]
"""Sends one request; the argument is the loop time at which it is sent."""

_NO_SEMAPHORE: Final[AbstractAsyncContextManager[object]] = nullcontext()


@define
class Sent:
    """A request that was started with `RateLimiter.start`.

    Attributes:
        at: Loop time at which it was sent.
        epoch: How often the window had been restarted (`Window.epoch`) when it was sent.
    """

    at: float
    epoch: int


class RateLimiter:
    """The request budget that all requests of one client share.

    Four things can hold a request back: the window (concurrent requests), the rate (requests per
    second, after a 429), the gate (closed for all requests after a 429 or a Retry-After) and an
    outage (single probes). `call` and `call_once` take all steps of one request: `wait_for_turn`,
    `start`, then `succeeded`, `failed` or `withdrawn`.

    Attributes:
        gate_opens_at: Loop time at which the gate opens; in the past while it is open.
        retry_budget: Retries that are available now.
    """

    def __init__(
        self,
        *,
        retry: RetryPolicy,
        rng: Random,
        max_rate: float | None = None,
        max_connections: int = 256,
    ) -> None:
        """Create a budget; `AdeClient` explains the arguments. Raises ValueError for bad ones."""
        if max_rate is not None and not (math.isfinite(max_rate) and max_rate > 0):
            raise ValueError(f"max_rate must be a positive number or None, got {max_rate}")
        if max_connections < 1:
            raise ValueError(f"max_connections must be positive, got {max_connections}")
        self._retry = retry
        self._rng = rng
        self._window = Window(max_connections)
        self._rate = Rate()
        self._outage = Outage(lambda: retry.waits(rng))
        self._min_interval = 0.0 if max_rate is None else 1.0 / max_rate
        self._interval = self._min_interval  # seconds between two requests
        self._next_slot = -math.inf  # when the interval allows the next request
        self.gate_opens_at = -math.inf
        self._only_window = False  # neither rate, gate nor outage limited the last request
        self._first_jitter = min(retry.base, retry.max_wait)
        self._jitter = self._first_jitter  # bound; grows with each 429 in a row
        self.retry_budget = retry.budget
        self._waiting: deque[asyncio.Future[float]] = deque()  # may contain cancelled futures
        self._woken = 0  # waiting callers that were woken, and have not continued yet
        self._rate_held_back = False  # the rate delayed the first waiting caller
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False
        self._closed = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._requests = self._retries = self._throttled = self._failures = 0
        self._refused: int | None = None

    async def call(self, send: Send[_T], *, attempts: int | None = None) -> _T:
        """Send a request, and repeat it after temporary errors while retries are left.

        Args:
            send: Sends the request once.
            attempts: Largest number of requests; None for that of the policy.

        Raises:
            RequestError: The error of the last attempt.
            ClosedError: `close` was called.
        """
        attempt = 0
        waits = None
        while True:
            try:
                return await self.call_once(send)
            except RequestError as error:
                attempt += 1
                is_last = attempt >= (attempts or self._retry.attempts)
                if not error.transient or is_last or not self.take_retry():
                    raise
                _log.debug("attempt %d failed, will retry: %s", attempt, error)
            waits = waits or self._retry.waits(self._rng)
            await self._pause(next(waits))
            self._retries += 1

    async def call_once(
        self, send: Send[_T], semaphore: AbstractAsyncContextManager[object] = _NO_SEMAPHORE
    ) -> _T:
        """Send a request once, when the budget allows it. Raises as `call` does.

        Args:
            send: Sends the request.
            semaphore: Held during the request, but not while the request waits for its turn.
        """
        while True:
            due = self.ready() or await self.wait_for_turn()
            async with semaphore:
                sent = self.start(due)
                if sent is None:
                    continue  # others were sent, or the gate closed, during the wait above
                self._requests += 1
                try:
                    response = await send(sent.at)
                except RequestError as error:
                    self.failed(error, sent)
                    raise
                except BaseException:
                    self.withdrawn(sent)
                    raise
                self._refused = None
                self.succeeded(sent)
                return response

    def close(self) -> None:
        """Make all waiting and later calls raise `ClosedError`."""
        self._is_closed = True
        self._closed.set()
        self._stop_timer()
        for caller in self._waiting:
            if not caller.done():
                caller.set_result(math.inf)
        self._waiting.clear()

    def stats(self, *, bytes_received: int = 0) -> ClientStats:
        """Return a copy of the counters. May be called from any thread, and after the loop."""
        loop = self._loop
        now = math.inf if loop is None or loop.is_closed() else loop.time()
        return ClientStats(
            requests=self._requests,
            retries=self._retries,
            throttled=self._throttled,
            failures=self._failures,
            bytes_received=bytes_received,
            in_flight=self._window.in_flight,
            window=self._window.size,
            rate_limit=self._rate.value,
            retry_budget=self.retry_budget,
            gate_closed_for=max(0.0, self.gate_opens_at - now),
            failures_in_a_row=self._outage.failures,
            refused=self._refused,
        )

    def ready(self) -> float | None:
        """Return what `wait_for_turn` would return without waiting; None if it would wait.

        Minus infinity if only the window limits requests at present. Raises as `wait_for_turn`.
        """
        if self._is_closed:
            raise ClosedError(_CLOSED)
        if self._waiting or (self._woken and not self._has_room()):
            return None
        if self._only_window:
            return None if self._window.full else -math.inf
        now = asyncio.get_running_loop().time()
        return now if self._due() <= now else None

    async def wait_for_turn(self) -> float:
        """Wait until one more request may be sent. Nothing is counted before `start`.

        Returns:
            The time from which on it may be sent: in the past if a timer fired late.

        Raises:
            ClosedError: `close` was called.
        """
        if (now := self.ready()) is not None:
            return now
        loop = asyncio.get_running_loop()
        caller: asyncio.Future[float] = loop.create_future()
        self._waiting.append(caller)
        self._wake_waiting()
        try:
            due = await caller
        except asyncio.CancelledError:
            if not caller.cancelled():
                self._woken -= 1
            self._wake_waiting()
            raise
        self._woken -= 1
        if self._is_closed:
            raise ClosedError(_CLOSED)
        # This caller starts its request in this step of the loop; then the next one is woken.
        loop.call_soon(self._wake_waiting, context=Context())
        return due

    def start(self, due: float) -> Sent | None:
        """Count one request as sent now; return None if it must wait for its turn again.

        Args:
            due: The result of `wait_for_turn`. The situation may have changed since then.
        """
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        now = self._loop.time()
        if self._only_window:
            if self._window.full:
                return None
        elif now < self._due():
            return None
        else:
            self._only_window = not (self._interval or self._outage.is_on)
        if self._rate.sent(now, held_back=self._rate_held_back):
            self._interval = max(self._min_interval, self._rate.interval)
        self._rate_held_back = False
        if self._interval:
            # A timer that fires late must not lower the rate: make up for at most one interval.
            self._next_slot = max(self._next_slot, due, now - self._interval) + self._interval
        self._window.sent()
        return Sent(now, self._window.epoch)

    def succeeded(self, sent: Sent) -> None:
        """Record that the service answered the request. A 404 is an answer, too."""
        window = self._window
        window.ended(sent.epoch, succeeded=True)
        if self.retry_budget < self._retry.budget:
            self.retry_budget = min(self._retry.budget, self.retry_budget + self._retry.refill)
        if sent.epoch == window.epoch:
            self._jitter = self._first_jitter
            self._rate.granted += 1
        if self._outage.failures and self._end_outage():
            window.restart()  # or all waiting requests would be sent at the same time
        if self._waiting:
            self._wake_waiting()

    def failed(self, error: RequestError, sent: Sent) -> None:
        """Record that the request failed.

        A 429, or any response with a Retry-After, closes the gate for all requests. Retry-After is
        a lower bound, to which jitter is added. Many other temporary errors in a row are an
        outage. An error that is not temporary is the answer of a service that works.
        """
        throttled = isinstance(error, RateLimitedError)
        self._failures += 1
        self._throttled += throttled
        self._note_key(error)
        if error.retry_after is None and not error.transient:
            self.succeeded(sent)
            return
        now = asyncio.get_running_loop().time()
        self._only_window = False
        # An error of an earlier epoch says nothing new: it was sent before the last 429 or outage.
        is_new = sent.epoch == self._window.epoch
        closes_gate = throttled or error.retry_after is not None
        if closes_gate:
            if is_new:
                self._jitter = min(self._retry.max_wait, self._jitter * self._retry.factor)
            self._close_gate(now, error.retry_after)
        self._window.ended(sent.epoch)
        if closes_gate and is_new:
            self._window.restart()
        if throttled:
            if is_new:
                self._rate.throttled(now, sent_at=sent.at)
                self._interval = max(self._min_interval, self._rate.interval)
            self._rate.gate_closed_until(self.gate_opens_at)
        elif not error.transient:
            self._end_outage()
        elif self._outage.failed(now, is_new=is_new):
            failures = self._outage.failures
            _log.warning("%d requests in a row failed, the last with: %s", failures, error)
            self._window.restart()
        if self._waiting:
            self._wake_waiting()

    def withdrawn(self, sent: Sent) -> None:
        """Record that the caller cancelled the request, or that it failed for a local reason."""
        self._window.ended(sent.epoch)
        if self._waiting:
            self._wake_waiting()

    def take_retry(self) -> bool:
        """Take one retry from the budget; return False if the budget is empty."""
        if self.retry_budget < 1:
            return False
        self.retry_budget -= 1
        return True

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._closed.wait()
        except TimeoutError:
            return
        raise ClosedError(_CLOSED)

    def _note_key(self, error: RequestError) -> None:
        if isinstance(error, AuthenticationError):
            self._refused = error.status
        elif isinstance(error, StatusError) and not error.transient and error.job_id is not None:
            # A 404 shows that the key was accepted. A key that may not list jobs can be valid.
            self._refused = error.status if isinstance(error, PermissionDeniedError) else None

    def _end_outage(self) -> bool:
        failures = self._outage.failures
        ends = self._outage.succeeded()
        if ends:
            _log.warning("the service answers again, after %d failures", failures)
        return ends

    def _due(self) -> float:
        """Return when the next request may be sent; infinity if a response must come first."""
        if self._window.full:
            return math.inf
        due = max(self.gate_opens_at, self._outage.probe_at)
        return max(due, self._next_slot) if self._interval else due

    def _has_room(self) -> bool:
        """Return whether one more request fits beside those of the callers that were woken."""
        # Without this, all callers would queue for ever once one did: on a busy loop, there is
        # always a caller that was woken.
        return not self._interval and self._woken < self._window.room

    def _close_gate(self, now: float, retry_after: float | None) -> None:
        if retry_after is None:
            wait, jitter = 0.0, self._jitter
        else:
            wait = retry_after
            jitter = min(self._jitter, max(_MIN_JITTER, _JITTER_SHARE * wait))
        self.gate_opens_at = max(self.gate_opens_at, now + wait + self._rng.uniform(0, jitter))

    def _wake_waiting(self, due_at: float = math.inf) -> None:
        """Wake waiting callers: now, by a timer, or after the next response.

        Args:
            due_at: When the timer that calls this was due; infinity if no timer calls it.
        """
        self._stop_timer()
        while self._waiting and self._waiting[0].done():
            del self._waiting[0]  # cancelled
        if self._woken or not self._waiting:
            return
        loop = asyncio.get_running_loop()
        now, due = loop.time(), self._due()
        if due <= now:
            # Without a rate, as many as there is room for: one at a time, a busy loop would never
            # get to the end of the queue.
            room = 1 if self._interval else self._window.room
            while self._waiting and self._woken < room:
                caller = self._waiting.popleft()
                if not caller.done():
                    self._woken += 1
                    caller.set_result(min(due_at, now))
        elif due < math.inf:
            if due == self._next_slot and self._interval > self._min_interval:
                self._rate_held_back = True
            # A timer can fire early by the clock's resolution, which must not end in a busy loop.
            wait = max(due - now, _MIN_WAIT)
            self._timer = loop.call_later(wait, self._wake_waiting, due, context=Context())

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


_CLOSED: Final = "the client is closed"
_MIN_JITTER: Final = 0.1  # seconds, added to a Retry-After
_JITTER_SHARE: Final = 0.1  # of a Retry-After
_MIN_WAIT: Final = 4e-9  # seconds
