"""Error statuses that faults send instead of the answer, and their `Retry-After`. Does no I/O."""

import math
import random
from collections.abc import Mapping
from email.utils import formatdate
from enum import Enum
from typing import ClassVar, Final

from attrs import field, frozen
from attrs.validators import optional

from adepoll.common.safe_repr import SafeRepr
from adepoll.emulator import validators
from adepoll.emulator.endpoints import ALL_ENDPOINTS, API_ENDPOINTS, Endpoint


class RetryAfter(Enum):
    """The form of the `Retry-After` header of a refusal (RFC 9110, 2022, section 10.2.3)."""

    ABSENT = "absent"
    SECONDS = "seconds"
    DATE = "date"
    ABSURD = "absurd"

    def header(self, wait: float, *, now: float, rng: random.Random) -> tuple[str | None, float]:
        """Return the header's value, and the Unix time until which it asks the client to wait.

        If the header is absent, the value is None and the time is 0.0. If the value is absurd, the
        time is 0.0, because clients interpret absurd values in different ways.

        Args:
            wait: Seconds that the client should wait.
            now: Unix seconds.
            rng: Draws the absurd value.
        """
        if self is RetryAfter.SECONDS:
            seconds = math.ceil(wait)
            return str(seconds), now + seconds
        if self is RetryAfter.DATE:
            until = math.ceil(now + wait)
            return formatdate(until, usegmt=True), float(until)
        if self is RetryAfter.ABSURD:
            return rng.choice(ABSURD_VALUES), 0.0
        return None, 0.0


ABSURD_VALUES: Final = (
    "-5",
    "soon",
    "1e9",
    "nan",
    "99999999999999999999",
    "31536000",
    "Thu, 01 Jan 1970 00:00:00 GMT",
    "Fri, 31 Dec 9999 23:59:59 GMT",
    "Mon, 32 Foo 2025 25:61:61 GMT",
)
"""The values that `RetryAfter.ABSURD` draws from."""


@frozen(kw_only=True)
class RateLimit(SafeRepr):
    """The effect of a fault: requests above a rate get a 429. A token bucket measures the rate.

    Attributes:
        rate: Tokens added per second; each request takes one.
        burst: Largest number of tokens in the bucket, which starts full.
        retry_after: Form of `Retry-After`. It contains the time until the next token, or a wait
            drawn between `wait_min` and `wait_max`.
        wait_min: Shortest drawn wait, in seconds; None for the time until the next token.
        wait_max: Longest drawn wait, in seconds; None for `wait_min`.
    """

    name: ClassVar[str] = "rate-limit"
    endpoints: ClassVar[frozenset[Endpoint]] = API_ENDPOINTS

    rate: float = field(default=10.0, validator=validators.POSITIVE)
    burst: float = field(default=10.0, validator=validators.AT_LEAST_ONE)
    retry_after: RetryAfter = field(default=RetryAfter.SECONDS, converter=RetryAfter)
    wait_min: float | None = field(default=None, validator=optional(validators.FINITE))
    wait_max: float | None = field(default=None, validator=optional(validators.FINITE))

    def __attrs_post_init__(self) -> None:
        """Raise `ValueError` unless `wait_max` is at least `wait_min`."""
        if self.wait_max is not None and (self.wait_min is None or self.wait_max < self.wait_min):
            raise ValueError(
                f"wait_max must be at least wait_min, not {self.wait_max!r} < {self.wait_min!r}"
            )

    def wait(self, until_token: float, rng: random.Random) -> float:
        """Return the seconds that a refused client should wait.

        This is a random number between `wait_min` and `wait_max` if they are set. If not, it is the
        time until the next token.

        Args:
            until_token: Seconds until the token bucket has its next token.
            rng: Draws between `wait_min` and `wait_max`.
        """
        if self.wait_min is None:
            return until_token
        return rng.uniform(self.wait_min, self.wait_max or self.wait_min)


class RefusalKind(Enum):
    """The kinds of errors that faults send; `STATUSES` lists the HTTP statuses of each kind."""

    SERVER_ERROR = "server-error"
    TOO_MANY_REQUESTS = "too-many-requests"
    UNAUTHORIZED = "unauthorized"
    PAYMENT_REQUIRED = "payment-required"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not-found"
    REQUEST_TIMEOUT = "request-timeout"
    CONFLICT = "conflict"


STATUSES: Final[Mapping[RefusalKind, tuple[int, ...]]] = {
    RefusalKind.SERVER_ERROR: (500, 502, 503, 504),
    RefusalKind.TOO_MANY_REQUESTS: (429,),
    RefusalKind.UNAUTHORIZED: (401,),
    RefusalKind.PAYMENT_REQUIRED: (402,),
    RefusalKind.FORBIDDEN: (403,),
    RefusalKind.NOT_FOUND: (404,),
    RefusalKind.REQUEST_TIMEOUT: (408,),
    RefusalKind.CONFLICT: (409,),
}
"""The HTTP statuses of each `RefusalKind`. Each refusal draws one of them."""


@frozen(kw_only=True)
class Refusal(SafeRepr):
    """The effect of a fault: the request gets an error status.

    Attributes:
        kind: The kind of error.
        retry_after: Form of `Retry-After`.
        wait: Seconds in `Retry-After`.
    """

    kind: RefusalKind = field(converter=RefusalKind)
    retry_after: RetryAfter = field(default=RetryAfter.ABSENT, converter=RetryAfter)
    wait: float = field(default=1.0, validator=validators.FINITE)

    @property
    def name(self) -> str:
        """Name of the fault, such as ``server-error``."""
        return self.kind.value

    @property
    def endpoints(self) -> frozenset[Endpoint]:
        """The endpoints at which the effect can happen."""
        # 409 means that a job with the same identifier is being created, so only a submission can
        # get this status.
        if self.kind is RefusalKind.CONFLICT:
            return frozenset({Endpoint.CREATE})
        return ALL_ENDPOINTS if self.kind is RefusalKind.SERVER_ERROR else API_ENDPOINTS


@frozen(kw_only=True)
class RefusalResponse:
    """The error status that one request gets.

    Attributes:
        status: HTTP status.
        retry_after: Value of `Retry-After`; None if the response has no such header.
        until: Unix time until which the header asks the client to wait; 0.0 if the header is absent
            or has no usable value.
    """

    status: int
    retry_after: str | None
    until: float

    @classmethod
    def draw(
        cls, effect: RateLimit | Refusal, *, until_token: float, now: float, rng: random.Random
    ) -> "RefusalResponse":
        """Draw the status and the `Retry-After` that one refused request gets.

        Args:
            effect: The rate limit or refusal.
            until_token: For a `RateLimit`: seconds until its token bucket has the next token.
            now: Unix seconds.
            rng: Source of the random choices.
        """
        if isinstance(effect, RateLimit):
            status, wait = 429, effect.wait(until_token, rng)
        else:
            status, wait = rng.choice(STATUSES[effect.kind]), effect.wait
        retry_after, until = effect.retry_after.header(wait, now=now, rng=rng)
        return cls(status=status, retry_after=retry_after, until=until)
