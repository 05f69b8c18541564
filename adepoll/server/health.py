"""Health of a server: whether it can wait for jobs, and its statistics."""

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
from adepoll.common.tasks import finish, start
from adepoll.errors import ClosedError, PermissionDeniedError, RequestError
from adepoll.fetcher import ResultFetcher
from adepoll.watching.watcher import JobWatcher

__all__ = ["Condition", "Health"]

_PROBE_TIMEOUT: Final = 3.0  # seconds
_IDLE: Final = 30.0  # seconds after which earlier answers say nothing about the service


class Condition(Enum):
    """Whether a server can wait for jobs. In each condition but `OK` it should get no traffic.

    `REFUSED`: the service refuses the key, or the account has no credits. `OUTAGE`: the service
    does not respond, or only with errors. `CLOSED`: the watcher is closed, or the server is
    stopping.
    """

    OK = "ok"
    REFUSED = "refused"
    OUTAGE = "outage"
    CLOSED = "closed"


@frozen(kw_only=True)
class Health:
    """The health of a server at one moment.

    Attributes:
        condition: Whether the server can wait for jobs.
        stats: Statistics of the watcher, the client and the fetcher, as JSON.
    """

    condition: Condition
    stats: Json

    @property
    def http_status(self) -> int:
        """The HTTP status of a readiness response: 200 or 503."""
        return 200 if self.condition is Condition.OK else 503

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers of a readiness response."""
        return {"Cache-Control": "no-store"}

    @property
    def body(self) -> Json:
        """The JSON of a readiness response, without secrets."""
        return {"status": self.condition.value, **self.stats}


LIVE: Final = Health(condition=Condition.OK, stats={})
"""The liveness of a server. The process works if it can send this, whatever the service does: a
restart does not repair the service."""


class HealthCheck:
    """Reports the health of a server, and probes the service if necessary."""

    def __init__(
        self,
        client: AdeClient,
        watcher: JobWatcher,
        fetcher: ResultFetcher,
        *,
        probe_every: float | None,
    ) -> None:
        """Create a health check; `create_resources` describes `probe_every`."""
        self._client = client
        self._watcher = watcher
        self._fetcher = fetcher
        self._probe_every = probe_every
        self._tasks: set[asyncio.Task[None]] = set()
        self._probe: asyncio.Task[None] | None = None
        self._probed_at: float | None = None
        self._probe_failed = False  # the last one
        self._seen = 0  # bytes that the client had received at the last check
        self._seen_at = -math.inf  # loop time of the last check with further bytes

    async def check(self, *, is_stopping: bool) -> Health:
        """Return the health of the server.

        If the last request or the last probe failed, or the service has sent nothing for `_IDLE`
        seconds, one request probes the service first. Without this probe, a server that gets little
        traffic would notice neither that the service is down nor that it is back.
        """
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
        """Cancel a probe that is running, and wait for its end."""
        await finish(self._tasks)

    def _condition(self, *, is_stopping: bool) -> Condition:
        if is_stopping or self._watcher.is_closed:
            return Condition.CLOSED
        stats = self._client.stats
        if stats.refused is not None:
            return Condition.REFUSED
        return Condition.OUTAGE if stats.is_outage or self._probe_failed else Condition.OK

    def _is_silent(self) -> bool:
        """Return True if the service has sent nothing for some time, whatever was requested.

        A request that its caller has given up is no failure, so failures do not show this.
        """
        self._note_answers()
        return asyncio.get_running_loop().time() - self._seen_at >= _IDLE

    def _note_answers(self) -> None:
        if (received := self._client.stats.bytes_received) != self._seen:
            self._seen, self._seen_at = received, asyncio.get_running_loop().time()

    async def _probe_service(self) -> None:
        """Wait for a probe that all callers share, if one is running or due."""
        if self._probe is None or self._probe.done():
            now = asyncio.get_running_loop().time()
            every, last = self._probe_every, self._probed_at
            if every is None or (last is not None and now < last + every):
                return
            self._probed_at = now
            self._probe = start(self._request(), self._tasks)
        await asyncio.wait({self._probe})

    async def _request(self) -> None:
        try:
            async with asyncio.timeout(_PROBE_TIMEOUT):
                await for_polling(self._client, nullcontext()).list_jobs(page_size=1)
        except ClosedError:
            return
        except PermissionDeniedError:  # a key that may not list jobs can be valid
            self._probe_failed = False
        except (RequestError, TimeoutError):
            self._probe_failed = True
        else:
            self._probe_failed = False


def _as_json(stats: attrs.AttrsInstance) -> dict[str, Json]:
    # JSON has no infinity, which a retry budget may be. The text of an error is for operators only.
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in attrs.asdict(stats).items()
        if name != "last_failure"
    }
