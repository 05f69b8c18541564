"""The combined effect of all faults that apply to one request. Does no I/O."""

import json
import random
from collections.abc import Sequence
from typing import Self

from attrs import field, frozen

from adepoll.emulator.corruption import content_type, corrupt, distort, shift
from adepoll.emulator.effects import (
    ConnectionFailure,
    Corruption,
    Latency,
    ListDistortion,
    OverlongBody,
    Redirect,
    SlowBody,
    StorageEffect,
    WrongLength,
)
from adepoll.emulator.faults import AppliedFault
from adepoll.emulator.refusals import RateLimit, Refusal, RefusalResponse


@frozen(kw_only=True)
class CombinedEffect:
    """What all faults together do to one request.

    A request gets at most one error status, one failure of the connection and one wrong length. If
    several faults would cause an error status, only the one that was added first does so. The same
    applies to the other two effects.

    Attributes:
        delay: Seconds to wait before the answer is sent: the sum of all latencies.
        replacement: The error status or the redirect that is sent instead of the answer.
        shift: Number of jobs by which a page of the list begins too late; negative if too early.
        storage_effects: Unexpected behaviour of the storage.
        connection_failure: How the transfer of the answer fails; None if it does not fail.
        off_by: `Content-Length` minus the length of the sent body, in bytes.
        extra_bytes: Number of spaces that are sent after the body.
        rate: Bytes of the body that are sent per second; None for no limit.
        rng: Draws the position at which the body breaks off.
    """

    delay: float = 0.0
    replacement: RefusalResponse | Redirect | None = None
    shift: int = 0
    storage_effects: frozenset[StorageEffect] = frozenset()
    connection_failure: ConnectionFailure | None = None
    off_by: int = 0
    extra_bytes: int = 0
    rate: float | None = None
    rng: random.Random = field(repr=False)
    _applied: Sequence[AppliedFault] = field(repr=False)

    @classmethod
    def of(cls, applied: Sequence[AppliedFault], now: float) -> Self:
        """Combine the effects of faults.

        Args:
            applied: The faults that apply to the request, at least one.
            now: Unix seconds.
        """
        effects = [fault.effect for fault in applied]
        refusals = [
            RefusalResponse.draw(
                fault.effect, until_token=fault.until_token, now=now, rng=fault.rng
            )
            for fault in applied
            if isinstance(fault.effect, RateLimit | Refusal)
        ]
        redirects = [effect for effect in effects if isinstance(effect, Redirect)]
        rates = [effect.rate for effect in effects if isinstance(effect, SlowBody)]
        return cls(
            delay=sum(f.effect.draw(f.rng) for f in applied if isinstance(f.effect, Latency)),
            replacement=(refusals or redirects or (None,))[0],
            shift=sum(
                shift(f.effect, f.rng) for f in applied if isinstance(f.effect, ListDistortion)
            ),
            storage_effects=frozenset(e for e in effects if isinstance(e, StorageEffect)),
            connection_failure=next((e for e in effects if isinstance(e, ConnectionFailure)), None),
            off_by=next((e.by for e in effects if isinstance(e, WrongLength)), 0),
            extra_bytes=sum(e.extra_bytes for e in effects if isinstance(e, OverlongBody)),
            rate=min(rates, default=None),
            rng=applied[0].rng,
            applied=applied,
        )

    @property
    def needs_raw_socket(self) -> bool:
        """True if aiohttp cannot send the answer, for example because its length is wrong."""
        return bool(
            self.connection_failure
            or self.off_by
            or self.extra_bytes
            or self.rate
            or StorageEffect.UNREQUESTED_GZIP in self.storage_effects
        )

    @property
    def is_corrupting(self) -> bool:
        """True if a fault replaces the body of a correct answer with a wrong body."""
        return any(isinstance(f.effect, ListDistortion | Corruption) for f in self._applied)

    def corrupt(self, body: bytes) -> tuple[bytes, str]:
        """Return a wrong version of the body of a correct answer, and its content type."""
        kind = "application/json"
        for fault in self._applied:
            if isinstance(fault.effect, ListDistortion):
                page = distort(fault.effect, json.loads(body), fault.rng)
                body = json.dumps(page, separators=(",", ":")).encode()
        for fault in self._applied:
            if isinstance(fault.effect, Corruption):
                body = corrupt(fault.effect, body, fault.rng)
                kind = content_type(fault.effect)
        return body, kind

    def draw_break(self, size: int) -> int:
        """Draw how many bytes of a body of `size` bytes are sent before it breaks off."""
        return self.rng.randrange(1, size) if size > 1 else 0
