"""The health of a server: whether it can wait for jobs now, and its statistics."""

import asyncio
import math
from collections.abc import Mapping
from contextlib import nullcontext
from enum import Enum
from typing import Final

import attrs
from attrs import frozen

from adepoll.api.client import AdeClient
from adepoll.api.models import Json
from adepoll.api.source import for_polling
from adepoll.common.safe_repr import SafeRepr
from adepoll.common.tasks import finish, start
from adepoll.errors import ClosedError, PermissionDeniedError, RateLimitedError, RequestError
from adepoll.fetcher import ResultFetcher
from adepoll.watching.watcher import JobWatcher

__all__ = ["Condition", "Health"]

_PROBE_TIMEOUT: Final = 3.0  # seconds
# Seconds without an answer after which it is not known whether the service is up.
_SILENCE: Final = 30.0


class Condition(Enum):
    """Whether a server can wait for jobs. A server should get requests only while it is `OK`.

    `REFUSED`: the service refuses the key, or the account has no credits. `OUTAGE`: the host of the
    service does not respond, or responds only with errors. (v1 and v2 jobs can have different
    hosts. The host for jobs of the client's kind counts.) `CLOSED`: the watcher is closed, or the
    server is stopping.
    """

    OK = "ok"
    REFUSED = "refused"
    OUTAGE = "outage"
    CLOSED = "closed"


@frozen(kw_only=True)
class Health(SafeRepr):
    """The health of a server at one moment.

    Attributes:
        condition: Whether the server can wait for jobs.
        stats: Statistics of the watcher, the client and the fetcher, as JSON.
    """

    condition: Condition
    stats: Json

    @property
    def http_status(self) -> int:
        """The HTTP status of the response to a readiness request: 200 or 503."""
        return 200 if self.condition is Condition.OK else 503

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers of the response to a readiness request."""
        return {"Cache-Control": "no-store"}

    @property
    def body(self) -> Json:
        """The JSON of the response to a readiness request, without secrets."""
        return {"status": self.condition.value, **self.stats}


LIVE: Final = Health(condition=Condition.OK, stats={})
"""The response to a liveness request. If the process can send it, the process works.

The condition of the service does not matter here, because a restart of the process would not
repair the service.
"""


class HealthCheck:
    """Reports the health of a server. Sends a test request (probe) if the service may be down."""

    def __init__(
        self,
        client: AdeClient,
        watcher: JobWatcher,
        fetcher: ResultFetcher,
        *,
        probe_every: float | None,
    ) -> None:
        """Create a check. `probe_every`: minimum seconds between two probes; None for no probes."""
        self._client = client
        self._watcher = watcher
        self._fetcher = fetcher
        self._probe_every = probe_every
        self._tasks: set[asyncio.Task[None]] = set()
        self._probe: asyncio.Task[None] | None = None
        self._probed_at: float | None = None  # loop time of the last probe
        # Bytes that the client had received when the last probe failed. None if it succeeded, or if
        # another request has succeeded since then.
        self._failed_after: int | None = None
        self._seen = 0  # bytes that the client had received at the last check
        self._seen_at = -math.inf  # loop time of the last check that found new bytes

    async def check(self, *, is_stopping: bool) -> Health:
        """Return the health of the server.

        First send a probe, which is a request to the service, if the last request or probe failed,
        or if the service has sent nothing for 30 seconds, although it did not ask for a pause. Send
        at most one probe in `probe_every` seconds. Without probes, a server with few requests would
        not notice that the service is down, or that the service is back. If `is_stopping` is True,
        send no probe.
        """
        self._note_answers()
        condition = self._condition(is_stopping=is_stopping)
        is_bad = condition in {Condition.REFUSED, Condition.OUTAGE}
        has_failed = self._client.stats.failures_in_a_row > 0
        if not is_stopping and (is_bad or has_failed or self._is_silent()):
            await self._probe_service()
            self._note_answers()
            condition = self._condition(is_stopping=is_stopping)
        stats = {
            "watcher": _as_json(self._watcher.stats),
            "client": _as_json(self._client.stats),
            "fetcher": _as_json(self._fetcher.stats),
        }
        return Health(condition=condition, stats=stats)

    async def aclose(self) -> None:
        """Cancel the current probe, and wait until it has ended."""
        await finish(self._tasks)

    def _condition(self, *, is_stopping: bool) -> Condition:
        """Return the condition of the server; `OK` if it can wait for jobs."""
        if is_stopping or self._watcher.is_closed:
            return Condition.CLOSED
        if self._client.stats.refused is not None:
            return Condition.REFUSED
        # Not `ClientStats.is_outage`: while the other host is down, jobs of this kind are polled.
        # And no probe goes there, so the server would not notice that the other host is back.
        is_down = self._client.outage() is not None or self._failed_after is not None
        return Condition.OUTAGE if is_down else Condition.OK

    def _is_silent(self) -> bool:
        """Return True if the service has sent nothing for 30 seconds.

        The number of failed requests does not show this. If a caller cancels a request because the
        service does not respond, the request does not count as failed.

        Return False after a 429 with a long Retry-After: then no request may be sent, and a probe
        would get no answer in time, although the service works.
        """
        is_silent = asyncio.get_running_loop().time() - self._seen_at >= _SILENCE
        return is_silent and not self._client.stats.gate_closed_for

    def _note_answers(self) -> None:
        """Record whether the client has received answers since the last call."""
        stats = self._client.stats
        if (received := stats.bytes_received) != self._seen:
            self._seen, self._seen_at = received, asyncio.get_running_loop().time()
        if self._failed_after not in {None, received} and not stats.failures_in_a_row:
            self._failed_after = None

    async def _probe_service(self) -> None:
        """Send a probe and wait for it; simultaneous callers share one probe.

        Send none if the last one was sent less than `probe_every` seconds ago, or if `probe_every`
        is None.
        """
        if self._probe is None or self._probe.done():
            now = asyncio.get_running_loop().time()
            every, last = self._probe_every, self._probed_at
            if every is None or (last is not None and now < last + every):
                return
            self._probed_at = now
            self._probe = start(self._request(), self._tasks)
        await asyncio.wait({self._probe})

    async def _request(self) -> None:
        """Request a page of the job list, to find out whether the service responds.

        While the request budget is short, the request may not be sent in time. Then the answers to
        other requests show that the service works.
        """
        received = self._client.stats.bytes_received
        try:
            async with asyncio.timeout(_PROBE_TIMEOUT):
                await for_polling(self._client, nullcontext()).list_jobs(page_size=1)
        except ClosedError:
            return
        except (PermissionDeniedError, RateLimitedError):
            # A valid key need not have the right to list jobs. A 429 shows that the service works,
            # and waits go on after it. Other servers of the organisation can have caused it.
            self._failed_after = None
        except TimeoutError:
            self._failed_after = received
        except RequestError:
            self._failed_after = self._client.stats.bytes_received  # with the answer to the probe
        else:
            self._failed_after = None


def _as_json(stats: attrs.AttrsInstance) -> dict[str, Json]:
    """Return statistics as a JSON object."""
    # A retry budget can be infinite, but JSON has no infinity: the value becomes null. The text of
    # an error is left out, because only operators may read it.
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in attrs.asdict(stats).items()
        if name != "last_failure"
    }
