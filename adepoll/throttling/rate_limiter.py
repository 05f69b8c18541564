"""The request budget: decides when each request is sent. `RateLimiter.failed` handles a 429.

After a 429, all requests of the budget wait for Retry-After plus jitter, and then are sent less
often. Further effects of a 429 of the service:

- `request_sender`: `RequestSender.call` repeats the request by the `RetryPolicy`. `call_once`,
  which polls and list sweeps use, does not repeat it.
- `watching.failure_handling`: the job is polled again by its schedule.
- `watching.list_sweeper`: a page of the job list is requested again. After the 20th 429 for the
  same page, the sweep fails.
- `api.protocol` creates the `RateLimitedError`, and `api.retry_after` parses Retry-After.

A 429 of a proxy is a `ProxyError`, and makes no other request wait. After a 429 of a storage,
`fetcher.patience` waits and repeats the request; `fetcher.storage_rules` recognises it. Times are
seconds of `loop.time()`.
"""

import asyncio
import math
from contextvars import Context
from random import Random
from typing import Final

from adepoll.common.tasks import has_loop
from adepoll.errors import (
    AnswerError,
    ClosedError,
    RateLimitedError,
    RequestError,
    TransportError,
)
from adepoll.throttling.estimators import Rate, Window
from adepoll.throttling.hosts import Caller, Host, Hosts, Sent
from adepoll.throttling.places import Places, UseBySemaphore
from adepoll.throttling.waiting_times import RetryPolicy


class RateLimiter:
    """The request budget of one client, or of several clients of the same organisation.

    Four limits can make a request wait:

    - The window limits the number of concurrent requests. If it is full, and a host sends no
      response for 3 s, the requests in flight do not count any more. While requests to another host
      wait, a slow host may use only half of the window.
    - The rate limits the requests per second, after a 429.
    - A gate stops requests until a Retry-After has passed: all requests after a 429, and the
      requests to one host after another response with a Retry-After.
    - In an outage of a host, only single probes are sent to it.

    If several clients (`AdeClient`) of one event loop get the same object, all their requests share
    these limits. A `RateLimiter` need not be closed.

    Attributes:
        retry: Retry policy of clients that have no policy of their own.
        hosts: The hosts to which requests are sent, and whether each is down.
        semaphores: By the semaphore of each watcher: the requests that hold a place of the
            semaphore, and the callers that wait for a place.
        gate_opens_at: Time at which the gate for all requests opens; in the past while it is open.
        retry_budget: Number of retries that are available now.
    """

    def __init__(
        self,
        *,
        max_rate: float | None = None,
        max_connections: int = 256,
        retry: RetryPolicy | None = None,
        rng: Random | None = None,
    ) -> None:
        """Create a request budget.

        Args:
            max_rate: Largest number of requests per second; None for no limit.
            max_connections: Largest number of concurrent requests.
            retry: Size and refill of the retry budget, and waits between the probes of an outage;
                None for the defaults.
            rng: Source of jitter, to make runs reproducible.

        Raises:
            ValueError: A number is out of range.
        """
        if max_rate is not None and not (math.isfinite(max_rate) and max_rate > 0):
            raise ValueError(f"max_rate must be a positive number or None, got {max_rate}")
        if not max_connections >= 1:
            raise ValueError(f"max_connections must be positive, got {max_connections}")
        self.retry = retry = retry or RetryPolicy()
        self._rng = rng = rng or Random()  # noqa: S311 - jitter, not a secret
        self._window = Window(max_connections)
        self._rate = Rate()
        self.hosts = Hosts(lambda: retry.waits(rng))
        self._min_interval = 0.0 if max_rate is None else 1.0 / max_rate
        self._interval = self._min_interval  # seconds between two requests
        self._next_slot = -math.inf  # time from which the interval allows the next request
        self.gate_opens_at = -math.inf
        # True if only the window can limit the next request to a host that is not down.
        self._only_window = False
        self._first_jitter = min(retry.base, retry.max_wait)
        self._jitter = self._first_jitter  # maximum seconds; grows with each consecutive 429
        self.retry_budget = retry.budget
        self.semaphores = UseBySemaphore()
        self._rate_held_back = False  # True if the rate delays the first waiting caller
        self._timer: asyncio.TimerHandle | None = None  # runs `_wake_waiting`
        self._silence_timer: asyncio.TimerHandle | None = None  # runs `_on_silence_timer`
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def in_flight(self) -> int:
        """Number of requests that wait for their response now."""
        return self._window.in_flight

    @property
    def window(self) -> int:
        """Largest number of concurrent requests now."""
        return self._window.size

    @property
    def rate_limit(self) -> float | None:
        """Estimate of the service's limit, in requests per second; None if no limit is known."""
        return self._rate.value

    @property
    def gate_closed_for(self) -> float:
        """Seconds until requests to all hosts may be sent again after a 429 or a Retry-After.

        0.0 if they may be sent now, or if the event loop is closed.
        """
        loop = self._loop
        now = math.inf if loop is None or loop.is_closed() else loop.time()
        gates = [host.gate_opens_at for host in [*self.hosts.holding_back]]
        return max(0.0, max(self.gate_opens_at, *gates, -math.inf) - now)

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """Make this request budget belong to the event loop `loop`; called by each client.

        Raises:
            ClosedError: The request budget has been used in another event loop.
        """
        self._loop = self._loop or loop
        if self._loop is not loop:
            raise ClosedError(
                "the rate limiter belongs to another event loop; create one for each loop"
            )

    def ready(self, host: Host) -> float | None:
        """Check whether a request to the host may be sent now.

        Return None if it must wait (`wait_for_turn`). Otherwise return the value for the argument
        `due` of `start`: the present time, or minus infinity if no rate limits the requests.
        """
        hosts = self.hosts
        if hosts.waiting or host.held_back or (hosts.woken and not self._has_room()):
            return None  # other callers are first
        if self._only_window and not host.holds_back:
            return None if self._window.full else -math.inf
        now = asyncio.get_running_loop().time()
        return now if self._due(now, host) <= now else None

    async def wait_for_turn(
        self, host: Host, callers: set[Caller] | None = None, *, give_up_at: float = math.inf
    ) -> float:
        """Wait until one more request may be sent. The caller must then count it with `start`.

        Args:
            host: The host to which the request will be sent.
            callers: A set to which this method adds a `Caller` object, and from which it removes
                the object at the end. With this object, other code can end the wait early
                (`Hosts.release`). None if no code needs that.
            give_up_at: Time from which this method does not wait any more if the host is down.

        Returns:
            The time from which the request may be sent. It is in the past if a timer fired late.
            Infinity if the wait ended early, so that the request may not be sent.
        """
        if (now := self.ready(host)) is not None:
            return now
        loop = asyncio.get_running_loop()
        caller = Caller(host, give_up_at, loop.create_future())
        callers = set() if callers is None else callers
        callers.add(caller)
        self.hosts.add(caller)
        if self._timer is None or host.holds_back:
            self._wake_waiting()
        if host.outage.is_on and give_up_at < math.inf:
            self.hosts.check_expired()
        try:
            due = await caller.turn
        except asyncio.CancelledError:
            if not caller.turn.cancelled():
                self.hosts.woken -= 1
            self._wake_waiting()
            raise
        finally:
            callers.discard(caller)
            host.waiting -= 1
        self.hosts.woken -= 1
        # The caller starts its request in this step of the loop. After that, wake the next caller.
        loop.call_soon(self._wake_waiting, context=Context())
        return due

    def start(self, host: Host, due: float, places: Places | None = None) -> Sent | None:
        """Count one request as sent now, and return its record.

        Return None if the request must wait again (`wait_for_turn`), because other requests were
        sent since `due` was determined.

        Args:
            host: The host to which the request is sent.
            due: The result of `ready` or `wait_for_turn`.
            places: Record of the semaphore that the request holds; None if it holds no semaphore.
        """
        if places is not None and places.only_host is not host and not places.allows(host):
            return None
        now = (self._loop or asyncio.get_running_loop()).time()
        if self._only_window and not host.holds_back:
            if self._window.full:
                return None
        elif now < self._due(now, host):
            return None
        else:
            self._only_window = not self._interval
        host.silent_since = host.silent_since if host.in_flight else now
        host.in_flight += 1
        if is_probe := host.outage.is_on:
            host.outage.probe_sent(now)
        if self._rate.sent(now, held_back=self._rate_held_back):
            self._interval = max(self._min_interval, self._rate.interval)
        self._rate_held_back = False
        if self._interval:
            # If a timer fired late, the next request may be earlier, but by one interval at most.
            self._next_slot = max(self._next_slot, due, now - self._interval) + self._interval
        self._window.sent(is_probe=is_probe)
        sent = Sent(now, self._window.epoch, host, is_probe, places)
        if places is not None:
            places.holders[sent] = None
            if places.waiting:
                places.check_later(sent)
        return sent

    def succeeded(self, sent: Sent) -> None:
        """Record a success, or an error such as a 404, which shows that the host works."""
        host, now = sent.host, self._loop.time() if self._loop is not None else sent.at
        self._ended(sent, now, responded=True, succeeded=True)
        if self.retry_budget < self.retry.budget:
            self.retry_budget = min(self.retry.budget, self.retry_budget + self.retry.refill)
        if sent.epoch >= self._window.restarted:
            self._jitter = self._first_jitter
            self._rate.granted += 1
        if host.outage.failures or host.outage.is_on:
            host.record_success()
        if self.hosts.waiting or self.hosts.holding_back:
            self._wake_waiting()

    def failed(self, error: RequestError, sent: Sent) -> None:
        """Record that the request failed; after a 429, make all requests wait.

        - A 429 makes all requests wait for Retry-After plus a random time (jitter), because the
          service limits the whole organisation. It also lowers the rate, and allows only one
          concurrent request at first.
        - Any other response with a Retry-After makes only the requests to its host wait.
        - Ten consecutive failures of other kinds, about at least three jobs, are an outage of their
          host. Soon after another outage, more failures are needed.
        - A malformed answer, or an error that is not temporary, does not count as a failure,
          because the host has responded.
        """
        is_answer = not isinstance(error, TransportError) and (
            isinstance(error, AnswerError) or not error.transient
        )
        if error.retry_after is None and is_answer:
            self.succeeded(sent)
            return
        host, now = sent.host, asyncio.get_running_loop().time()
        self._only_window = False
        if isinstance(error, RateLimitedError):
            self._throttled(error.retry_after, sent, now)
        else:
            self._ended(sent, now, responded=not isinstance(error, TransportError))
            if (wait := error.retry_after) is not None:
                wait += self._rng.uniform(0, _longest_jitter(wait))
                host.gate_opens_at = max(host.gate_opens_at, now + wait)
                self.hosts.hold_back(host)
            if is_answer:
                host.record_success()
            elif host.record_failure(error, now, is_probe=sent.is_probe):
                self._begin_outage(host)
        if self.hosts.waiting or self.hosts.holding_back:
            self._wake_waiting()

    def _throttled(self, retry_after: float | None, sent: Sent, now: float) -> None:
        """Record a 429: all requests wait until Retry-After plus jitter has passed.

        The rate is lowered, and only one request may be in flight at first. If the request was sent
        before the last 429 or outage, only the wait can change.
        """
        # False if the request was sent before the last 429 or outage. Then it shows nothing new.
        is_new = sent.epoch >= self._window.restarted
        if is_new:
            self._jitter = min(self.retry.max_wait, self._jitter * self.retry.factor)
        wait, jitter = 0.0, self._jitter
        if retry_after is not None:
            wait, jitter = retry_after, min(jitter, _longest_jitter(retry_after))
        self.gate_opens_at = max(self.gate_opens_at, now + wait + self._rng.uniform(0, jitter))
        self._ended(sent, now, responded=True)
        if is_new:
            self._window.restart()
            self._rate.throttled(now, sent_at=sent.at, gate_opens_at=self.gate_opens_at)
            self._interval = max(self._min_interval, self._rate.interval)
        else:
            self._rate.gate_closed_until(self.gate_opens_at)

    def withdrawn(self, sent: Sent) -> None:
        """Record a request whose end says nothing about the service, as after a cancellation."""
        now = asyncio.get_running_loop().time() if has_loop() else sent.at
        self._ended(sent, now, responded=False)
        if has_loop():
            self._wake_waiting()

    def _ended(self, sent: Sent, now: float, *, responded: bool, succeeded: bool = False) -> None:
        """Count a request as ended; `responded` is True if the host has sent a response."""
        host, places = sent.host, sent.places
        host.in_flight -= 1
        if responded:
            host.silent_since = now
        if sent.is_probe:
            host.outage.probe_ended(now)
        self._window.ended(sent.epoch, succeeded=succeeded, is_probe=sent.is_probe)
        if places is not None:
            del places.holders[sent]
            if places.waiting:
                places.wake_first()

    def take_retry(self) -> bool:
        """Remove one retry from the retry budget; return False if the budget is used up."""
        if self.retry_budget < 1:
            return False
        self.retry_budget -= 1
        return True

    def _begin_outage(self, host: Host) -> None:
        """Begin an outage of a host: its callers wait, and only single probes are sent to it."""
        self.hosts.hold_back(host)
        # The requests in flight may hang. In a new epoch, they take no room from other requests.
        self._window.restart()
        self.hosts.check_expired()

    def _due(self, now: float, host: Host | None = None) -> float:
        """Return the time from which the next request may be sent.

        It is infinity if no request may be sent before the response to another request arrives.

        Args:
            now: Present time.
            host: The host of the request. None for a request to any host that works: a host whose
                `holds_back` is False.
        """
        is_probe = host is not None and host.outage.is_on
        if self._window.is_at_limit if is_probe else self._window.full:
            return math.inf
        due = self.gate_opens_at
        if host is not None:
            is_slow = host.holds_back and not is_probe and now < host.slow_until
            if is_slow and host.in_flight >= max(1, self._window.size // 2):
                return math.inf
            due = max(due, host.gate_opens_at, host.outage.probe_at)
        return max(due, self._next_slot) if self._interval else due

    def _has_room(self) -> bool:
        """Return True if one more request may be sent in addition to those of all woken callers.

        Always False while a rate limits the requests.
        """
        # A busy loop always has a woken caller. If that made each new caller wait, the queue would
        # never become empty.
        return not self._interval and self.hosts.woken < self._window.room

    def _wake_waiting(self, due_at: float = math.inf) -> None:
        """Wake the callers that may send their requests now.

        If no caller may, set a timer for the time at which the next caller may send its request.

        Args:
            due_at: Time at which the timer was due, if the timer calls this method; infinity in any
                other call.
        """
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        hosts = self.hosts
        self._drop_done()
        if hosts.woken or not (hosts.waiting or hosts.holding_back):
            return
        loop = asyncio.get_running_loop()
        now, next_due = loop.time(), math.inf
        self._update_hosts(loop, now)
        # Without a rate, wake as many callers as there is room for. If only one caller was woken at
        # a time, a busy loop would never reach the end of the queue.
        room = 1 if self._interval else self._window.room
        woken = 0
        for host in hosts.holding_back:  # before the other callers, because probes are few
            if (due := self._due(now, host)) <= now:
                woken += hosts.wake_first(host.held_back, 1, min(due_at, now))
            elif host.held_back:
                next_due = min(next_due, due)
        if hosts.waiting:
            if (due := self._due(now)) <= now:
                woken += hosts.wake_first(hosts.waiting, room - woken, min(due_at, now))
            else:
                next_due = min(next_due, due)
        if not woken and next_due < math.inf:
            self._set_timer(loop, next_due, now)

    def _drop_done(self) -> None:
        """Forget the callers that wait no longer, and the timer that only they needed."""
        hosts = self.hosts
        if hosts.waiting or hosts.holding_back:
            hosts.drop_done()
        if self._silence_timer is not None and not hosts.waiting:
            self._silence_timer.cancel()
            self._silence_timer = None

    def _update_hosts(self, loop: asyncio.AbstractEventLoop, now: float) -> None:
        """Update which hosts have their own queue: those that are down, slow or ask for a pause.

        If the window is full, and a host has sent no response for 3 s, the requests in flight no
        longer count against the size of the window. If requests to another host wait, the silent
        host also gets its own queue, because it is slow.
        """
        hosts = self.hosts
        if hosts.let_go_recovered(now):
            self._window.restart()  # otherwise, all waiting requests would be sent at the same time
        if not (self._window.full and hosts.waiting):
            return
        silent, again = hosts.silent(now)
        if silent is not None:
            if hosts.delays_others(silent):
                silent.slow_down(now)
                hosts.hold_back(silent)
            self._window.begin_epoch()
            silent.released_at = now
        elif again < math.inf and self._silence_timer is None:
            self._silence_timer = loop.call_at(again, self._on_silence_timer, context=Context())

    def _on_silence_timer(self) -> None:
        """Check whether a host is silent; responses can have arrived since the timer was set."""
        self._silence_timer = None
        self._wake_waiting()

    def _set_timer(self, loop: asyncio.AbstractEventLoop, due: float, now: float) -> None:
        """Call `_wake_waiting` at the time `due`."""
        if self.hosts.waiting and due == self._next_slot and self._interval > self._min_interval:
            self._rate_held_back = True
        # A timer can fire slightly too early. The minimum wait prevents a busy loop.
        wait = max(due - now, _MIN_WAIT)
        self._timer = loop.call_later(wait, self._wake_waiting, due, context=Context())


def _longest_jitter(retry_after: float) -> float:
    """Return the maximum number of seconds that are added at random to a Retry-After."""
    return max(_MIN_JITTER, _JITTER_SHARE * retry_after)


_MIN_JITTER: Final = 0.1  # maximum seconds that are added to a short Retry-After
_JITTER_SHARE: Final = 0.1  # maximum that is added to a longer Retry-After, as a share of it
_MIN_WAIT: Final = 4e-9  # seconds of the shortest timer
