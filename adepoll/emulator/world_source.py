"""A `JobSource` that polls an emulated world in memory, without sockets.

The decoders of answers are those of the real client.
"""

import asyncio
import random
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Final, NoReturn, Self

from attrs import evolve, field, frozen

from adepoll.api.job_kind import JobKind
from adepoll.api.kinds.registry import RULES
from adepoll.api.large_answer import LargeAnswer
from adepoll.api.models import JobPage, JobSnapshot, JobStatus
from adepoll.common.safe_repr import SafeRepr
from adepoll.emulator import validators
from adepoll.emulator.combined_effect import CombinedEffect
from adepoll.emulator.effects import ConnectionFailure, Redirect
from adepoll.emulator.endpoints import Endpoint
from adepoll.emulator.kinds import rules_of
from adepoll.emulator.kinds.emulated_kind import PageQuery
from adepoll.emulator.result_parts import dump
from adepoll.emulator.world import World
from adepoll.errors import (
    AdePollError,
    AnswerTimeoutError,
    AnswerTooLargeError,
    AuthenticationError,
    ConfigurationError,
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
"""Unix seconds at the time 0.0 of a virtual loop."""


def loop_clock(epoch: float = EPOCH) -> Callable[[], float]:
    """Return a clock for a `World`: Unix seconds, `epoch` plus the time of the running loop."""

    def clock() -> float:
        return epoch + asyncio.get_running_loop().time()

    return clock


def _default_rng() -> random.Random:
    return random.Random(0)  # noqa: S311 - reproducible, not secret


@frozen(kw_only=True)
class WorldSource(SafeRepr):
    """Polls the jobs of a world: a `JobSource` without a network.

    Each request sleeps for a random latency, and reads the world after half of it. A fault raises
    the error that an `AdeClient` without retries would raise.

    Attributes:
        world: The world. In a virtual loop, its clock must be a `loop_clock`.
        kind: Kind of the jobs; `for_kind` returns a source for another kind.
        latency: Shortest and longest latency, in seconds. Latencies are drawn uniformly.
        rng: Draws the latencies.
        failures: Function that every request calls with the job id, or with None for a list. If it
            returns an error, the request raises this error.
        timeout: Seconds that a request waits for its answer. If a fault causes a longer delay, the
            request raises `AnswerTimeoutError`.
        max_body_bytes: Largest accepted answer, in bytes; answers about v2 jobs can be larger.
        inline_limit: Largest answer about a v2 job, in bytes, whose result is kept. If an answer is
            larger than this or `max_body_bytes`, the snapshot has no result (`data_omitted`).
    """

    world: World
    kind: JobKind = JobKind.V1_EXTRACT
    latency: tuple[float, float] = (0.02, 0.2)
    rng: random.Random = field(factory=_default_rng, repr=False)
    failures: Callable[[str | None], AdePollError | None] | None = field(default=None, repr=False)
    timeout: float = field(default=30.0, validator=validators.POSITIVE)
    max_body_bytes: int = field(default=8 * 2**20, validator=validators.POSITIVE)
    inline_limit: int = field(default=2**20, validator=validators.POSITIVE)

    def for_kind(self, kind: JobKind) -> Self:
        """Return a source for the jobs of another kind in the same world.

        Raises:
            ConfigurationError: There is no such kind.
        """
        if kind not in RULES:
            raise ConfigurationError(f"the emulator has no jobs of the kind {kind.name}")
        return evolve(self, kind=kind)

    @property
    def newest_first(self) -> bool:
        """True if the service documents that the list of this kind shows the newest jobs first."""
        return rules_of(self.kind).is_newest_first

    async def get_job(self, job_id: str) -> JobSnapshot:
        """Poll one job.

        Raises:
            JobNotFoundError: There is no such job, or it has not arrived yet.
            RequestError: A fault applied to the request. The error is a `StatusError`, a
                `TransportError` or an `AnswerError`.
            AdePollError: An error that the function `failures` of this class returned.
        """
        latency = self.rng.uniform(*self.latency)
        await asyncio.sleep(latency / 2)
        self._raise_failure(job_id)
        effect = await self._apply_faults(Endpoint.GET, job_id, latency)
        answer = self.world.answer(rules_of(self.kind), job_id)
        status, body = answer.status, answer.read()
        if effect is not None:
            body = await self._receive(body, effect, job_id, good=status in {200, 206})
        await asyncio.sleep(latency / 2)
        if status == 404:  # noqa: PLR2004 - HTTP
            raise JobNotFoundError(status=status, detail="Job ID not found", job_id=job_id)
        try:
            snapshot = await self._decode(body, status)
        except MalformedAnswerError as exc:
            raise MalformedAnswerError(exc.problems, job_id=job_id) from exc
        if not snapshot.job_id:
            snapshot = evolve(snapshot, job_id=job_id)
        if snapshot.job_id != job_id:
            raise WrongJobError(job_id=job_id, answered=snapshot.job_id)
        return snapshot

    async def list_jobs(
        self, *, page: int = 0, page_size: int = 100, status: JobStatus | None = None
    ) -> JobPage:
        """Return one page of the job list.

        Raises:
            ValueError: `page` or `page_size` is out of range, or `status` is UNKNOWN, which the
                service does not have.
            RequestError: A fault applied to the request.
            AdePollError: An error that the function `failures` of this class returned.
        """
        if page < 0 or not 1 <= page_size <= 100 or status is JobStatus.UNKNOWN:  # noqa: PLR2004 - as documented
            raise ValueError(f"no such page: {page=}, {page_size=}, {status=}")
        latency = self.rng.uniform(*self.latency)
        await asyncio.sleep(latency / 2)
        self._raise_failure(None)
        effect = await self._apply_faults(Endpoint.LIST, None, latency)
        shift = 0 if effect is None else effect.shift
        query = PageQuery(page=page, page_size=page_size, status=status)
        listed = self.world.answer_page(rules_of(self.kind), query, shift=shift)
        body = dump(listed).encode()
        if effect is not None:
            body = await self._receive(body, effect, None, good=True)
        await asyncio.sleep(latency / 2)
        return RULES[self.kind].decode_page(body)

    def service_time(self) -> float:
        """Return the time of the world, in Unix seconds."""
        return self.world.now()

    def _raise_failure(self, job_id: str | None) -> None:
        if self.failures is not None and (error := self.failures(job_id)) is not None:
            raise error

    async def _apply_faults(
        self, endpoint: Endpoint, job_id: str | None, latency: float
    ) -> CombinedEffect | None:
        """Wait for the delays of faults; return the effect on the answer, or None for no effect.

        If a fault sends an error status or a redirect instead of the answer, or delays the answer
        beyond the timeout, raise the error that a client would raise. `latency` is in seconds.
        """
        now = self.world.now()
        if not (applied := self.world.faults.select(endpoint, job_id, now, kind=self.kind.name)):
            return None
        effect = CombinedEffect.of(applied, now)
        if effect.delay >= self.timeout:
            self.world.count(endpoint, job_id)
            await self._time_out(job_id)
        await asyncio.sleep(effect.delay)
        if (refusal := effect.replacement) is None:
            return effect
        self.world.count(endpoint, job_id)
        if isinstance(refusal, Redirect):
            await asyncio.sleep(latency / 2)
            raise RedirectRefusedError(status=307, job_id=job_id)
        now = self.world.now()
        self.world.request_log.statuses[refusal.status] += 1
        if refusal.until:
            # By this time, every request has arrived that the client sent before it got the header.
            known_at = now + self.latency[1]
            self.world.request_log.record_retry_after(known_at=known_at, until=refusal.until)
        await asyncio.sleep(latency / 2)
        raise _ERRORS.get(refusal.status, ServerError)(
            status=refusal.status,
            job_id=job_id,
            retry_after=_read_retry_after(refusal.retry_after, now),
        )

    async def _receive(
        self, body: bytes, effect: CombinedEffect, job_id: str | None, *, good: bool
    ) -> bytes:
        """Return the body that the client receives, or raise the error that the client would raise.

        `good` is True for the body of a successful answer; only such a body is corrupted.
        """
        if good:
            body, _ = effect.corrupt(body)
        if effect.connection_failure in _SILENT:
            await self._time_out(job_id)
        size = len(body) + effect.extra_bytes
        if effect.rate is not None:
            if size / effect.rate >= self.timeout:
                await self._time_out(job_id)
            await asyncio.sleep(size / effect.rate)
        can_be_large = job_id is not None and RULES[self.kind].can_be_large
        if effect.connection_failure is ConnectionFailure.NEVER_ENDING or (
            size > self.max_body_bytes and not can_be_large
        ):
            raise AnswerTooLargeError(limit=self.max_body_bytes, job_id=job_id)
        if effect.connection_failure is not None:
            raise TransportError(
                f"the connection failed ({effect.connection_failure.value})", job_id=job_id
            )
        if effect.off_by:
            raise TransportError("the body does not have the announced length", job_id=job_id)
        return body

    async def _decode(self, body: bytes, status: int) -> JobSnapshot:
        """Decode an answer about a job. Leave out the result of a large answer about a v2 job.

        The real client does the same.
        """
        rules = RULES[self.kind]
        if not rules.can_be_large or len(body) <= min(self.inline_limit, self.max_body_bytes):
            return rules.decode_job(body, status)
        large = LargeAnswer(rules.result_field, None)
        await large.feed(body)
        read = await large.finish()
        snapshot = rules.decode_job(read.body, _PARTIAL if read.is_partial else status)
        return evolve(snapshot, data_omitted=True)

    async def _time_out(self, job_id: str | None) -> NoReturn:
        await asyncio.sleep(self.timeout)
        raise AnswerTimeoutError(timeout=self.timeout, job_id=job_id)


_PARTIAL: Final = 206
_SILENT: Final = frozenset({ConnectionFailure.SILENT, ConnectionFailure.STALLED})
_ERRORS: Final[Mapping[int, type[StatusError]]] = {
    401: AuthenticationError,
    402: PaymentRequiredError,
    403: PermissionDeniedError,
    404: JobNotFoundError,
    408: ServerTimeoutError,
    429: RateLimitedError,
}
_LONGEST_WAIT: Final = 300.0  # seconds; the client shortens longer waits


def _read_retry_after(header: str | None, now: float) -> float | None:
    """Return the seconds that a `Retry-After` asks for, at most 300; None if absent or invalid.

    The client has its own parser, `api.retry_after`. The emulator does not use that parser, because
    tests compare client and emulator, and a shared error would not be found. This parser is
    shorter, because the emulator sends only simple headers: it knows no fractions, and compares a
    date with `now`.
    """
    if header is None:
        return None
    if header.isdecimal():
        return min(float(header), _LONGEST_WAIT)
    try:
        seconds = parsedate_to_datetime(header).timestamp() - int(now)
    except (ValueError, OverflowError):
        return None
    return min(max(seconds, 0.0), _LONGEST_WAIT)
