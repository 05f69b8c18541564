"""How long a transfer is retried, and what all transfers from one storage know of its outages.

Imports errors and throttling. Times are seconds of `loop.time()`.
"""

import asyncio
import logging
import math
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from random import Random
from typing import Final
from urllib.parse import urlsplit

from adepoll.errors import (
    ResultError,
    ResultServerError,
    ResultTransferError,
)
from adepoll.fetcher.statistics import Counters
from adepoll.throttling.retry_policy import RetryPolicy

_log = logging.getLogger(__name__)

_FAILURES_OF_OUTAGE: Final = 3  # in a row, of any transfers from one origin
_MAX_PROBE_WAIT: Final = 5.0  # seconds
_CHECK_EVERY: Final = 1.0  # seconds, whether the fetcher was closed
_PROGRESS: Final = 2**20  # bytes


def is_outage(error: ResultError) -> bool:
    """Return whether the error can be that of a storage that is down, or of the network."""
    if isinstance(error, ResultTransferError):
        return not error.is_object_at_fault
    return isinstance(error, ResultServerError)


class StorageOrigin:
    """What is known of one storage: whether it is down, and when it may be requested again.

    After three failed requests in a row, only one request at a time is sent, as a probe. The others
    wait for its outcome.

    Attributes:
        failures: Failed requests in a row; those that ran at the same time count as one.
    """

    def __init__(self, retry: RetryPolicy, rng: Random) -> None:
        """`retry` has the waits between two probes."""
        self.failures = 0
        self._retry = retry
        self._rng = rng
        self._waits: Iterator[float]  # of the outage
        self._last_failure = -math.inf
        self._opens_at = -math.inf
        self._probe: asyncio.Event | None = None  # set when the running probe has ended

    @asynccontextmanager
    async def request(self, retries: "TransferRetries") -> AsyncGenerator[None, None]:
        """Wait until a request of this transfer may be sent, and record how it ends.

        When the patience of the transfer has ended, the request is sent without waiting for a
        probe, so that the transfer fails with an error of its own. A Retry-After is always awaited.
        """
        is_probe = await self._wait_for_turn(retries.give_up_at, retries.check_open)
        started = asyncio.get_running_loop().time()
        try:
            yield
        except ResultError as error:
            self._record(error, started)
            raise
        else:
            self._record(None, started)
        finally:
            if is_probe and self._probe is not None:
                self._probe.set()
                self._probe = None

    async def _wait_for_turn(self, give_up_at: float, check_open: Callable[[], None]) -> bool:
        """Return whether the request is a probe, for which others wait."""
        time = asyncio.get_running_loop().time
        while True:
            check_open()
            now = time()
            if now < self._opens_at:
                await asyncio.sleep(min(self._opens_at - now, _CHECK_EVERY))
            elif self.failures < _FAILURES_OF_OUTAGE or now >= give_up_at:
                return False
            elif self._probe is None:
                self._probe = asyncio.Event()
                return True
            else:
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(give_up_at - now, _CHECK_EVERY)):
                        await self._probe.wait()

    def _record(self, error: ResultError | None, started: float) -> None:
        if error is None or not is_outage(error):
            self.failures = 0
            return
        now = asyncio.get_running_loop().time()
        if isinstance(error, ResultServerError) and error.retry_after is not None:
            self._opens_at = max(self._opens_at, now + error.retry_after)
        if started < self._last_failure:
            return
        self._last_failure = now
        self.failures += 1
        if self.failures == _FAILURES_OF_OUTAGE:
            _log.info("a storage is down: %s", error)
            self._waits = self._retry.waits(self._rng)
        if self.failures >= _FAILURES_OF_OUTAGE:
            self._opens_at = max(self._opens_at, now + min(next(self._waits), _MAX_PROBE_WAIT))


class StorageOrigins:
    """The origins of all results of one fetcher."""

    def __init__(self, retry: RetryPolicy, rng: Random) -> None:
        """Start without origins."""
        self._retry = retry
        self._rng = rng
        self._origins: dict[str, StorageOrigin] = {}

    def of(self, url: str) -> StorageOrigin:
        """Return the origin of a URL; all malformed URLs have the same."""
        try:
            name = urlsplit(url).netloc.rpartition("@")[2].lower()
        except ValueError:
            name = ""
        origin = self._origins.get(name)
        if origin is None:
            origin = self._origins[name] = StorageOrigin(self._retry, self._rng)
        return origin


class TransferRetries:
    """Limits the failures of one transfer; all its connections share one object.

    A transfer is given up when it has failed as often as the retry policy allows, and has made no
    progress for `patience` seconds. Failed probes by other transfers from the same origin count as
    its own. A new mebibyte is progress, and makes the transfer as patient as at its beginning.

    Patience is for storages and networks that are down. A response that is not a result, or an
    object that is incomplete, is retried only as often as the policy allows.

    Attributes:
        counters: Counts the resumptions.
        check_open: Function that raises if retrying is pointless.
        origin: The storage that was requested last.
    """

    def __init__(
        self,
        retry: RetryPolicy,
        rng: Random,
        *,
        patience: float,
        check_open: Callable[[], None],
        counters: Counters | None = None,
    ) -> None:
        """`patience` is in seconds; `RetryPolicy(attempts=1)` allows no retry in any case."""
        self.counters = counters or Counters()
        self.check_open = check_open
        self.origin: StorageOrigin | None = None
        self._retry = retry
        self._rng = rng
        self._patience = patience if retry.attempts > 1 else 0.0
        self._waits: Iterator[float] | None = None  # before the next attempts, until progress
        self._failures = 0  # since the last progress
        self._faults = 0  # failures in total that are not an outage
        self._last_failure = -1.0
        self._resume_at = 0.0
        self._new_bytes = 0  # since the last progress
        self._patient_since: float | None = None  # time of the first failure since then

    @property
    def give_up_at(self) -> float:
        """When the patience ends if there is no progress from now on."""
        since = self._patient_since
        if since is None:
            since = asyncio.get_running_loop().time()
        return since + self._patience

    async def wait_or_raise(
        self,
        error: ResultError,
        *,
        started: float,
        received: int,
    ) -> None:
        """Wait until the next attempt may start, or raise the error.

        Simultaneous failures of several connections count as one: the failure of a request that
        started before the last failure is not counted again.

        Args:
            error: The error of the failed request.
            started: When that request started.
            received: New bytes that it received.
        """
        self.check_open()
        if not error.transient:
            raise error
        now = asyncio.get_running_loop().time()
        self._record_progress(received)
        if self._patient_since is None:
            self._patient_since = now if received else min(started, now)
        if started >= self._last_failure:
            self._failures += 1
            self._faults += not is_outage(error)
            self._last_failure = now
            self._waits = self._waits or self._retry.waits(self._rng)
            self._resume_at = now + next(self._waits)
        if self._must_give_up(now):
            raise error
        if isinstance(error, ResultServerError) and error.retry_after is not None:
            self._resume_at = max(self._resume_at, now + error.retry_after)
        _log.debug("attempt %d failed, will retry: %s", self._failures, error)
        while (left := self._resume_at - asyncio.get_running_loop().time()) > 0:
            await asyncio.sleep(min(left, _CHECK_EVERY))
            self.check_open()
        self.counters.resumed += 1

    def _record_progress(self, received: int) -> None:
        self._new_bytes += received
        if self._new_bytes >= _PROGRESS:
            self._new_bytes = 0
            self._failures = 0
            self._patient_since = None
            self._waits = None

    def _must_give_up(self, now: float) -> bool:
        if self._faults >= self._retry.attempts:
            return True
        failures = max(self._failures, self.origin.failures if self.origin is not None else 0)
        return failures >= self._retry.attempts and now >= self.give_up_at
