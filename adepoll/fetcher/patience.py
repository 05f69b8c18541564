"""Decides how long failed requests to a storage are retried, and detects that a storage is down.

`TransferRetries` counts the failures of one transfer. `StorageOrigin` counts the failures of all
transfers from one storage. All times in this module are seconds of `loop.time()`.
"""

import asyncio
import logging
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from random import Random
from typing import Final, TypeVar
from urllib.parse import urlsplit

from adepoll.common.redaction import LONGEST_URL
from adepoll.errors import (
    RateLimitedError,
    RequestError,
    ResultError,
    ResultServerError,
    ResultTransferError,
    ServerError,
    ServerTimeoutError,
    TransportError,
)
from adepoll.fetcher.statistics import Counters
from adepoll.throttling.waiting_times import RetryPolicy

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

# A storage counts as down after this number of failed requests in a row, of any transfers.
_FAILURES_OF_OUTAGE: Final = 3
_MAX_PROBE_WAIT: Final = 5.0  # maximum seconds from a failed probe to the next one
# Seconds. A Retry-After of this length or less never ends a transfer before its last attempt.
_SHORT_RETRY_AFTER: Final = 5.0
# Seconds. During a longer Retry-After, other transfers send requests again after this time, because
# the storage can be mistaken.
_MAX_SHARED_RETRY_AFTER: Final = 300.0
_CHECK_EVERY: Final = 1.0  # a waiting request checks every second whether the fetcher was closed
_MAX_ORIGINS: Final = 1_000
_PROGRESS: Final = 2**20  # new bytes after which earlier failures of a transfer are forgotten


# Errors of the API that a failing network, or a service that is down or busy, can explain.
_API_OUTAGES: Final = (TransportError, ServerError, ServerTimeoutError, RateLimitedError)


def is_outage(error: ResultError | RequestError) -> bool:
    """Return whether the cause can be a failing network, or a storage or API that is down."""
    if isinstance(error, RequestError):
        return isinstance(error, _API_OUTAGES) and error.transient
    if isinstance(error, ResultTransferError):
        return not error.is_object_at_fault
    return isinstance(error, ResultServerError)


class StorageOrigin:
    """Detects that one storage is down, and makes requests wait until it may be up again.

    A storage counts as down after three failed requests in a row. (For the API, `throttling.outage`
    has another rule.) While the storage is down, only one request at a time is sent: the probe. The
    other requests wait until the probe has ended.

    Attributes:
        failures: Number of failed requests in a row. Simultaneous failures count as one.
    """

    def __init__(self, retry: RetryPolicy, rng: Random) -> None:
        """Create the state of a storage that is not down.

        Args:
            retry: Defines how long to wait between two probes.
            rng: Source of the random part of each wait.
        """
        self.failures = 0
        self._retry = retry
        self._rng = rng
        self._waits: Iterator[float]  # seconds before each next probe of the current outage
        self._last_failure = -math.inf  # time of the last counted failure
        self._opens_at = -math.inf  # no request is sent before this time
        # Status and message of the response with the latest Retry-After, and the URL of its host.
        # (The error itself would keep the frames of its traceback in memory.)
        self._busy: tuple[int, str, str] | None = None
        # Time until which that response holds requests back.
        self._busy_until = -math.inf
        self._probe: asyncio.Event | None = None  # set when the current probe has ended

    @asynccontextmanager
    async def request(
        self, retries: "TransferRetries", *, job_id: str
    ) -> AsyncGenerator[None, None]:
        """Wait until a request may be sent to the storage, and record how the request ends.

        The code in the ``async with`` block sends the request. While the storage is down, one
        request at a time is sent, which is called the probe. The other requests wait until the
        probe has ended. If the probe fails, all requests wait for up to 5 seconds, and one of them
        is the next probe. From the time `retries.give_up_at` on, a request no longer waits for
        the probe of another transfer, so that its transfer ends with the error of its own request.

        If the storage has sent a Retry-After, a request waits until it ends. There is an exception:
        the Retry-After is longer than 5 seconds, and ends after the patience of the transfer. Then
        the request does not wait for it. If the storage is down, this method raises. Otherwise the
        request is sent, because the Retry-After may concern only one object.

        Args:
            retries: Limits the failures of the transfer.
            job_id: The job, for errors.

        Raises:
            ResultServerError: The storage is down, and `retries.give_up_at` is before the end of
                its Retry-After. No request was sent.
            ClosedError: The fetcher was closed.
        """
        is_probe = await self._wait_for_turn(retries, job_id)
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

    async def _wait_for_turn(self, retries: "TransferRetries", job_id: str) -> bool:
        """Wait until a request may be sent, as `request` describes.

        Return True if the request is the probe: the only request while the storage is down.
        """
        time = asyncio.get_running_loop().time
        give_up_at = retries.give_up_at
        while True:
            retries.check_open()
            now = time()
            busy = self._busy
            is_down = self.failures >= _FAILURES_OF_OUTAGE
            opens_at = self._opens_at
            if not ends_too_late(self._busy_until, now, give_up_at):
                opens_at = max(opens_at, self._busy_until)
            elif is_down and busy is not None:
                status, detail, url = busy
                raise ResultServerError(
                    job_id=job_id,
                    status=status,
                    detail=detail,
                    url=url,
                    retry_after=self._busy_until - now,
                )
            if now < opens_at:
                await asyncio.sleep(min(opens_at - now, _CHECK_EVERY))
            elif not is_down or now >= give_up_at:
                return False
            elif self._probe is None:
                self._probe = asyncio.Event()
                return True
            else:
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(give_up_at - now, _CHECK_EVERY)):
                        await self._probe.wait()

    def _record(self, error: ResultError | None, started: float) -> None:
        """Record how a request that began at `started` ended; `error` is None if it succeeded."""
        if error is None or not is_outage(error):
            self.failures = 0
            return
        now = asyncio.get_running_loop().time()
        if isinstance(error, ResultServerError) and error.retry_after is not None:
            self._record_retry_after(error, error.retry_after, now)
        if started < self._last_failure:
            return
        self._last_failure = now
        self.failures += 1
        if self.failures == _FAILURES_OF_OUTAGE:
            _log.info("a storage is down: %s", error)
            self._waits = self._retry.waits(self._rng)
        if self.failures >= _FAILURES_OF_OUTAGE:
            self._opens_at = max(self._opens_at, now + min(next(self._waits), _MAX_PROBE_WAIT))

    def _record_retry_after(self, error: ResultServerError, wait: float, now: float) -> None:
        """Record that the storage has asked, by a Retry-After, to wait for `wait` seconds."""
        until = now + min(wait, _MAX_SHARED_RETRY_AFTER)
        if until <= self._busy_until:
            return
        if now >= self._busy_until and wait > _SHORT_RETRY_AFTER:
            _log.info("a storage asks to wait: %s", error)
        parts = urlsplit(error.url)
        self._busy = error.status, error.detail, f"{parts.scheme}://{parts.netloc}/"
        self._busy_until = until


def ends_too_late(until: float, now: float, give_up_at: float) -> bool:
    """Return whether a Retry-After lasts longer than the patience of a transfer.

    A Retry-After of at most 5 seconds never does. `until` is the time at which it ends.
    """
    return until > give_up_at and until - now > _SHORT_RETRY_AFTER


class StorageOrigins:
    """The storages from which one fetcher has requested results: one `StorageOrigin` per host.

    At most 1,000 hosts are kept, those that were used last: the service chooses the hosts, and a
    server fetches results for months.
    """

    def __init__(self, retry: RetryPolicy, rng: Random) -> None:
        """Create an empty collection of storages."""
        self._retry = retry
        self._rng = rng
        self._origins: dict[str, StorageOrigin] = {}  # the host that was used last is the last one

    def of(self, url: str) -> StorageOrigin:
        """Return the `StorageOrigin` of the host and port of a URL.

        All malformed URLs have the same one, and so have all URLs that are too long.
        """
        name = ""
        if len(url) <= LONGEST_URL:  # `urlsplit` keeps the last URLs in memory
            with suppress(ValueError):
                name = urlsplit(url).netloc.rpartition("@")[2].lower()
        origin = self._origins.pop(name, None)
        if origin is None:
            origin = StorageOrigin(self._retry, self._rng)
        self._origins[name] = origin
        if len(self._origins) > _MAX_ORIGINS:
            del self._origins[next(iter(self._origins))]
        return origin


class TransferRetries:
    """Limits the failures of one transfer. All connections of the transfer share one object.

    A transfer is given up if two things are true: it has failed as often as the retry policy
    allows, and it has made no progress for `patience` seconds. Failed requests of other transfers
    from the same storage count, too. Each new mebibyte is progress: then the failures and the time
    are counted from zero again. A transfer is given up immediately if the storage asks for a longer
    wait than the patience allows.

    `patience` applies only to failures that an outage of the storage or the network can explain.
    Other failures are a response that is not a result, or an object that is incomplete. They are
    retried as often as the policy allows, whatever the time and the progress.

    A transfer can also request the API: for a new URL, or for a result that the API sends. The
    client repeats such a request as often as the policy allows. If the API is down after that, the
    transfer waits and goes on until its patience ends.

    Attributes:
        counters: Counts the resumptions.
        check_open: Function that raises `ClosedError` if the fetcher was closed.
        origin: The storage that was requested last; None before the first request.
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
        """Create the state of a transfer that has not begun.

        Args:
            retry: How often and when failed requests are repeated. With `attempts=1`, no request is
                repeated, whatever the patience.
            rng: Source of the random part of each wait.
            patience: Seconds without progress after which the transfer is given up.
            check_open: Function that raises `ClosedError` if the fetcher was closed.
            counters: Counts the resumptions; None for new counters.
        """
        self.counters = counters or Counters()
        self.check_open = check_open
        self.origin: StorageOrigin | None = None
        self._retry = retry
        self._rng = rng
        self._patience = patience if retry.attempts > 1 else 0.0
        # Seconds before each next attempt. None if there was no failure after the last progress.
        self._waits: Iterator[float] | None = None
        self._failures = 0  # number of failures after the last progress
        self._faults = 0  # failures in the whole transfer that an outage cannot explain
        self._last_failure = -1.0  # time of the last counted failure
        self._resume_at = 0.0  # time of the next attempt
        self._new_bytes = 0  # bytes received after the last progress
        # Time from which `patience` counts; None if there was no failure after the last progress.
        self._patient_since: float | None = None

    @property
    def give_up_at(self) -> float:
        """Time at which the patience ends, unless the transfer makes progress before."""
        since = self._patient_since
        if since is None:
            since = asyncio.get_running_loop().time()
        return since + self._patience

    def asks_for_too_long_a_wait(self, error: ResultError) -> bool:
        """Return whether an error has a Retry-After that is longer than the patience allows."""
        if not isinstance(error, ResultServerError) or error.retry_after is None:
            return False
        now = asyncio.get_running_loop().time()
        return ends_too_late(now + error.retry_after, now, self.give_up_at)

    async def until_answered(self, request: Callable[[], Awaitable[_T]]) -> _T:
        """Request the API with the function `request`; return what the function returns.

        If the API is down, wait and call the function again, until the patience ends.

        Raises:
            RequestError: The API was down until the patience ended, or has refused the request.
            ClosedError: The fetcher was closed.
        """
        while True:
            started = asyncio.get_running_loop().time()
            try:
                return await request()
            except RequestError as error:
                if not is_outage(error):
                    raise
                await self.wait_or_raise(error, started=started)

    async def wait_or_raise(
        self,
        error: ResultError | RequestError,
        *,
        started: float | None = None,
        received: int = 0,
    ) -> None:
        """Wait until the next attempt may start; raise `error` if the transfer must be given up.

        Simultaneous failures of several connections count as one: if a request began before the
        last counted failure, its own failure is not counted.

        Args:
            error: The error of the failed request.
            started: Time at which the failed request began; None if the failure always counts.
            received: Number of new bytes that the failed request received.
        """
        self.check_open()
        if not error.transient:
            raise error
        now = asyncio.get_running_loop().time()
        started = now if started is None else started
        self._record_progress(received)
        if self._patient_since is None:
            self._patient_since = now if received else min(started, now)
        if started >= self._last_failure:
            self._failures += 1
            if isinstance(error, RequestError):  # the client has repeated the request already
                self._failures = max(self._failures, self._retry.attempts)
            self._faults += not is_outage(error)
            self._last_failure = now
            self._waits = self._waits or self._retry.waits(self._rng)
            self._resume_at = now + next(self._waits)
        if self._must_give_up(now):
            raise error
        if isinstance(error, ResultError) and self.asks_for_too_long_a_wait(error):
            raise error
        if isinstance(error, ResultServerError) and error.retry_after is not None:
            self._resume_at = max(self._resume_at, now + error.retry_after)
        _log.debug("attempt %d failed, will retry: %s", self._failures, error)
        while (left := self._resume_at - asyncio.get_running_loop().time()) > 0:
            await asyncio.sleep(min(left, _CHECK_EVERY))
            self.check_open()
        self.counters.resumed += 1

    def _record_progress(self, received: int) -> None:
        """Count `received` new bytes; after each mebibyte, count failures from zero again."""
        self._new_bytes += received
        if self._new_bytes >= _PROGRESS:
            self._new_bytes = 0
            self._failures = 0
            self._patient_since = None
            self._waits = None

    def _must_give_up(self, now: float) -> bool:
        """Return True if the transfer has failed too often.

        Failures that an outage can explain count only after the patience has ended.
        """
        if self._faults >= self._retry.attempts:
            return True
        failures = max(self._failures, self.origin.failures if self.origin is not None else 0)
        return failures >= self._retry.attempts and now >= self.give_up_at
