"""RetryPolicy: how often a failed request is repeated, and the waits between the attempts.

Only this module imports backoff. It imports nothing of adepoll.
"""

import math
from collections.abc import Iterator
from random import Random

import backoff
from attrs import field, frozen
from attrs.validators import ge, gt

from adepoll.common.safe_repr import SafeRepr


def _finite(_instance: object, attribute: object, value: float) -> None:
    """Raise ValueError if the value of an attribute is infinite or NaN."""
    if not math.isfinite(value):
        name = getattr(attribute, "name", "value")
        raise ValueError(f"{name} must be finite, got {value}")


@frozen(kw_only=True)
class RetryPolicy(SafeRepr):
    """How often and when a request is repeated after it failed for a temporary reason.

    The wait before each retry is a random number of seconds between 0 and a maximum that grows
    exponentially ("full jitter", M. Brooker, AWS Architecture Blog, 2015). All retries of a client
    share one retry budget, which successful requests refill (Finagle's RetryBudget). So retries do
    not multiply the requests during an outage.

    If clients share a `RateLimiter`, the policy of the `RateLimiter` decides the retry budget. Then
    `budget` and `refill` of the clients' own policies have no effect.

    Attributes:
        attempts: Largest number of requests for one call; 1 means no retry.
        base: Maximum of the first wait, in seconds.
        factor: Growth of the maximum from one wait to the next.
        max_wait: Upper limit of this maximum, in seconds.
        budget: Number of retries that are available at the start. Refilling never raises the number
            above it.
        refill: Number of retries that one successful request adds to the retry budget. With 0.2,
            there can be one retry for every five successful requests in the long run.

    Raises:
        ValueError: A number is out of range.
    """

    attempts: int = field(default=5, validator=ge(1))
    base: float = field(default=0.5, validator=[_finite, gt(0)])
    factor: float = field(default=2.0, validator=[_finite, ge(1)])
    max_wait: float = field(default=30.0, validator=[_finite, gt(0)])
    budget: float = field(default=50.0, validator=[_finite, ge(0)])
    refill: float = field(default=0.2, validator=[_finite, ge(0)])

    def waits(self, rng: Random) -> Iterator[float]:
        """Yield the seconds to wait before each retry, without end; `rng` provides the jitter."""
        # Not `backoff.full_jitter`: it uses the global random generator, but these waits must be
        # reproducible.
        bounds = backoff.expo(base=self.factor, factor=self.base, max_value=self.max_wait)
        next(bounds)  # a generator of backoff yields None first
        for bound in bounds:
            yield rng.uniform(0, bound)
