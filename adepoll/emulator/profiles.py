"""Profiles: the distributions from which `JobPlan` objects are drawn. Does no I/O."""

import math
import random
from collections.abc import Mapping, Sequence
from typing import Final, Self

import attrs
from attrs import field, frozen
from attrs.validators import optional

from adepoll.api.models import Json
from adepoll.common.safe_repr import SafeRepr
from adepoll.emulator import validators
from adepoll.emulator.jobs import JobPlan, Outcome, set_of_odd_values
from adepoll.emulator.odd_values import OddValue

STANDARD: Final = "standard"
PRIORITY: Final = "priority"
TIERS: Final = (STANDARD, PRIORITY)
"""The values of `service_tier`."""


@frozen(kw_only=True)
class Profile(SafeRepr):
    """The random durations, outcomes and sizes of jobs that are submitted without a `JobPlan`.

    Attributes:
        median: Median time from a job's arrival to its end, in seconds. The time is log-normal.
        sigma: Standard deviation of the logarithm of the time from arrival to end.
        queue_share: Share of the time from arrival to end in which a job is pending.
        failed: Share of jobs that fail.
        cancelled: Share of jobs that are cancelled; v2 jobs fail instead.
        partial: Share of jobs that complete with a partial result.
        large: Share of jobs with a large result. On v1, a result above 1,000,000 bytes is behind
            `output_url`.
        large_bytes: Smallest and largest size of a large result, in bytes; log-uniform.
        small_bytes: Smallest and largest size of every other result, in bytes; log-uniform.
        zero_data_retention: True for an organisation with zero data retention; see `JobPlan`.
        result_reads: Number of polls of a job that get its result; None for no limit.
        retention: Seconds from the end of a job until the service deletes the job.
        pages: Smallest and largest number of pages of a document; log-uniform.
        priority: Share of the v2 jobs without a `service_tier` that have the tier `priority`
            instead of `standard`. A submission over HTTP without a tier is always `standard`.
        priority_speed: How many times faster a job of the tier `priority` ends.
        odd: Share of jobs with odd values.
        odd_values: Odd values to draw from: a job with odd values has one to three of them.
    """

    median: float = field(default=8.0, validator=validators.FINITE)
    sigma: float = field(default=0.5, validator=validators.FINITE)
    queue_share: float = field(default=0.2, validator=validators.SHARE)
    failed: float = field(default=0.03, validator=validators.SHARE)
    cancelled: float = field(default=0.01, validator=validators.SHARE)
    partial: float = field(default=0.01, validator=validators.SHARE)
    large: float = field(default=0.05, validator=validators.SHARE)
    large_bytes: tuple[int, int] = field(
        default=(2_000_000, 20_000_000), validator=validators.size_range
    )
    small_bytes: tuple[int, int] = field(default=(2_000, 100_000), validator=validators.size_range)
    zero_data_retention: bool = False
    result_reads: int | None = field(default=None, validator=optional(validators.NOT_NEGATIVE))
    retention: float = field(default=math.inf, validator=validators.NOT_NEGATIVE)
    pages: tuple[int, int] = field(default=(1, 40), validator=validators.size_range)
    priority: float = field(default=0.0, validator=validators.SHARE)
    priority_speed: float = field(default=10.0, validator=validators.POSITIVE)
    odd: float = field(default=0.0, validator=validators.SHARE)
    odd_values: frozenset[OddValue] = field(
        default=frozenset(OddValue), converter=set_of_odd_values
    )

    def __attrs_post_init__(self) -> None:
        """Raise `ValueError` if `failed`, `cancelled` and `partial` add up to more than 1."""
        if self.failed + self.cancelled + self.partial > 1:
            raise ValueError("the sum of failed, cancelled and partial must be <= 1")

    @classmethod
    def quick(cls) -> Self:
        """Return a profile for tests in real time: jobs complete in 0.05 s, with small results."""
        return cls(median=0.05, sigma=0.0, failed=0.0, cancelled=0.0, partial=0.0, large=0.0)

    def draw(
        self, rng: random.Random, details: random.Random, *, tier: str | None = None
    ) -> JobPlan:
        """Draw the plan of one job.

        Args:
            rng: Draws when and how the job ends, and the size of its result. Every plan takes the
                same number of random numbers from it.
            details: Draws everything else.
            tier: The `service_tier` of the job.
        """
        total = self.median * math.exp(rng.gauss(0.0, self.sigma))
        if tier == PRIORITY:
            total /= self.priority_speed
        outcome = self._outcome(rng.random())
        low, high = self.large_bytes if rng.random() < self.large else self.small_bytes
        result_bytes = round(low * (high / low) ** rng.random())
        fewest, most = self.pages
        return JobPlan(
            queue_time=total * self.queue_share,
            processing_time=total * (1 - self.queue_share),
            outcome=outcome,
            result_bytes=result_bytes,
            pages=round(fewest * (most / fewest) ** details.random()),
            zero_data_retention=self.zero_data_retention,
            result_reads=self.result_reads,
            retention=self.retention,
            odd_values=self._odd_values(details) if self.odd else (),
        )

    def draw_tier(self, details: random.Random) -> str:
        """Draw the `service_tier` of a v2 job; `details` is the generator of random numbers."""
        return PRIORITY if self.priority and details.random() < self.priority else STANDARD

    def _odd_values(self, details: random.Random) -> Sequence[OddValue]:
        """Draw the odd values of a job: one to three of `odd_values`, or none for most jobs."""
        if details.random() >= self.odd:
            return ()
        candidates = sorted(self.odd_values, key=lambda odd: odd.value)
        return details.sample(candidates, min(details.randrange(1, 4), len(candidates)))

    def _outcome(self, draw: float) -> Outcome:
        """Return the outcome of a job; `draw` is a random number from 0 to 1."""
        for outcome, share in (
            (Outcome.FAILED, self.failed),
            (Outcome.CANCELLED, self.cancelled),
            (Outcome.PARTIAL, self.partial),
        ):
            if draw < share:
                return outcome
            draw -= share
        return Outcome.COMPLETED


def profile_of(profile: Profile | Mapping[str, Json] | None) -> Profile:
    """Return a `Profile` for an argument that can also be a mapping of its fields.

    None means a profile with the defaults of all fields.

    Raises:
        TypeError: A field does not exist.
        ValueError: A value is out of range.
    """
    if isinstance(profile, Profile):
        return profile
    fields, known = profile or {}, [attribute.name for attribute in attrs.fields(Profile)]
    if unknown := [name for name in fields if name not in known]:
        raise TypeError(
            f"a profile has no field {unknown[0]!r}; the fields are: {', '.join(known)}"
        )
    return Profile(**fields)
