"""What surrounds the sending of one request: its turn, its tries, and what is counted of them.

Knows nothing of HTTP: imports errors, limits and pacing.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from random import Random
from typing import Final, TypeAlias, TypeVar

from attrs import frozen

from adepoll.errors import (
    AuthenticationError,
    PermissionDeniedError,
    RateLimitedError,
    RequestError,
    StatusError,
)
from adepoll.throttling.estimators import OUTAGE
from adepoll.throttling.rate_limiter import Pacer, RetryPolicy, Sent

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

Send: TypeAlias = Callable[[float], Awaitable[_T]]

_NO_SLOT: Final[AbstractAsyncContextManager[object]] = nullcontext()


@frozen(kw_only=True)
class ClientStats:
    """What a client has done so far.

    Attributes:
        requests: Requests sent, retries included.
        retries: Those of them that repeated a failed one.
        throttled: Answers 429.
        failures: Requests that brought no usable answer, 429 included.
        bytes_received: Bytes of bodies, after decompression.
        in_flight: Requests on the wire now.
        window: How many may be on the wire now; it grows up to ``max_connections`` while the
            service is well, and begins anew after a 429 or an outage.
        rate_limit: Requests per second that 429s have left to us; None where no limit is known.
        retry_budget: How many retries may be spent now.
        gate_closed_for: Seconds until requests may be sent again; 0.0 where they may.
        failures_in_a_row: Requests that failed since one succeeded, 429 not counted; from 10 on
            it is an outage.
        refused: The status (401, 403) with which the service refused the key at its last word;
            None where it did not. A list that the key may not have is no such word.
    """

    requests: int
    retries: int
    throttled: int
    failures: int
    bytes_received: int
    in_flight: int
    window: int
    rate_limit: float | None
    retry_budget: float
    gate_closed_for: float
    failures_in_a_row: int = 0
    refused: int | None = None

    @property
    def is_outage(self) -> bool:
        """Whether the service does not seem to be there at all."""
        return self.failures_in_a_row >= OUTAGE


class Calls:
    """Makes calls that share one budget: each in its turn, and again where that may help."""

    def __init__(
        self,
        *,
        retry: RetryPolicy,
        rng: Random,
        max_rate: float | None = None,
        max_connections: int = 256,
    ) -> None:
        """Make a budget; see `AdeClient` for the arguments."""
        self._retry = retry
        self._rng = rng
        self._pacer = Pacer(
            max_rate=max_rate, retry=retry, rng=rng, max_connections=max_connections
        )
        self._requests = self._retries = self._throttled = self._failures = 0
        self._refused: int | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # of the last failure

    async def call(self, send: Send[_T], *, attempts: int | None = None) -> _T:
        """Send until an answer makes sense, the policy ends or the budget is spent.

        Args:
            send: Makes one try; it is given the loop time at which that begins.
            attempts: How often to try; None for as often as the policy says.

        Raises:
            RequestError: What the last try raised.
            ClosedError: `close` was called.
        """
        attempt = 0
        waits = None
        while True:
            attempt += 1
            try:
                return await self.once(send)
            except RequestError as error:
                if (
                    not error.transient
                    or attempt >= (attempts or self._retry.attempts)
                    or not self._pacer.may_retry()
                ):
                    raise
                _log.debug("attempt %d failed, will retry: %s", attempt, error)
            waits = waits or self._retry.waits(self._rng)
            await self._pacer.pause(next(waits))
            self._retries += 1

    async def once(
        self, send: Send[_T], slot: AbstractAsyncContextManager[object] = _NO_SLOT
    ) -> _T:
        """Send in turn, and not again; raises as `call` does.

        Args:
            send: As for `call`.
            slot: Entered for it, and not held while it waits for its turn.
        """
        pacer = self._pacer
        while True:
            due = pacer.ready() or await pacer.turn()
            async with slot:
                sent = pacer.take(due)
                if sent is None:
                    continue  # while we waited for the slot, the gate closed or others were sent
                self._requests += 1
                try:
                    answer = await send(sent.at)
                except RequestError as error:
                    self._note_failure(error, sent)
                    raise
                except BaseException:
                    pacer.withdrawn(sent)
                    raise
                self._refused = None
                failed = pacer.succeeded(sent)
                if failed >= OUTAGE:
                    _log.warning(_BACK, failed)
                return answer

    def close(self) -> None:
        """End all that waits for its turn or its next try, with `ClosedError`."""
        self._pacer.close()

    def stats(self, *, bytes_received: int = 0) -> ClientStats:
        """Give what was done so far; a copy that does not change."""
        pacer = self._pacer
        # Failures alone close the gate. This may be read in another thread, or after the loop has
        # ended, when nobody waits for the gate.
        loop = self._loop
        now = math.inf if loop is None or loop.is_closed() else loop.time()
        return ClientStats(
            requests=self._requests,
            retries=self._retries,
            throttled=self._throttled,
            failures=self._failures,
            bytes_received=bytes_received,
            in_flight=pacer.in_flight,
            window=pacer.window,
            rate_limit=pacer.rate_limit,
            retry_budget=pacer.retry_budget,
            gate_closed_for=max(0.0, pacer.gate_opens_at - now),
            failures_in_a_row=pacer.failures_in_a_row,
            refused=self._refused,
        )

    def _note_failure(self, error: RequestError, sent: Sent) -> None:
        self._failures += 1
        self._loop = asyncio.get_running_loop()
        self._throttled += isinstance(error, RateLimitedError)
        if isinstance(error, AuthenticationError):
            self._refused = error.status
        elif isinstance(error, StatusError) and not error.transient and error.job_id is not None:
            # A 404 tells that the key was taken. One that may not list may be good all the same.
            self._refused = error.status if isinstance(error, PermissionDeniedError) else None
        before = self._pacer.failures_in_a_row
        self._pacer.failed(error, sent)
        after = self._pacer.failures_in_a_row
        if before < OUTAGE <= after:
            # Somebody waits, and should know for what.
            _log.warning("%d requests in a row failed, the last with: %s", after, error)
        elif after < OUTAGE <= before:
            _log.warning(_BACK, before)  # a 404 is an answer like any other


_BACK: Final = "the service answers again, after %d failures"
