"""What the faults that meet one request do to it together, on the wire or in virtual time. Pure."""

import json
import random
from collections.abc import Sequence
from typing import Self

from attrs import field, frozen

from adepoll.emulator.corruption import content_type, corrupt, distort, shift
from adepoll.emulator.effects import (
    REFUSALS,
    Break,
    Corruption,
    Distortion,
    Latency,
    Overlong,
    RateLimit,
    Redirect,
    Refuse,
    Throttle,
    Trick,
    WrongLength,
)
from adepoll.emulator.faults import Hit


@frozen(kw_only=True)
class Refused:
    """A status that is no success.

    Attributes:
        status: HTTP status.
        retry_after: The header; None for none.
        until: The Unix second before which it asks not to come back; 0.0 where it does not.
    """

    status: int
    retry_after: str | None
    until: float


@frozen(kw_only=True)
class Treatment:
    """What is done to one request. Where several faults want the same, the first added has it.

    Attributes:
        delay: Seconds before anything else; delays add up.
        refused: The status in place of an answer.
        redirect: Where it is sent elsewhere.
        shift: By how many places the list has moved.
        tricks: What the origin of the results does besides.
        broken: How the answer breaks off.
        off_by: What `Content-Length` announces less what is sent.
        extra_bytes: Blanks after the body.
        rate: Bytes per second of the body; None for as fast as it goes.
        rng: Draws where the answer breaks off.
    """

    delay: float = 0.0
    refused: Refused | None = None
    redirect: Redirect | None = None
    shift: int = 0
    tricks: frozenset[Trick] = frozenset()
    broken: Break | None = None
    off_by: int = 0
    extra_bytes: int = 0
    rate: float | None = None
    rng: random.Random = field(repr=False)
    _hits: Sequence[Hit] = field(repr=False)

    @classmethod
    def of(cls, hits: Sequence[Hit], now: float) -> Self:
        """Put together what the faults do.

        Args:
            hits: At least one.
            now: Unix seconds.
        """
        effects = [hit.effect for hit in hits]
        refused = [refusal for hit in hits if (refusal := _refused(hit, now)) is not None]
        rates = [effect.rate for effect in effects if isinstance(effect, Throttle)]
        return cls(
            delay=sum(h.effect.draw(h.rng) for h in hits if isinstance(h.effect, Latency)),
            refused=refused[0] if refused else None,
            redirect=next((e for e in effects if isinstance(e, Redirect)), None),
            shift=sum(shift(h.effect, h.rng) for h in hits if isinstance(h.effect, Distortion)),
            tricks=frozenset(e for e in effects if isinstance(e, Trick)),
            broken=next((e for e in effects if isinstance(e, Break)), None),
            off_by=next((e.by for e in effects if isinstance(e, WrongLength)), 0),
            extra_bytes=sum(e.extra_bytes for e in effects if isinstance(e, Overlong)),
            rate=min(rates, default=None),
            rng=hits[0].rng,
            hits=hits,
        )

    @property
    def spoils_delivery(self) -> bool:
        """Whether the answer cannot be sent as answers are."""
        gzipped = Trick.GZIP_UNASKED in self.tricks
        return bool(self.broken or self.off_by or self.extra_bytes or self.rate or gzipped)

    def spoil(self, body: bytes) -> tuple[bytes, str]:
        """Give the body of a good answer with what is wrong with it, and its content type."""
        kind = "application/json"
        for hit in self._hits:
            if isinstance(hit.effect, Distortion):
                page = distort(hit.effect, json.loads(body), hit.rng)
                body = json.dumps(page, separators=(",", ":")).encode()
        for hit in self._hits:
            if isinstance(hit.effect, Corruption):
                body, kind = corrupt(hit.effect, body, hit.rng), content_type(hit.effect)
        return body, kind

    def stop(self, size: int) -> int:
        """Draw how many bytes of a body of `size` are sent before it breaks off."""
        return self.rng.randrange(1, size) if size > 1 else 0


def _refused(hit: Hit, now: float) -> Refused | None:
    effect = hit.effect
    if isinstance(effect, RateLimit):
        status, form, wait = 429, effect.retry_after, effect.wait(hit.wait, hit.rng)
    elif isinstance(effect, Refuse):
        status = hit.rng.choice(REFUSALS[effect.kind])
        form, wait = effect.retry_after, effect.wait
    else:
        return None
    retry_after, until = form.told(wait, now=now, rng=hit.rng)
    return Refused(status=status, retry_after=retry_after, until=until)
