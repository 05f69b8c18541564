"""The hosts of the service, and the callers that wait for the request budget or for a host.

v1 jobs and v2 jobs can be at different hosts. If one of them is down, or sends a 5xx with a
Retry-After, the requests to the other host go on. But a 429 stops the requests to all hosts. Times
are seconds of `loop.time()`.
"""

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextvars import Context
from itertools import chain
from operator import attrgetter
from typing import Any, Final, Protocol

from attrs import define, field

from adepoll.errors import (
    AnswerTimeoutError,
    ConnectionFailedError,
    ProxyError,
    RequestError,
    ServiceDownError,
)
from adepoll.throttling.outage import Outage

_log = logging.getLogger(__name__)


@define(eq=False)
class Caller:
    """A caller that waits until it may send a request.

    Attributes:
        host: Host of the request.
        give_up_at: Time from which the caller does not wait any more if the host is down.
        turn: Future that is completed when the wait ends. The result is the time from which the
            request may be sent. It is infinity if `Hosts.release` has ended the wait.
    """

    host: "Host"
    give_up_at: float
    turn: asyncio.Future[float]


class Host:
    """One host of the service.

    Attributes:
        name: Name of the host for messages, such as ``the service at https://api.va.landing.ai``.
        outage: Whether the host is down, and when the next probe may be sent.
        gate_opens_at: Time until which no request may be sent to this host, because it answered
            with a Retry-After (a 429 stops all hosts, and does not count here). In the past if
            requests may be sent.
        holds_back: True while callers of this host wait in their own queue (`held_back`), and not
            in the queue of all hosts: the host is down, has sent a Retry-After, or was slow while
            the window of the request budget was full.
        slow_until: Time until which the host counts as slow (see `slow_down`); minus infinity if it
            has never been slow.
        held_back: Callers of the host that wait while `holds_back` is True; the first has waited
            longest. Some may have been cancelled or released.
        waiting: Number of callers of this host that wait for their turn, in any queue.
        in_flight: Number of requests that wait for the response of the host.
        silent_since: Time since which the host has sent no response to the requests in flight.
            It has no meaning while no request is in flight.
        released_at: Last time at which the requests in flight stopped counting against the size of
            the window, because the host had sent no response; minus infinity if never.
    """

    def __init__(self, waits: Callable[[], Iterator[float]], *, origin: str = "") -> None:
        """Create a host that is not down.

        Args:
            waits: Returns a new endless iterator over the seconds to wait before each probe.
            origin: Scheme, name and port of the host; empty if the service has one host.
        """
        self.name = f"the service at {origin}" if origin else "the service"
        self.outage = Outage(waits)
        self.gate_opens_at = self.slow_until = -math.inf
        self.holds_back = False
        self.held_back: deque[Caller] = deque()
        self.waiting = self.in_flight = 0
        self.silent_since = math.inf
        self.released_at = -math.inf
        self._last_failure: RequestError | None = None
        self._reported_at = -math.inf  # time of the last log message "does not respond"

    @property
    def last_failure(self) -> RequestError | None:
        """Error of the last failed request; None if no failure since the last success counts.

        Repeated failures of requests about the same job do not always count; see `Outage`.
        """
        return self._last_failure if self.outage.failures else None

    def record_failure(self, error: RequestError, now: float, *, is_probe: bool) -> bool:
        """Record a failed request; return True if an outage of the host begins with it.

        Args:
            error: The error of the request.
            now: Time at which the request failed.
            is_probe: True if the request was sent during an outage, to test whether the host works.
        """
        outage = self.outage
        is_first = not outage.failures
        self._last_failure = error
        begins = outage.failed(now, is_probe=is_probe, job_id=error.job_id)
        if begins:
            _log.warning(
                "%s is down: %d requests in a row failed, the last with: %s",
                self.name,
                outage.failures,
                error,
            )
        elif (
            is_first
            and error.transient  # a request that a proxy has refused is not sent again
            and isinstance(error, ConnectionFailedError | ProxyError | AnswerTimeoutError)
            and now >= self._reported_at + _REPORT_EVERY
        ):
            # With a wrong address, ten failures can take minutes. So log the first one, too.
            self._reported_at = now
            _log.warning("%s does not respond, trying again: %s", self.name, error)
        return begins

    def record_success(self) -> None:
        """Record a successful request, which ends an outage."""
        failures = self.outage.failures
        if self.outage.succeeded():
            _log.warning("%s works again, after %d failed requests", self.name, failures)

    @property
    def is_down(self) -> bool:
        """True during an outage: so many consecutive requests failed that only probes are sent."""
        return self.outage.is_on

    def error(self) -> ServiceDownError:
        """Return an error that says that the host is down. Its cause is the last failed request."""
        return ServiceDownError(
            failures=self.outage.failures, cause=self.last_failure, host=self.name
        )

    def slow_down(self, now: float) -> None:
        """Record that the host is slow, so that requests to another host had to wait.

        For the next minute, requests to the host may hold at most half of the places of a watcher's
        semaphore. While `holds_back` is True, they may also use at most half of the window.
        """
        if now >= self.slow_until:
            _log.info("%s is slow, and delays requests to another host", self.name)
        self.slow_until = now + _SLOW_FOR


class HeldPlaces(Protocol):
    """The places of one semaphore; see `Places`."""

    holders: dict["Sent", None]

    @property
    def waiting(self) -> Collection[object]:
        """The callers that wait for a place."""

    def wake_first(self) -> None:
        """Wake the callers that may hold a place now."""


@define(eq=False)
class Sent:
    """A request that was started with `RateLimiter.start`.

    Attributes:
        at: Loop time at which the request was sent.
        epoch: `Window.epoch` at the time when the request was sent.
        host: The host to which it was sent.
        is_probe: True if the host was down when the request was sent.
        places: The places of the semaphore that the request holds; None if it holds no semaphore.
        task: The task that sends the request.
        heard_at: Loop time of the last bytes of the response; minus infinity before the first.
        ended_after: If `Places` has ended the request early, because requests to another host had
            to wait: the seconds since the last byte of the response. Otherwise None.
        shows_outage: True if a failure of the request counts towards an outage.
        is_repeated: True if the request repeats one that was sent on a stale connection. It must be
            sent on a new connection.
        is_stale: True if the request was sent on a stale connection: the connection had served an
            earlier request, and was closed before the first byte of the response.
    """

    at: float
    epoch: int
    host: Host
    is_probe: bool
    places: HeldPlaces | None = None
    task: asyncio.Task[Any] | None = field(factory=asyncio.current_task)
    heard_at: float = -math.inf
    ended_after: float | None = None
    shows_outage: bool = True
    is_repeated: bool = False
    is_stale: bool = False


class Hosts:
    """The hosts to which the requests of one budget are sent, and the queues of waiting callers.

    Attributes:
        waiting: The queue of all hosts: callers that wait for the request budget. The first has
            waited longest. Some may have been cancelled or released.
        holding_back: The hosts whose callers wait in a queue of their own (`Host.held_back`),
            because the host is down or slow, or has sent a Retry-After.
        woken: Number of callers that were woken, and have not continued yet.
    """

    def __init__(self, waits: Callable[[], Iterator[float]]) -> None:
        """Create an empty collection of hosts.

        Args:
            waits: Returns a new endless iterator over the seconds to wait before each probe of a
                host.
        """
        self.waiting: deque[Caller] = deque()
        self.holding_back: list[Host] = []
        self.woken = 0
        self._waits = waits
        self._by_origin: dict[str, Host] = {}
        self._release_timer: asyncio.TimerHandle | None = None  # runs `_release_expired`

    def get(self, origin: str) -> Host:
        """Return the host with this scheme, name and port: always the same object."""
        if (host := self._by_origin.get(origin)) is None:
            host = self._by_origin[origin] = Host(self._waits, origin=origin)
        return host

    def add(self, caller: Caller) -> None:
        """Add a caller to the queue of its host, or of all hosts, and increase `Host.waiting`.

        The code that ends the wait of the caller must decrease `Host.waiting` again.
        """
        host = caller.host
        (host.held_back if host.holds_back else self.waiting).append(caller)
        host.waiting += 1

    def hold_back(self, host: Host) -> None:
        """Move the waiting callers of a host from the queue of all hosts to a queue of the host."""
        if not host.holds_back:
            host.holds_back = True
            self.holding_back.append(host)
            callers = [*self.waiting]
            self.waiting.clear()
            for caller in callers:
                (host.held_back if caller.host is host else self.waiting).append(caller)

    def let_go(self, host: Host) -> None:
        """Move the waiting callers of a host to the front of the queue of all hosts."""
        host.holds_back = False
        self.holding_back.remove(host)
        self.waiting.extendleft(reversed(host.held_back))  # they have waited longest
        host.held_back.clear()

    def let_go_recovered(self, now: float) -> bool:
        """Move the callers of each host that works again back to the queue of all hosts.

        A host works again if it is neither down nor slow, and its Retry-After has passed. Return
        True if one of these hosts was down or had sent a Retry-After. Until now, such a host has
        received no requests or only probes. A host that was only slow has received requests.
        """
        sent_nothing = False
        for host in [*self.holding_back]:
            if not host.outage.is_on and max(host.gate_opens_at, host.slow_until) <= now:
                sent_nothing = sent_nothing or host.slow_until == -math.inf
                host.slow_until = -math.inf
                self.let_go(host)
        return sent_nothing

    def drop_done(self) -> None:
        """Remove cancelled and released callers from the front of each queue.

        Such callers behind the first caller that still waits stay in the queue.
        """
        # `map` with `attrgetter` makes no call of Python code while no host is held back.
        for callers in chain([self.waiting], map(attrgetter("held_back"), self.holding_back)):
            while callers and callers[0].turn.done():
                callers.popleft()

    def wake_first(self, callers: deque[Caller], limit: int, due: float) -> int:
        """Remove the first callers from a queue and wake them; return how many were woken.

        Args:
            callers: The queue.
            limit: Maximum number of callers to wake.
            due: Time from which the woken callers may send their requests.
        """
        woken = 0
        while callers and woken < limit:
            turn = callers.popleft().turn
            if not turn.done():  # otherwise the caller was cancelled or released
                woken += 1
                turn.set_result(due)
        self.woken += woken
        return woken

    def release(self, caller: Caller) -> None:
        """End the wait of a caller immediately. The caller must then not send its request."""
        if not caller.turn.done():
            self.woken += 1
            caller.turn.set_result(math.inf)

    def check_expired(self) -> None:
        """End the waits for hosts that are down, of all callers whose `give_up_at` has passed.

        Repeat this every second while callers with a `give_up_at` wait for a host that is down.
        """
        if self._release_timer is None:
            self._release_expired()

    def _release_expired(self) -> None:
        """End the waits that `check_expired` describes; set the timer that repeats this."""
        self._release_timer = None
        loop = asyncio.get_running_loop()
        callers = [
            caller
            for host in self.holding_back
            if host.outage.is_on
            for caller in host.held_back
            if caller.give_up_at < math.inf and not caller.turn.done()
        ]
        for caller in callers:
            if loop.time() >= caller.give_up_at:
                self.release(caller)
        if callers:
            again = self._release_expired
            self._release_timer = loop.call_later(_CHECK_EVERY, again, context=Context())

    def silent(self, now: float) -> tuple[Host | None, float]:
        """Find a host that has sent no response for 3 s, although requests to it are in flight.

        A host whose `holds_back` is True does not count. If only its own callers wait, a host also
        does not count in the 3 s after its `released_at`.

        Returns:
            The host, and `now`. If there is no such host: None, and the time at which this method
            must be called again; infinity if no host can become silent.
        """
        again = math.inf
        for host in self._by_origin.values():
            if host.in_flight and not host.holds_back:
                since = host.silent_since
                if not self.delays_others(host):
                    since = max(since, host.released_at)
                if (silent_at := since + SLOW_AFTER) <= now:
                    return host, now
                again = min(again, silent_at)
        return None, again

    def delays_others(self, host: Host) -> bool:
        """Return True if callers of a host other than `host` wait in the queue of all hosts."""
        others = (other for other in self._by_origin.values() if other is not host)
        return any(other.waiting and not other.holds_back for other in others)

    @property
    def worst(self) -> Host | None:
        """The host with the most failures since its last success; None if no host is known."""
        return max(self._hosts(), key=lambda host: host.outage.failures, default=None)

    @property
    def is_outage(self) -> bool:
        """True during an outage of at least one host."""
        return any(host.is_down for host in self._hosts())

    def _hosts(self) -> list[Host]:
        """Return all hosts, as a copy: the loop can add one while another thread reads them."""
        return [*self._by_origin.values()]


_REPORT_EVERY: Final = 60.0  # seconds between two log messages about a host that does not respond
_CHECK_EVERY: Final = 1.0  # seconds between two calls of `Hosts._release_expired`
_SLOW_FOR: Final = 60.0  # seconds for which a host counts as slow

SLOW_AFTER: Final = 3.0
"""Seconds without a response after which a host delays the requests that wait for their turn."""
