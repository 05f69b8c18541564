"""Host: knows whether one host of the service is down, and which callers wait for this host.

v1 jobs and v2 jobs can be at different hosts. If one of them is down, the requests to the other
host go on. Imports errors and estimators. Times are seconds of `loop.time()`.
"""

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

from attrs import define

from adepoll.errors import AnswerTimeoutError, ConnectionFailedError, ProxyError, RequestError
from adepoll.throttling.estimators import Outage

_log = logging.getLogger(__name__)


@define(eq=False)
class Caller:
    """A caller that waits until it may send a request.

    Attributes:
        host: Host of the request.
        give_up_at: Time from which the caller does not wait any more if the host is down.
        turn: Its result is the time from which the request may be sent. The result is infinity if
            `RateLimiter.release` has ended the wait. It is cancelled if the caller was cancelled.
    """

    host: "Host"
    give_up_at: float
    turn: asyncio.Future[float]


class Host:
    """One host of the service.

    Attributes:
        outage: Whether the host is down, and when the next probe may be sent.
        held_back: Callers that wait while the host is down; the first has waited longest. Some may
            have been cancelled or released.
    """

    def __init__(self, waits: Callable[[], Iterator[float]]) -> None:
        """Create a host that is not down.

        Args:
            waits: Returns a new endless iterator over the seconds to wait before each probe.
        """
        self.outage = Outage(waits)
        self.held_back: deque[Caller] = deque()
        self._last_failure: RequestError | None = None
        self._reported_at = -math.inf  # time of the last log that the host does not respond

    @property
    def last_failure(self) -> RequestError | None:
        """The last failure, if `outage` has counted failures since the last success; or None."""
        return self._last_failure if self.outage.failures else None

    def record_failure(self, error: RequestError, now: float, *, is_probe: bool) -> bool:
        """Record a failed request; return True if an outage begins with it."""
        outage = self.outage
        is_first = not outage.failures
        self._last_failure = error
        begins = outage.failed(now, is_probe=is_probe, job_id=error.job_id)
        if begins:
            _log.warning("%d requests in a row failed, the last with: %s", outage.failures, error)
        elif (
            is_first
            and isinstance(error, ConnectionFailedError | ProxyError | AnswerTimeoutError)
            and now >= self._reported_at + _REPORT_EVERY
        ):
            # With a wrong address, ten failures can take minutes. So log the first one, too.
            self._reported_at = now
            _log.warning("the service does not respond, trying again: %s", error)
        return begins

    def record_success(self) -> bool:
        """Record an answer; return True if an outage ends with it."""
        failures = self.outage.failures
        if ends := self.outage.succeeded():
            _log.warning("the service answers again, after %d failures", failures)
        return ends


@define
class Sent:
    """A request that was started with `RateLimiter.start`.

    Attributes:
        at: Loop time at which it was sent.
        epoch: Number of restarts of the window (`Window.epoch`) before it was sent.
        host: The host to which it was sent.
        is_probe: True if the host was down when the request was sent.
    """

    at: float
    epoch: int
    host: Host
    is_probe: bool


class Hosts:
    """The hosts to which the requests of one budget are sent.

    Attributes:
        down: The hosts that are down. The owner of the budget adds and removes them.
    """

    def __init__(self, waits: Callable[[], Iterator[float]]) -> None:
        """Start without hosts; each `Host` is created with `waits`."""
        self.down: list[Host] = []
        self._waits = waits
        self._by_origin: dict[str, Host] = {}

    def get(self, origin: str) -> Host:
        """Return the host with that scheme, name and port: the same object for each call."""
        if (host := self._by_origin.get(origin)) is None:
            host = self._by_origin[origin] = Host(self._waits)
        return host

    @property
    def worst(self) -> Host | None:
        """The host with most counted failures since its last success; None if no host is known."""
        hosts = self._by_origin.values()
        return max(hosts, key=lambda host: host.outage.failures, default=None)


_REPORT_EVERY: Final = 60.0  # seconds between two logs that a host does not respond
