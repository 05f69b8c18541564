"""A world as the source of a watcher, in memory: the real codec, no sockets, virtual time.

Imports models, wire and errors of the library.
"""

import asyncio
import json
import random
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Final, NoReturn

from attrs import field, frozen

from adepoll.api.kinds import v1_extract
from adepoll.api.models import JobPage, JobSnapshot, JobStatus
from adepoll.emulator import checks
from adepoll.emulator.effects import Break, Endpoint
from adepoll.emulator.treatment import Treatment
from adepoll.emulator.world import World
from adepoll.errors import (
    AdePollError,
    AnswerTimeoutError,
    AnswerTooLargeError,
    AuthenticationError,
    JobNotFoundError,
    MalformedAnswerError,
    PaymentRequiredError,
    PermissionDeniedError,
    RateLimitedError,
    RedirectRefusedError,
    ServerError,
    ServerTimeoutError,
    StatusError,
    TransportError,
    WrongJobError,
)

EPOCH: Final = 1_750_000_000.0
"""Unix seconds at the beginning of a virtual loop's time."""


def loop_clock(epoch: float = EPOCH) -> Callable[[], float]:
    """Give a clock for a `World`: the time of whichever loop is running, from `epoch` on."""

    def clock() -> float:
        return epoch + asyncio.get_running_loop().time()

    return clock


def _default_rng() -> random.Random:
    return random.Random(0)  # noqa: S311 - reproducible, not secret


@frozen(kw_only=True)
class WorldSource:
    """Answers looks at a world as a client would: a `JobSource` without a network.

    A look takes a simulated latency, and sees the world as it is in the middle of it. The faults
    of the world are met as an `AdeClient` meets them that does not try again.

    Attributes:
        world: What is looked at; in a virtual loop its clock is a `loop_clock`.
        latency: Shortest and longest latency, in seconds; uniform between.
        rng: Draws the latencies.
        failures: Asked in the middle of every look with the job id, None for a list; an error it
            gives is raised in place of an answer.
        timeout: After how many seconds an answer that a fault holds up is not waited for any more.
        max_body_bytes: Largest answer that is taken.
    """

    world: World
    latency: tuple[float, float] = (0.02, 0.2)
    rng: random.Random = field(factory=_default_rng, repr=False)
    failures: Callable[[str | None], AdePollError | None] | None = field(default=None, repr=False)
    timeout: float = field(default=30.0, validator=checks.positive)
    max_body_bytes: int = field(default=8 * 2**20, validator=checks.positive)

    async def get_job(self, job_id: str) -> JobSnapshot:
        """Look at one job.

        Raises:
            JobNotFoundError: There is no such job, or it has not arrived yet.
            RequestError: What a fault comes to: `StatusError` and its kin, `TransportError`,
                `AnswerError`.
            AdePollError: One that `failures` gave.
        """
        latency = self.rng.uniform(*self.latency)
        await asyncio.sleep(latency / 2)
        self._fail_perhaps(job_id)
        treatment = await self._meet(Endpoint.GET, job_id, latency)
        status, body = self.world.job_json(job_id)
        if treatment is not None:
            body = await self._hand_over(body, treatment, job_id, good=status in {200, 206})
        await asyncio.sleep(latency / 2)
        if status == 404:  # noqa: PLR2004 - HTTP
            raise JobNotFoundError(status=status, detail="Job ID not found", job_id=job_id)
        try:
            snapshot = v1_extract.decode_job(body, status)
        except MalformedAnswerError as exc:
            raise MalformedAnswerError(exc.problems, job_id=job_id) from exc
        if snapshot.job_id != job_id:
            raise WrongJobError(job_id=job_id, answered=snapshot.job_id)
        return snapshot

    async def list_jobs(
        self, *, page: int = 0, page_size: int = 100, status: JobStatus | None = None
    ) -> JobPage:
        """List one page of jobs.

        Raises:
            ValueError: `page` or `page_size` is out of range, or nothing can have that `status`.
            RequestError: As for `get_job`.
            AdePollError: One that `failures` gave.
        """
        if page < 0 or not 1 <= page_size <= 100 or status is JobStatus.UNKNOWN:  # noqa: PLR2004 - as documented
            raise ValueError(f"no such page: {page=}, {page_size=}, {status=}")
        latency = self.rng.uniform(*self.latency)
        await asyncio.sleep(latency / 2)
        self._fail_perhaps(None)
        treatment = await self._meet(Endpoint.LIST, None, latency)
        shift = 0 if treatment is None else treatment.shift
        listed = self.world.page(page=page, page_size=page_size, status=status, shift=shift)
        body = json.dumps(listed, separators=(",", ":")).encode()
        if treatment is not None:
            body = await self._hand_over(body, treatment, None, good=True)
        await asyncio.sleep(latency / 2)
        return v1_extract.decode_page(body)

    def service_time(self) -> float:
        """Give the Unix time of the world."""
        return self.world.now()

    def _fail_perhaps(self, job_id: str | None) -> None:
        if self.failures is not None and (error := self.failures(job_id)) is not None:
            raise error

    async def _meet(
        self, endpoint: Endpoint, job_id: str | None, latency: float
    ) -> Treatment | None:
        """Meet the faults: wait, raise what comes in place of an answer, give what is left."""
        now = self.world.now()
        if not (hits := self.world.faults.decide(endpoint, job_id, now)):
            return None
        treatment = Treatment.of(hits, now)
        if treatment.delay >= self.timeout:
            self.world.count(endpoint, job_id)
            await self._time_out(job_id)
        await asyncio.sleep(treatment.delay)
        if (refused := treatment.refused) is None and treatment.redirect is None:
            return treatment
        self.world.count(endpoint, job_id)
        if refused is None:
            await asyncio.sleep(latency / 2)
            raise RedirectRefusedError(status=307, job_id=job_id)
        now = self.world.now()
        self.world.ledger.statuses[refused.status] += 1
        if refused.until:
            # The longest that a request can be under way, after which all have heard of it.
            heard_at = now + self.latency[1]
            self.world.ledger.ask_to_wait(heard_at=heard_at, until=refused.until)
        await asyncio.sleep(latency / 2)
        raise _ERRORS.get(refused.status, ServerError)(
            status=refused.status,
            job_id=job_id,
            retry_after=_heard(refused.retry_after, now),
        )

    async def _hand_over(
        self, body: bytes, treatment: Treatment, job_id: str | None, *, good: bool
    ) -> bytes:
        """Give the body as it arrives, or raise what a client makes of it."""
        if good:
            body, _ = treatment.spoil(body)
        if treatment.broken in _SILENT:
            await self._time_out(job_id)
        size = len(body) + treatment.extra_bytes
        if treatment.rate is not None:
            if size / treatment.rate >= self.timeout:
                await self._time_out(job_id)
            await asyncio.sleep(size / treatment.rate)
        if treatment.broken is Break.NEVER_ENDING or size > self.max_body_bytes:
            raise AnswerTooLargeError(limit=self.max_body_bytes, job_id=job_id)
        if treatment.broken is not None:
            raise TransportError(f"the connection broke ({treatment.broken.value})", job_id=job_id)
        if treatment.off_by:
            raise TransportError("the body is not of the announced length", job_id=job_id)
        return body

    async def _time_out(self, job_id: str | None) -> NoReturn:
        await asyncio.sleep(self.timeout)
        raise AnswerTimeoutError(timeout=self.timeout, job_id=job_id)


_SILENT: Final = frozenset({Break.SILENT, Break.STALLED})
_ERRORS: Final[Mapping[int, type[StatusError]]] = {
    401: AuthenticationError,
    402: PaymentRequiredError,
    403: PermissionDeniedError,
    404: JobNotFoundError,
    408: ServerTimeoutError,
    429: RateLimitedError,
}
_LONGEST_WAIT: Final = 300.0  # that is believed


def _heard(header: str | None, now: float) -> float | None:
    """Read `Retry-After` as a careful client does: clamped seconds, or None for nonsense."""
    if header is None:
        return None
    if header.isdecimal():
        return min(float(header), _LONGEST_WAIT)
    try:
        seconds = parsedate_to_datetime(header).timestamp() - int(now)
    except (ValueError, OverflowError):
        return None
    return min(max(seconds, 0.0), _LONGEST_WAIT)
