"""What a fault does to an answer, by name. Pure: each effect says what is wrong, and sends nothing.

`catalogue` makes them by name.
"""

import math
import random
from collections.abc import Mapping
from email.utils import formatdate
from enum import Enum
from typing import Final, TypeAlias

from attrs import field, frozen
from attrs.validators import optional

from adepoll.emulator import checks


class Endpoint(Enum):
    """Where a request goes: one job, the list, a submission, or the origin of the results."""

    GET = "get"
    LIST = "list"
    CREATE = "create"
    RESULT = "result"


_ALL: Final = frozenset(Endpoint)
_API: Final = _ALL - {Endpoint.RESULT}
_READ: Final = frozenset({Endpoint.GET, Endpoint.LIST})
_LONGEST_DELAY: Final = 3_600.0


class Shape(Enum):
    """How a latency is distributed."""

    CONSTANT = "constant"
    UNIFORM = "uniform"
    EXPONENTIAL = "exponential"
    LOGNORMAL = "lognormal"


@frozen(kw_only=True)
class Latency:
    """The answer comes late.

    Attributes:
        shape: Of the distribution. `UNIFORM` is from 0 to twice the median.
        median: In seconds. No delay is longer than an hour.
        sigma: Standard deviation of the logarithm, for `LOGNORMAL` alone.
    """

    shape: Shape = field(default=Shape.LOGNORMAL, converter=Shape)
    median: float = field(default=0.5, validator=checks.finite)
    sigma: float = field(default=1.0, validator=checks.finite)

    @property
    def name(self) -> str:
        """The name in the catalogue."""
        return "latency"

    @property
    def endpoints(self) -> frozenset[Endpoint]:
        """Where it can happen."""
        return _ALL

    def draw(self, rng: random.Random) -> float:
        """Draw one delay, in seconds."""
        factor = 1.0
        if self.shape is Shape.UNIFORM:
            factor = rng.uniform(0.0, 2.0)
        elif self.shape is Shape.EXPONENTIAL:
            factor = rng.expovariate(math.log(2))
        elif self.shape is Shape.LOGNORMAL:
            # Over 700, exp would overflow; the longest delay is far below.
            factor = math.exp(min(rng.gauss(0.0, self.sigma), 700.0))
        return min(self.median * factor, _LONGEST_DELAY)


class RetryAfter(Enum):
    """In which form a refusal says when to come back (RFC 9110, 2022, section 10.2.3)."""

    ABSENT = "absent"
    SECONDS = "seconds"
    DATE = "date"
    ABSURD = "absurd"

    def told(self, wait: float, *, now: float, rng: random.Random) -> tuple[str | None, float]:
        """Give the header, and the Unix second before which it asks not to come back.

        Nothing is asked for (0.0) by an absent header or an absurd one, which a client may read as
        it can.

        Args:
            wait: Seconds until coming back is of use.
            now: Unix seconds.
            rng: Chooses the absurdity.
        """
        if self is RetryAfter.SECONDS:
            seconds = math.ceil(wait)
            return str(seconds), now + seconds
        if self is RetryAfter.DATE:
            until = math.ceil(now + wait)
            return formatdate(until, usegmt=True), float(until)
        if self is RetryAfter.ABSURD:
            return rng.choice(ABSURD_WAITS), 0.0
        return None, 0.0


ABSURD_WAITS: Final = (
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
"""What `RetryAfter.ABSURD` writes."""


@frozen(kw_only=True)
class RateLimit:
    """429 to whoever asks more often than a token bucket allows.

    Attributes:
        rate: Tokens that come back per second; each request takes one.
        burst: The most that the bucket holds, and what it starts with.
        retry_after: The form of `Retry-After`, which tells when the next token comes, or a wait
            between `wait_min` and `wait_max`.
        wait_min: The shortest wait that is told, in seconds; None for until the next token.
        wait_max: The longest one; None for `wait_min`.
    """

    rate: float = field(default=10.0, validator=checks.positive)
    burst: float = field(default=10.0, validator=checks.at_least_one)
    retry_after: RetryAfter = field(default=RetryAfter.SECONDS, converter=RetryAfter)
    wait_min: float | None = field(default=None, validator=optional(checks.finite))
    wait_max: float | None = field(default=None, validator=optional(checks.finite))

    def __attrs_post_init__(self) -> None:
        """Refuse a range without a beginning, or that ends before it."""
        if self.wait_max is not None and (self.wait_min is None or self.wait_max < self.wait_min):
            raise ValueError(
                f"wait_max must be at least wait_min, not {self.wait_max!r} < {self.wait_min!r}"
            )

    def wait(self, until_token: float, rng: random.Random) -> float:
        """Draw how long to ask a client to wait, in seconds.

        Args:
            until_token: Seconds until the next token.
            rng: Draws between `wait_min` and `wait_max`.
        """
        if self.wait_min is None:
            return until_token
        return rng.uniform(self.wait_min, self.wait_max or self.wait_min)

    @property
    def name(self) -> str:
        """The name in the catalogue."""
        return "rate-limit"

    @property
    def endpoints(self) -> frozenset[Endpoint]:
        """Where it can happen."""
        return _API


class Refusal(Enum):
    """A status that is no success, for no fault of the request."""

    SERVER_ERROR = "server-error"
    TOO_MANY_REQUESTS = "too-many-requests"
    UNAUTHORIZED = "unauthorized"
    PAYMENT_REQUIRED = "payment-required"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not-found"
    REQUEST_TIMEOUT = "request-timeout"


REFUSALS: Final[Mapping[Refusal, tuple[int, ...]]] = {
    Refusal.SERVER_ERROR: (500, 502, 503, 504),
    Refusal.TOO_MANY_REQUESTS: (429,),
    Refusal.UNAUTHORIZED: (401,),
    Refusal.PAYMENT_REQUIRED: (402,),
    Refusal.FORBIDDEN: (403,),
    Refusal.NOT_FOUND: (404,),
    Refusal.REQUEST_TIMEOUT: (408,),
}
"""The statuses that each `Refusal` draws from."""


@frozen(kw_only=True)
class Refuse:
    """The request is refused.

    Attributes:
        kind: How.
        retry_after: The form of `Retry-After`, which tells `wait`.
        wait: In seconds.
    """

    kind: Refusal
    retry_after: RetryAfter = field(default=RetryAfter.ABSENT, converter=RetryAfter)
    wait: float = field(default=1.0, validator=checks.finite)

    @property
    def name(self) -> str:
        """The name in the catalogue."""
        return self.kind.value

    @property
    def endpoints(self) -> frozenset[Endpoint]:
        """Where it can happen."""
        return _ALL if self.kind is Refusal.SERVER_ERROR else _API


class Break(Enum):
    """How the answer breaks off, or fails to end."""

    SILENT = "silent"
    RESET_BEFORE_HEADERS = "reset-before-headers"
    RESET_IN_HEADERS = "reset-in-headers"
    RESET_AFTER_HEADERS = "reset-after-headers"
    RESET_IN_BODY = "reset-in-body"
    TRUNCATED = "truncated"
    STALLED = "stalled"
    NEVER_ENDING = "never-ending"
    EXPIRED_IN_MID_DOWNLOAD = "expired-in-mid-download"

    @property
    def endpoints(self) -> frozenset[Endpoint]:
        """Where it can happen."""
        at_results = self is Break.EXPIRED_IN_MID_DOWNLOAD
        return frozenset({Endpoint.RESULT}) if at_results else _ALL


@frozen(kw_only=True)
class Overlong:
    """The body is followed by blanks, which JSON allows, and is as long as announced.

    Attributes:
        extra_bytes: How many.
    """

    extra_bytes: int = field(default=64_000_000, validator=checks.positive)

    @property
    def name(self) -> str:
        """The name in the catalogue."""
        return "overlong"

    @property
    def endpoints(self) -> frozenset[Endpoint]:
        """Where it can happen."""
        return _ALL


@frozen(kw_only=True)
class WrongLength:
    """`Content-Length` lies.

    Attributes:
        by: What is announced less what is sent, in bytes. Below 0, the end of the body stands
            where the next answer should; above, the connection is closed too early.
    """

    by: int = -1

    @property
    def name(self) -> str:
        """The name in the catalogue."""
        return "wrong-length"

    @property
    def endpoints(self) -> frozenset[Endpoint]:
        """Where it can happen."""
        return _ALL


@frozen(kw_only=True)
class Throttle:
    """The body comes slowly.

    Attributes:
        rate: Bytes per second.
    """

    rate: float = field(default=20_000.0, validator=checks.positive)

    @property
    def name(self) -> str:
        """The name in the catalogue."""
        return "throttled"

    @property
    def endpoints(self) -> frozenset[Endpoint]:
        """Where it can happen."""
        return _ALL


class Corruption(Enum):
    """What is wrong with the body of an answer whose status is fine."""

    HTML = "html"
    INVALID_JSON = "invalid-json"
    EMPTY_BODY = "empty-body"
    NOT_AN_OBJECT = "not-an-object"
    WRONG_JOB_ID = "wrong-job-id"
    UNKNOWN_STATUS = "unknown-status"
    MISSING_STATUS = "missing-status"
    BACKWARD_STATUS = "backward-status"
    NAN = "nan"
    HUGE_INTEGER = "huge-integer"
    DEEP_NESTING = "deep-nesting"
    LONE_SURROGATE = "lone-surrogate"
    DUPLICATE_KEYS = "duplicate-keys"

    @property
    def endpoints(self) -> frozenset[Endpoint]:
        """Where it can happen."""
        return frozenset({Endpoint.GET}) if self in _OF_ONE_JOB else _READ


_OF_ONE_JOB: Final = frozenset({Corruption.WRONG_JOB_ID, Corruption.BACKWARD_STATUS})


class Distortion(Enum):
    """What is wrong with a page of the list, though each item is right."""

    MISSING_ITEMS = "missing-items"
    MISSING_PAGE = "missing-page"
    SHIFTING_PAGES = "shifting-pages"
    ENDLESS_LIST = "endless-list"

    @property
    def endpoints(self) -> frozenset[Endpoint]:
        """Where it can happen."""
        return frozenset({Endpoint.LIST})


class Trick(Enum):
    """What else the origin of the results may do."""

    CHANGING_ETAG = "changing-etag"
    RANGE_IGNORED = "range-ignored"
    GZIP_UNASKED = "gzip-unasked"

    @property
    def endpoints(self) -> frozenset[Endpoint]:
        """Where it can happen."""
        return frozenset({Endpoint.RESULT})


@frozen(kw_only=True)
class Redirect:
    """307 to another origin.

    Attributes:
        location: Where to; None for the origin of the results under another name, which counts
            what keys and cookies arrive with the request.
    """

    location: str | None = None

    @property
    def name(self) -> str:
        """The name in the catalogue."""
        return "redirect"

    @property
    def endpoints(self) -> frozenset[Endpoint]:
        """Where it can happen."""
        return _ALL


Effect: TypeAlias = (
    Latency
    | RateLimit
    | Refuse
    | Break
    | Overlong
    | WrongLength
    | Throttle
    | Corruption
    | Distortion
    | Trick
    | Redirect
)


def name_of(effect: Effect) -> str:
    """Give the name of an effect in the catalogue."""
    return effect.value if isinstance(effect, Enum) else effect.name
