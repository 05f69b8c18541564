"""Prevents requests to a slow host from delaying requests to another host.

v1 and v2 jobs can be at two hosts. A watcher has one semaphore for both, which limits the number of
concurrent requests: each request in flight holds one place of the semaphore. If one host is slow,
its requests could hold all places. Therefore, while callers of the other host wait for a place, the
requests to the slow host may hold only half of the places, for a minute. If they already hold more,
the newest of them are ended after 3 s without a byte. If the semaphore has only one place, requests
to the two hosts use it alternately, and are ended after 3 to 10 s without a byte.

Times are seconds of `loop.time()`.
"""

import asyncio
import math
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from contextvars import Context
from types import TracebackType
from typing import Any, Final

from attrs import define, frozen

from adepoll.common.semaphores import SemaphoreWrapper
from adepoll.errors import AnswerTimeoutError
from adepoll.throttling.hosts import SLOW_AFTER, Host, Sent


@define(eq=False)
class SlowHostLimits:
    """When a slow host may use a semaphore that has only one place, and for how long.

    Attributes:
        rests_until: Time until which only requests to the other host may hold the semaphore.
        patience: Seconds without a byte after which a request to the slow host is ended.
    """

    rests_until: float = -math.inf
    patience: float = SLOW_AFTER

    def ended(self, now: float, silent_for: float) -> None:
        """Update the limits: a request was ended after `silent_for` seconds without a byte."""
        self.rests_until = now + _REST * silent_for
        self.patience = min(_LONGEST_PATIENCE, _MORE_PATIENCE * silent_for)


class Places:
    """The requests that hold a place of one semaphore, and the callers that wait for a place.

    A semaphore has as many places as requests may hold it at the same time.

    Attributes:
        holders: The requests that hold a place, oldest first. `RateLimiter` adds each request, and
            removes it when it has ended.
        only_host: The host of all callers so far. None before the first caller, or if callers named
            several hosts.
        waiting: The callers that wait for a place; the first has waited longest. Empty while
            `only_host` is not None, because callers of a single host are not recorded.
    """

    def __init__(self) -> None:
        """Create an object for a semaphore whose places are all free."""
        self.holders: dict[Sent, None] = {}
        self.only_host: Host | None = None
        self.waiting: dict[_Wait, None] = {}
        self._is_new = True  # False after the first caller
        # By slow host; empty unless there is only one place.
        self._slow_limits: dict[Host, SlowHostLimits] = {}
        self._most = 0  # largest number of places that were held while callers waited
        self._timer: asyncio.TimerHandle | None = None  # runs `_check`; None if nobody waits

    @property
    def is_idle(self) -> bool:
        """True if no request holds a place of the semaphore, and no caller waits for one."""
        return not self.holders and not self.waiting

    def place(
        self, host: Host, semaphore: AbstractAsyncContextManager[object]
    ) -> AbstractAsyncContextManager[object]:
        """Return a context manager that holds a place of `semaphore` during a request to `host`.

        Its ``async with`` statement first waits for a free place. If callers have named several
        hosts, and `host` is slow, the statement also waits until `allows` returns True.
        """
        if self._is_new:
            self._is_new, self.only_host = False, host
        if host is self.only_host:
            return semaphore
        self.only_host = None
        return _Wait(self, host, semaphore)

    def allows(self, host: Host) -> bool:
        """Return whether one more request to the host may hold a place of the semaphore now.

        Always True if the host is not slow.
        """
        if host is self.only_host:
            return True
        if (now := asyncio.get_running_loop().time()) >= host.slow_until:
            return True
        if self._most > 1:
            return sum([sent.host is host for sent in self.holders]) < self._most // 2
        return now >= self._limits_of(host).rests_until

    def check_later(self, sent: Sent) -> None:
        """Call `_check` 3 s after a request was sent: if it has not ended, its host is slow."""
        self._check_at(sent.at + SLOW_AFTER)

    def waits(self, wait: "_Wait") -> None:
        """Record that a caller has begun to wait for a place of the semaphore."""
        self.waiting[wait] = None
        # Not immediately: if a place is free, the caller does not wait.
        self._check_at(asyncio.get_running_loop().time() + _CHECK_AFTER)

    def stopped_waiting(self, wait: "_Wait") -> None:
        """Record that a caller no longer waits for a place of the semaphore."""
        del self.waiting[wait]
        if self.waiting:
            self.wake_first()
        elif self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _others_wait(self, host: Host) -> bool:
        """Return True if a caller of a host other than `host` waits for a free place."""
        return any(wait.host is not host and wait.turn is None for wait in self.waiting)

    def _check_at(self, time: float) -> None:
        """Set the timer of `_check` to `time`, unless it is set to an earlier time already."""
        if self._timer is not None:
            if self._timer.when() <= time:
                return
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(time, self._check, context=Context())

    def _check(self) -> None:
        """If a slow host delays callers of another host, end the newest requests to the slow host.

        Also wake the callers that may hold a place now.
        """
        self._timer = None
        now, again = asyncio.get_running_loop().time(), math.inf
        self._most = max(self._most, len(self.holders))
        for host in dict.fromkeys([sent.host for sent in self.holders]):
            if self._others_wait(host):
                again = min(again, self._end_excess(host, now))
        self.wake_first()
        for wait in self.waiting:
            if wait.turn is not None:
                rest = self._limits_of(wait.host).rests_until
                again = min(again, rest if now < rest else wait.host.slow_until)
        if self.waiting and again < math.inf:
            self._check_at(again)

    def _end_excess(self, host: Host, now: float) -> float:
        """If a host is slow and holds more than half of the places, end its newest requests.

        The host is slow if its oldest request has been in flight for `SLOW_AFTER` seconds. A
        request is ended only if it has received no byte for some seconds.

        Return the time at which this method must be called again for the host; infinity if never.
        """
        holders = [s for s in self.holders if s.host is host and s.ended_after is None]
        slow_at = min([sent.at for sent in holders], default=math.inf) + SLOW_AFTER
        if slow_at > now:
            return slow_at
        host.slow_down(now)
        share, patience, again = self._most // 2, SLOW_AFTER, math.inf
        if not share:
            patience = self._limits_of(host).patience
        for sent in holders[share:]:
            silent_for = now - max(sent.at, sent.heard_at)
            if silent_for < patience - _ROUNDING:
                again = min(again, now + patience - silent_for)
            elif (task := sent.task) is not None and not task.cancelling():
                sent.ended_after = silent_for
                sent.shows_outage = not share
                task.cancel()
                if not share:
                    self._limits_of(host).ended(now, silent_for)
        return again

    def _limits_of(self, host: Host) -> SlowHostLimits:
        """Return the limits of a slow host, and create them at the first call."""
        if (limits := self._slow_limits.get(host)) is None:
            limits = self._slow_limits[host] = SlowHostLimits()
        return limits

    def wake_first(self) -> None:
        """For each slow host, wake the caller that has waited longest, if `allows` returns True.

        Only callers whose host is slow are woken. Other callers wait for a free place.
        """
        seen = set()
        for wait in self.waiting:
            if wait.turn is not None and wait.host not in seen:
                seen.add(wait.host)
                if not wait.turn.done() and self.allows(wait.host):
                    wait.turn.set_result(None)


def error_of_ended(sent: Sent, job_id: str | None) -> AnswerTimeoutError | None:
    """Return the error for a request that `Places` has ended early; None for any other request.

    `Places` ends a request by cancelling its task. If other code has also cancelled the task,
    return None, because the CancelledError must reach that code.
    """
    if sent.ended_after is None or sent.task is None or sent.task.uncancel():
        return None
    return AnswerTimeoutError(timeout=round(sent.ended_after, 1), job_id=job_id)


@frozen
class SemaphoreUse:
    """How `RequestSender` uses a semaphore that a caller has passed.

    Attributes:
        semaphore: The semaphore to acquire. If the caller has passed a `SemaphoreWrapper`, it is
            the semaphore in this wrapper.
        places: The requests that hold a place of `semaphore`; None if their number has no limit.
        sent: The method `sent` of the wrapper; None if the caller has passed no wrapper.
        waits_again: The method `waits_again` of the wrapper, or None.
    """

    semaphore: AbstractAsyncContextManager[object]
    places: Places | None
    sent: Callable[[asyncio.Task[Any] | None, float], None] | None = None
    waits_again: Callable[[asyncio.Task[Any] | None, float], None] | None = None


NO_SEMAPHORE: Final = SemaphoreUse(nullcontext(), None)
"""Used for a request that holds no semaphore."""


class UseBySemaphore(dict[AbstractAsyncContextManager[object], SemaphoreUse]):
    """The `SemaphoreUse` of each semaphore and wrapper; created when it is first looked up.

    A semaphore and its `SemaphoreWrapper` have the same `Places`.
    """

    def __missing__(self, given: AbstractAsyncContextManager[object]) -> SemaphoreUse:
        for known, found in [*self.items()]:
            if found.places is None or found.places.is_idle:
                del self[known]  # the watcher of this semaphore may be closed
        if isinstance(given, SemaphoreWrapper):
            places = self[given.semaphore].places
            use = SemaphoreUse(given.semaphore, places, given.sent, given.waits_again)
        else:
            use = SemaphoreUse(given, Places())
        self[given] = use
        return use


@define(eq=False)
class _Wait(AbstractAsyncContextManager[None, None]):
    """A context manager that waits for a place of a semaphore, and then holds it for one request.

    Attributes:
        places: The object that decides whether the request may hold a place.
        host: The host of the request.
        semaphore: The semaphore.
        turn: While the caller waits because its host is slow: a future that is completed when the
            host may hold one more place. None while the caller only waits for a free place.
    """

    places: Places
    host: Host
    semaphore: AbstractAsyncContextManager[object]
    turn: asyncio.Future[None] | None = None

    async def __aenter__(self) -> None:
        self.places.waits(self)
        try:
            while not self.places.allows(self.host):
                self.turn = asyncio.get_running_loop().create_future()
                await self.turn
            self.turn = None
            await self.semaphore.__aenter__()
        finally:
            self.places.stopped_waiting(self)

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.semaphore.__aexit__(exc_type, exc, traceback)


_REST: Final = 2.0  # seconds for which a host rests, for each second of a request that was ended
_MORE_PATIENCE: Final = 1.5  # growth of `SlowHostLimits.patience` with each request that was ended
_LONGEST_PATIENCE: Final = 10.0  # maximum of `SlowHostLimits.patience`, in seconds
_CHECK_AFTER: Final = 0.05  # seconds after which a caller that waits for a place is noticed
_ROUNDING: Final = 1e-6  # seconds by which a timer may fire too early
