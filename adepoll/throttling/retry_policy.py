"""RetryPolicy: when a failed request is repeated, apart from 429. Imports nothing of adepoll.

This is the only importer of backoff. `rate_limiter` handles a 429, and `api.retry_after` parses
Retry-After.
"""

import math
from collections.abc import Iterator
from random import Random

import backoff
from attrs import field, frozen
from attrs.validators import ge, gt


def _finite(_instance: object, attribute: object, value: float) -> None:
    if not math.isfinite(value):
        name = getattr(attribute, "name", "value")
        raise ValueError(f"{name} must be finite, got {value}")


@frozen(kw_only=True)
class RetryPolicy:
    """When a request that failed for a temporary reason is sent again.

    Waits are drawn evenly between 0 and a bound that grows exponentially ("full jitter", M.
    Brooker, AWS Architecture Blog, 2015). All retries of a client share one budget, which
    successful requests refill (Finagle's RetryBudget), so that retries do not multiply the
    requests during an outage.

    Attributes:
        attempts: Largest number of requests for one call; 1 means no retry.
        base: Bound of the first wait, seconds.
        factor: Growth of the bound from one wait to the next.
        max_wait: Largest bound, seconds.
        budget: Retries that are available at the start, and at most.
        refill: Retries that one successful request adds to the budget. With 0.2, one request in
            five can be a retry in the long run.
    """

    attempts: int = field(default=5, validator=ge(1))
    base: float = field(default=0.5, validator=[_finite, gt(0)])
    factor: float = field(default=2.0, validator=[_finite, ge(1)])
    max_wait: float = field(default=30.0, validator=[_finite, gt(0)])
    budget: float = field(default=50.0, validator=[_finite, ge(0)])
    refill: float = field(default=0.2, validator=[_finite, ge(0)])

    def waits(self, rng: Random) -> Iterator[float]:
        """Yield the waits before each retry, in seconds, without end."""
        # backoff's own full_jitter uses the global generator; these waits must be reproducible.
        bounds = backoff.expo(base=self.factor, factor=self.base, max_value=self.max_wait)
        next(bounds)  # the first value of a backoff generator is not a wait
        for bound in bounds:
            yield rng.uniform(0, bound)
