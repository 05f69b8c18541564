"""Household: client, watcher and fetcher as a server has them, from its start to its end.

Knows no web framework. Imports client, watcher, fetcher and webhooks.
"""

import asyncio
import math
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from datetime import UTC, datetime
from enum import Enum
from typing import Final

import attrs
from attrs import frozen

from adepoll.api.client import AdeClient
from adepoll.api.models import JobSnapshot, Json
from adepoll.errors import AdePollError, ClosedError, RequestError
from adepoll.fetcher import ResultFetcher
from adepoll.server.webhooks import WebhookVerifier, default_job_ids, job_ids_in
from adepoll.watching.pollers import start
from adepoll.watching.turnstile import TurnLimiter
from adepoll.watching.watcher import JobWatcher

_PROBE_SECONDS: Final = 3.0
_MOST_AT_ONCE: Final = 16  # who go on in one turn of the loop: a few milliseconds of answering


class Condition(Enum):
    """Whether jobs can be waited for; all but `OK` are reasons to get no traffic.

    `REFUSED`: the service refuses the key. `OUTAGE`: it does not answer, or with errors alone.
    `CLOSED`: the watcher was closed, or the server is stopping.
    """

    OK = "ok"
    REFUSED = "refused"
    OUTAGE = "outage"
    CLOSED = "closed"


@frozen(kw_only=True)
class Health:
    """How a server stands.

    Attributes:
        condition: Whether jobs can be waited for.
        stats: What watcher, client and fetcher do and have done, as JSON.
    """

    condition: Condition
    stats: Json

    @property
    def status(self) -> int:
        """The HTTP status that says it: 200 or 503."""
        return 200 if self.condition is Condition.OK else 503

    @property
    def body(self) -> Json:
        """The same as JSON; it holds no secrets."""
        return {"status": self.condition.value, **self.stats}


class ServerResources:
    """Client, watcher and fetcher of one key and region, as a server has them.

    Made by `open_household`. Nothing is shared with another one: neither connections, nor a
    budget, nor what was seen of a job.

    Attributes:
        client: Asks the service.
        watcher: Watches the jobs of all requests.
        fetcher: Brings results.
    """

    def __init__(
        self,
        client: AdeClient,
        watcher: JobWatcher,
        fetcher: ResultFetcher,
        *,
        grace: float,
        probe_every: float | None,
    ) -> None:
        """Made by `open_household`."""
        self.client = client
        self.watcher = watcher
        self.fetcher = fetcher
        self._grace = grace
        self._probe_every = probe_every
        self._loop = asyncio.get_running_loop()
        self._turnstile = TurnLimiter(_MOST_AT_ONCE)
        self._streams: set[asyncio.Timeout] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._probe: asyncio.Task[None] | None = None
        self._probed_at: float | None = None
        self._cut_off_at: float | None = None

    @property
    def is_stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._cut_off_at is not None

    def stop(self) -> None:
        """The server is to end: let nobody wait any longer.

        The watcher is closed, so that who waits gets `ClosedError`, and events end. Results that
        are on their way have the grace time to arrive.
        """
        if self._cut_off_at is None:
            self._cut_off_at = self._loop.time() + self._grace
            _ = start(self.watcher.aclose(), self._tasks)
            for stream in self._streams:
                stream.reschedule(self._cut_off_at)

    async def turn(self) -> None:
        """Wait for a turn, where many have something to do at the same moment; none is long."""
        await self._turnstile.through()

    async def wait(self, job_id: str, *, timeout: float | None = None) -> JobSnapshot:  # noqa: ASYNC109 - as for JobWatcher.wait
        """As `JobWatcher.wait`; where many have waited for the same, they go on a few at a time."""
        try:
            job = await self.watcher.wait(job_id, timeout=timeout)
        except AdePollError:
            await self.turn()
            raise
        await self.turn()
        return job

    @asynccontextmanager
    async def streaming(self) -> AsyncGenerator[None, None]:
        """What is done within is cut off when the server stops and the grace time is over.

        Raises:
            ClosedError: It was cut off.
        """
        try:
            async with asyncio.timeout_at(self._cut_off_at) as stream:
                self._streams.add(stream)
                try:
                    yield
                finally:
                    self._streams.discard(stream)
        except TimeoutError:
            if not stream.expired():
                raise
        else:
            return
        raise ClosedError("the server stopped before the answer was through")

    async def health(self) -> Health:
        """Tell how the server stands.

        Where the service was never asked, or last answered with nothing good, it is asked now,
        once: otherwise a server that gets no traffic for being unwell would never learn better.
        """
        condition = self._condition()
        bad = condition in {Condition.REFUSED, Condition.OUTAGE}
        if (bad or not self.client.stats.requests) and self._may_probe():
            await self._probe_once()
            condition = self._condition()
        stats = {
            "watcher": _as_json(self.watcher.stats),
            "client": _as_json(self.client.stats),
            "fetcher": _as_json(self.fetcher.stats),
        }
        return Health(condition=condition, stats=stats)

    def hear(
        self,
        verifier: WebhookVerifier,
        headers: Mapping[str, str],
        body: bytes,
        job_ids: Callable[[Json], Iterable[Json]] = default_job_ids,
    ) -> None:
        """Take a webhook for a hint: have the jobs that it names looked at now, if any are watched.

        Args:
            verifier: Says whether it is genuine.
            headers: Of the request.
            body: Of the request, byte for byte.
            job_ids: Finds the ids in the parsed body.

        Raises:
            WebhookRefusedError: It is not genuine, or makes no sense.
        """
        verifier.verify(headers, body, now=datetime.now(UTC).timestamp())
        for job_id in job_ids_in(body, job_ids):
            self.watcher.poll_now(job_id)

    async def aclose(self) -> None:
        """Stop, and wait until nothing runs."""
        self.stop()
        for task in list(self._tasks):
            if task is self._probe:
                task.cancel()
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _condition(self) -> Condition:
        if self.is_stopping or self.watcher.is_closed:
            return Condition.CLOSED
        stats = self.client.stats
        if stats.refused is not None:
            return Condition.REFUSED
        return Condition.OUTAGE if stats.is_outage else Condition.OK

    def _may_probe(self) -> bool:
        if self._probe is not None and not self._probe.done():
            return True
        if self._probe_every is None or self.is_stopping:
            return False
        waited_from = self._probed_at
        return waited_from is None or self._loop.time() >= waited_from + self._probe_every

    async def _probe_once(self) -> None:
        """Ask once, together with everybody else who wants to know."""
        if self._probe is None or self._probe.done():
            self._probed_at = self._loop.time()
            self._probe = start(self._ask(), self._tasks)
        await asyncio.wait({self._probe})

    async def _ask(self) -> None:
        # What comes of it stands in the client's stats, as with every other request.
        try:
            async with asyncio.timeout(_PROBE_SECONDS):
                await self.client.for_polling(nullcontext()).list_jobs(page_size=1)
        except (RequestError, ClosedError, TimeoutError):
            pass


def _as_json(stats: attrs.AttrsInstance) -> dict[str, Json]:
    # JSON has no infinity, which a budget may be.
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in attrs.asdict(stats).items()
    }


@asynccontextmanager
async def open_household(
    *,
    client: AdeClient | Callable[[], AdeClient] = AdeClient,
    watcher: Callable[[AdeClient], JobWatcher] = JobWatcher,
    fetcher: Callable[[AdeClient], ResultFetcher] = ResultFetcher,
    grace: float = 3.0,
    probe_every: float | None = 10.0,
) -> AsyncGenerator[ServerResources, None]:
    """Have client, watcher and fetcher for as long as a server runs.

    Args:
        client: Makes the client, such as ``functools.partial(AdeClient, region="eu")``; or one
            that there is, which stays yours to close.
        watcher: Makes the watcher from it, such as ``partial(JobWatcher, concurrency=128)``.
        fetcher: Makes the fetcher from it.
        grace: Seconds that results on their way to a client are given when the server stops.
        probe_every: Seconds after which `ServerResources.health` asks the service again
            again; None: it never asks.

    Raises:
        ConfigurationError: There is no key, or the like; the server had better not start.
        ValueError: A number is out of range.
    """
    for name, value in (("grace", grace), ("probe_every", probe_every)):
        if value is not None and not value >= 0:
            raise ValueError(f"{name} must be a number of 0 or more, got {value}")
    async with AsyncExitStack() as stack:
        given = isinstance(client, AdeClient)
        asks = client if isinstance(client, AdeClient) else client()
        if not given:
            stack.push_async_callback(asks.aclose)
        watches = watcher(asks)
        stack.push_async_callback(watches.aclose)
        fetches = fetcher(asks)
        stack.push_async_callback(fetches.aclose)
        resources = ServerResources(asks, watches, fetches, grace=grace, probe_every=probe_every)
        stack.push_async_callback(resources.aclose)
        yield resources
