"""When to look at a job next: pure functions of what is known of it. Imports nothing of adepoll.

All times are seconds.
"""

import math
from random import Random
from typing import Any, Protocol

from attrs import Attribute, field, frozen


@frozen(kw_only=True)
class Watched:
    """What a schedule is told of a job.

    Attributes:
        looks: Looks at it so far: those that brought an answer, and failures since the last one.
        watched_for: Seconds since the watcher was told of it.
    """

    looks: int
    watched_for: float


class Schedule(Protocol):
    """Says how long to wait until the next look at a job. The first look is always at once."""

    def delay(self, job: Watched, rng: Random) -> float:
        """Give the seconds from now to the next look.

        Args:
            job: What is known of the job.
            rng: Source of jitter, so that a herd spreads and a run can be replayed.
        """


def _positive(_instance: object, attribute: "Attribute[Any]", value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{attribute.name} must be a positive number, got {value}")


def _share(_instance: object, attribute: "Attribute[Any]", value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"{attribute.name} must be at least 0 and below 1, got {value}")


def _growth(_instance: object, attribute: "Attribute[Any]", value: float) -> None:
    if not (math.isfinite(value) and value >= 1):
        raise ValueError(f"{attribute.name} must be at least 1, got {value}")


def _spread(delay: float, jitter: float, rng: Random) -> float:
    return delay * rng.uniform(1 - jitter, 1 + jitter) if jitter else delay


@frozen(kw_only=True)
class Fixed:
    """Look every `interval` seconds.

    Attributes:
        interval: Seconds between looks.
        jitter: Share of the interval by which a wait may be shorter or longer, 0 to 1.
    """

    interval: float = field(default=5.0, validator=_positive)
    jitter: float = field(default=0.1, validator=_share)

    def delay(self, job: Watched, rng: Random) -> float:  # noqa: ARG002 - the same for every job
        """Give the seconds from now to the next look."""
        return _spread(self.interval, self.jitter, rng)


@frozen(kw_only=True)
class Exponential:
    """Look often at first and ever less often: `initial` x `factor` ** looks, up to `maximum`.

    Attributes:
        initial: Seconds between the first look and the second.
        factor: Growth from wait to wait, 1 or more.
        maximum: Longest wait, seconds.
        jitter: Share of a wait by which it may be shorter or longer, 0 to 1.
    """

    initial: float = field(default=1.0, validator=_positive)
    factor: float = field(default=1.5, validator=_growth)
    maximum: float = field(default=10.0, validator=_positive)
    jitter: float = field(default=0.1, validator=_share)

    def delay(self, job: Watched, rng: Random) -> float:
        """Give the seconds from now to the next look."""
        try:
            wait = self.initial * self.factor ** max(job.looks - 1, 0)
        except OverflowError:
            wait = self.maximum
        return _spread(min(wait, self.maximum), self.jitter, rng)
