"""Sends the requests of one client within a request budget, and repeats failed requests.

`call` repeats a request after a temporary error; `call_once` sends it only once. Both send it once
more if its connection was stale.

After a 429, `RateLimiter.failed` makes all requests of the budget wait for Retry-After plus jitter,
and lowers their rate. Then `call` sends the request again. `call_once` does not: a poll is repeated
by the schedule of its job, and a request for a page of the list by `watching.list_sweeper`.
`rate_limiter` has the complete list of effects.
"""

import asyncio
import logging
import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from random import Random
from typing import Final, TypeAlias, TypeVar

from adepoll.errors import (
    AuthenticationError,
    ClosedError,
    JobNotFoundError,
    PaymentRequiredError,
    PermissionDeniedError,
    RateLimitedError,
    RequestError,
    ServiceDownError,
    UnprocessableError,
)
from adepoll.errors.frames import without_frames
from adepoll.throttling.hosts import Caller, Host, Sent
from adepoll.throttling.places import NO_SEMAPHORE, SemaphoreUse, error_of_ended
from adepoll.throttling.rate_limiter import RateLimiter
from adepoll.throttling.statistics import ClientStats
from adepoll.throttling.waiting_times import RetryPolicy

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

Send: TypeAlias = Callable[[Sent], Awaitable[_T]]
"""Sends one request. The argument is the record of this request: the function writes the time of
the last received bytes to its `heard_at`."""


class RequestSender:
    """Sends requests when the request budget allows it, repeats failed ones, and counts requests.

    Each client has one `RequestSender`. Several senders can share one `RateLimiter`.
    """

    def __init__(
        self,
        limiter: RateLimiter,
        *,
        retry: RetryPolicy | None = None,
        rng: Random | None = None,
        outage_wait: float = math.inf,
    ) -> None:
        """Create a sender; no request is sent yet.

        Args:
            limiter: The request budget.
            retry: How often and when failed requests are repeated; None for the policy of the
                request budget.
            rng: Source of jitter.
            outage_wait: Seconds for which `call` and `turn` wait while the service is down.
        """
        self._limiter = limiter
        self._retry = retry or limiter.retry
        self._rng = rng or Random()  # noqa: S311 - jitter, not a secret
        self._outage_wait = outage_wait
        self._key_works = False  # True after an answer has shown that the key is accepted
        # Event loop of the first request. None if no request was sent yet, or after `close`.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: set[Caller] = set()  # callers that wait for their turn
        self._only_host = limiter.hosts.get("")  # for requests without a `host`
        self._closed = asyncio.Event()
        self._requests = self._retries = self._throttled = self._failures = 0
        self._refused: int | None = None

    async def call(self, send: Send[_T], host: Host | None = None) -> _T:
        """Send a request, and repeat it after temporary errors, as the `RetryPolicy` says.

        If the key has worked before, a refusal (401, 403) counts as a temporary error. A request is
        not repeated after a `ServiceDownError`.

        Args:
            send: Sends the request once.
            host: The host to which it is sent; None if the service has one host.

        Raises:
            RequestError: The last attempt has failed with this error.
            ServiceDownError: The host is down, and `outage_wait` seconds have passed since the call
                began.
            ClosedError: `close` was called, or another event loop was used before.
        """
        attempt = 0
        waits = None
        started = asyncio.get_running_loop().time()
        while True:
            try:
                return await self.call_once(send, host, give_up_at=started + self._outage_wait)
            except ServiceDownError:
                raise
            except RequestError as error:
                attempt += 1
                if attempt >= self._retry.attempts:
                    raise
                if not (self._may_retry(error) and self._limiter.take_retry()):
                    raise
                _log.debug("attempt %d failed, will retry: %s", attempt, error)
            waits = waits or self._retry.waits(self._rng)
            await self._pause(next(waits))
            self._retries += 1

    async def call_once(
        self,
        send: Send[_T],
        host: Host | None = None,
        semaphore: AbstractAsyncContextManager[object] | None = None,
        *,
        job_id: str | None = None,
        give_up_at: float = math.inf,
    ) -> _T:
        """Send a request once, when the request budget allows it. Raises the errors of `call`.

        If the request was sent on a stale connection (`Sent.is_stale`), it is sent once more on a
        new connection, when the request budget allows that. A stale connection shows nothing about
        the service: the server may close a connection that it has kept open at any time, also when
        the next request arrives (RFC 9112, section 9.3.1).

        Args:
            send: Sends the request.
            host: The host to which it is sent; None if the service has one host.
            semaphore: Semaphore to hold during the request, but not while the request waits for the
                request budget. If requests to another host wait for the semaphore while `host` does
                not respond, this request can be ended early with AnswerTimeoutError; see `places`.
                None for no semaphore.
            job_id: Id of the job that the request is about, for AnswerTimeoutError; None for a
                request without a job.
            give_up_at: Time of the event loop. From this time on, ServiceDownError is raised
                instead of waiting for a host that is down.
        """
        limiter, loop, host = self._limiter, asyncio.get_running_loop(), host or self._only_host
        use = NO_SEMAPHORE if semaphore is None else limiter.semaphores[semaphore]
        places, is_repeated = use.places, False
        while True:
            due = limiter.ready(host) if loop is self._loop else None
            if due is None:
                due = await self._wait_for_turn(host, give_up_at)
            place = use.semaphore
            if places is not None and places.only_host is not host:
                place = places.place(host, place)
            async with place:
                # Meanwhile, `close` may have been called, or others may have taken the turn.
                if self._loop is None or (sent := limiter.start(host, due, places)) is None:
                    continue
                self._requests += 1
                sent.is_repeated = is_repeated
                try:
                    if use.sent is not None:
                        use.sent(sent.task, sent.at)
                    response = await send(sent)
                except RequestError as error:
                    if is_repeated := self._must_repeat(sent, use, loop.time()):
                        continue
                    self._record_failure(error, sent)
                    raise without_frames(error)  # noqa: B904 - it is the same error
                except asyncio.CancelledError as exc:
                    raise self._record_cancelled(exc, sent, job_id) from None
                except BaseException:
                    limiter.withdrawn(sent)
                    raise
                self._record_success(sent)
                return response

    @asynccontextmanager
    async def turn(self, host: Host) -> AsyncGenerator[None, None]:
        """Wait until one more request to a host may be sent; the `async with` block sends it.

        The request counts as in flight while the block runs. If a `RequestError` leaves the block,
        it is recorded like that of any other failed request. Any other exception is not recorded,
        because it says nothing about the service.

        Raises:
            ServiceDownError: The service is down, and `outage_wait` seconds have passed since the
                call began.
            ClosedError: `close` was called, or another event loop was used before.
        """
        give_up_at = asyncio.get_running_loop().time() + self._outage_wait
        sent = None
        while sent is None:
            due = await self._wait_for_turn(host, give_up_at)
            if self._loop is not None:  # otherwise `_wait_for_turn` raises `ClosedError` now
                sent = self._limiter.start(host, due)
        self._requests += 1
        try:
            yield
        except RequestError as error:
            self._count(error)
            self._limiter.failed(error, sent)
            raise
        except BaseException:
            self._limiter.withdrawn(sent)
            raise
        self._record_success(sent)

    def check_loop(self) -> None:
        """Raise ClosedError if requests were sent in another event loop that is still open."""
        other = None if self._loop is asyncio.get_running_loop() else self._loop
        if other is not None and not other.is_closed():
            raise ClosedError(_OTHER_LOOP)

    def close(self) -> None:
        """Make the calls that wait to send a request, and all later calls, raise `ClosedError`."""
        self._closed.set()
        self._loop = None
        for caller in self._waiting:
            self._limiter.hosts.release(caller)

    def stats(self, *, bytes_received: int = 0) -> ClientStats:
        """Return the statistics of the client, as a copy that does not change later.

        May be called in any thread, also after the event loop was closed.
        """
        limiter = self._limiter
        worst = limiter.hosts.worst
        last_failure = None if worst is None else worst.last_failure
        return ClientStats(
            requests=self._requests,
            retries=self._retries,
            throttled=self._throttled,
            failures=self._failures,
            bytes_received=bytes_received,
            in_flight=limiter.in_flight,
            window=limiter.window,
            rate_limit=limiter.rate_limit,
            retry_budget=limiter.retry_budget,
            gate_closed_for=limiter.gate_closed_for,
            failures_in_a_row=0 if worst is None else worst.outage.failures,
            is_outage=limiter.hosts.is_outage,
            last_failure=None if last_failure is None else str(last_failure),
            refused=self._refused,
        )

    async def _wait_for_turn(self, host: Host, give_up_at: float) -> float:
        """Wait until the request budget allows a request; return the time from which it does so.

        Raises the errors of `turn`.
        """
        limiter, loop = self._limiter, asyncio.get_running_loop()
        due = math.inf  # `wait_for_turn` returns infinity, too, if the caller was released
        while due == math.inf:
            self._check_open(loop)
            if (now := limiter.ready(host)) is not None:
                return now
            if host.is_down and loop.time() >= give_up_at:
                raise host.error()
            due = await limiter.wait_for_turn(host, self._waiting, give_up_at=give_up_at)
        return due

    def _check_open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Raise ClosedError if the client is closed, or has been used in another event loop."""
        if self._closed.is_set():
            raise ClosedError(_CLOSED)
        if loop is not self._loop:
            if self._loop is not None:
                raise ClosedError(_OTHER_LOOP)
            self._limiter.bind(loop)
            self._loop = loop

    async def _pause(self, seconds: float) -> None:
        """Wait this number of seconds; raise `ClosedError` if the client is closed meanwhile."""
        try:
            async with asyncio.timeout(seconds):
                await self._closed.wait()
        except TimeoutError:
            return
        raise ClosedError(_CLOSED)

    def _record_success(self, sent: Sent) -> None:
        """Record that a request has succeeded: the key works, and the host answers."""
        self._refused = None
        self._key_works = True
        self._limiter.succeeded(sent)

    def _must_repeat(self, sent: Sent, use: SemaphoreUse, now: float) -> bool:
        """Return True, and record the failure, if a failed request must be sent once more.

        It was sent on a stale connection, and the connection was closed soon. If the host has kept
        the request for longer, it has perhaps failed while it worked on the request.
        """
        if not sent.is_stale or sent.is_repeated or now - sent.at > _SOON:
            return False
        _log.debug("a connection was closed when it was used again; the request is sent once more")
        self._failures += 1
        self._retries += 1
        self._limiter.withdrawn(sent)
        if use.waits_again is not None:
            use.waits_again(sent.task, now)
        return True

    def _record_cancelled(
        self, exc: asyncio.CancelledError, sent: Sent, job_id: str | None
    ) -> BaseException:
        """Record that the task of a request was cancelled; return the error to raise."""
        # It becomes the context of an error: of `ended`, or of a TimeoutError of the caller.
        without_frames(exc)
        if (ended := error_of_ended(sent, job_id)) is None:
            self._limiter.withdrawn(sent)
            return exc
        self._record_failure(ended, sent)
        return ended

    def _record_failure(self, error: RequestError, sent: Sent) -> None:
        """Record that a request has failed, in the statistics and in the request budget."""
        self._count(error)
        if sent.shows_outage:
            self._limiter.failed(error, sent)
        else:
            self._limiter.withdrawn(sent)

    def _may_retry(self, error: RequestError) -> bool:
        """Return True if repeating the request can help; see `call`."""
        is_refusal = isinstance(error, AuthenticationError | PermissionDeniedError)
        return error.transient or (is_refusal and self._key_works)

    def _count(self, error: RequestError) -> None:
        """Count a failed request in the statistics.

        Also record whether the error shows that the service refuses the key or the account, or that
        it accepts the key.
        """
        self._failures += 1
        self._throttled += isinstance(error, RateLimitedError)
        if isinstance(error, AuthenticationError | PaymentRequiredError):
            self._refused = error.status
        elif isinstance(error, PermissionDeniedError):
            # A valid key can be forbidden to list jobs, or to read some jobs.
            if error.job_id is not None and not self._key_works:
                self._refused = error.status
        elif isinstance(error, _ACCEPTED) and error.job_id is not None:
            self._refused = None
            self._key_works = True


# Seconds within which a server closes a stale connection when it is used again.
_SOON: Final = 5.0
_CLOSED: Final = "the client is closed"
_OTHER_LOOP: Final = "the client belongs to another event loop; create one for each loop"
# Errors about a job which show that the service has accepted the key.
_ACCEPTED: Final = (JobNotFoundError, UnprocessableError)
