"""The effects that faults have on answers, and the names of all faults. Does no I/O."""

import math
import random
from collections.abc import Mapping
from enum import Enum
from typing import ClassVar, Final, TypeAlias

import attrs
from attrs import field, frozen

from adepoll.common.safe_repr import SafeRepr
from adepoll.emulator import validators
from adepoll.emulator.endpoints import ALL_ENDPOINTS, READING_ENDPOINTS, Endpoint
from adepoll.emulator.refusals import RateLimit, Refusal, RefusalKind

_LONGEST_DELAY: Final = 3_600.0  # seconds


class LatencyShape(Enum):
    """The distribution of a latency."""

    CONSTANT = "constant"
    UNIFORM = "uniform"
    EXPONENTIAL = "exponential"
    LOGNORMAL = "lognormal"


@frozen(kw_only=True)
class Latency(SafeRepr):
    """The effect of a fault: the answer is delayed.

    Attributes:
        shape: Distribution of the delay. `UNIFORM` ranges from 0 to twice the median.
        median: Median delay, in seconds. A delay is at most one hour.
        sigma: Standard deviation of the delay's logarithm, for `LOGNORMAL` only.
    """

    name: ClassVar[str] = "latency"
    endpoints: ClassVar[frozenset[Endpoint]] = ALL_ENDPOINTS

    shape: LatencyShape = field(default=LatencyShape.LOGNORMAL, converter=LatencyShape)
    median: float = field(default=0.5, validator=validators.FINITE)
    sigma: float = field(default=1.0, validator=validators.FINITE)

    def draw(self, rng: random.Random) -> float:
        """Return a random delay, in seconds."""
        factor = 1.0
        if self.shape is LatencyShape.UNIFORM:
            factor = rng.uniform(0.0, 2.0)
        elif self.shape is LatencyShape.EXPONENTIAL:
            factor = rng.expovariate(math.log(2))
        elif self.shape is LatencyShape.LOGNORMAL:
            # `math.exp` overflows above 709. At 700, the delay is already cut to one hour.
            factor = math.exp(min(rng.gauss(0.0, self.sigma), 700.0))
        return min(self.median * factor, _LONGEST_DELAY)


class ConnectionFailure(Enum):
    """How the transfer of an answer fails: it breaks off, stops, or never ends."""

    SILENT = "silent"
    RESET_BEFORE_HEADERS = "reset-before-headers"
    RESET_IN_HEADERS = "reset-in-headers"
    RESET_AFTER_HEADERS = "reset-after-headers"
    RESET_IN_BODY = "reset-in-body"
    TRUNCATED = "truncated"
    STALLED = "stalled"
    NEVER_ENDING = "never-ending"
    EXPIRED_MID_DOWNLOAD = "expired-mid-download"

    @property
    def endpoints(self) -> frozenset[Endpoint]:
        """The endpoints at which the effect can happen."""
        if self is ConnectionFailure.EXPIRED_MID_DOWNLOAD:
            return frozenset({Endpoint.RESULT})
        return ALL_ENDPOINTS


@frozen(kw_only=True)
class OverlongBody(SafeRepr):
    """The effect of a fault: spaces follow the body, which JSON allows.

    `Content-Length` includes the spaces.

    Attributes:
        extra_bytes: Number of spaces.
    """

    name: ClassVar[str] = "overlong"
    endpoints: ClassVar[frozenset[Endpoint]] = ALL_ENDPOINTS

    extra_bytes: int = field(default=64_000_000, validator=validators.POSITIVE)


@frozen(kw_only=True)
class WrongLength(SafeRepr):
    """The effect of a fault: `Content-Length` differs from the length of the body.

    Attributes:
        by: `Content-Length` minus the length of the sent body, in bytes. If it is negative, the
            client takes the last bytes for the start of the next answer. If it is positive, the
            connection closes before the client has received all announced bytes.
    """

    name: ClassVar[str] = "wrong-length"
    endpoints: ClassVar[frozenset[Endpoint]] = ALL_ENDPOINTS

    by: int = -1


@frozen(kw_only=True)
class SlowBody(SafeRepr):
    """The effect of a fault: the body is sent slowly.

    Attributes:
        rate: Bytes per second.
    """

    name: ClassVar[str] = "slow-body"
    endpoints: ClassVar[frozenset[Endpoint]] = ALL_ENDPOINTS

    rate: float = field(default=20_000.0, validator=validators.POSITIVE)


class Corruption(Enum):
    """How the body of an answer is wrong, although the status says success."""

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
        """The endpoints at which the effect can happen."""
        if self in {Corruption.WRONG_JOB_ID, Corruption.BACKWARD_STATUS}:
            return frozenset({Endpoint.GET})
        return READING_ENDPOINTS


class ListDistortion(Enum):
    """How a page of the job list is wrong, although each job on it is correct."""

    MISSING_ITEMS = "missing-items"
    MISSING_PAGE = "missing-page"
    SHIFTING_PAGES = "shifting-pages"
    ENDLESS_LIST = "endless-list"

    @property
    def endpoints(self) -> frozenset[Endpoint]:
        """The endpoints at which the effect can happen."""
        return frozenset({Endpoint.LIST})


class StorageEffect(Enum):
    """Unexpected behaviour of the storage of large results."""

    CHANGING_ETAG = "changing-etag"
    RANGE_IGNORED = "range-ignored"
    UNREQUESTED_GZIP = "unrequested-gzip"

    @property
    def endpoints(self) -> frozenset[Endpoint]:
        """The endpoints at which the effect can happen."""
        return frozenset({Endpoint.RESULT})


@frozen(kw_only=True)
class Redirect(SafeRepr):
    """The effect of a fault: the answer is a redirect to another origin, with status 307.

    Attributes:
        location: Target URL. None for the storage of large results under another host name. There,
            requests with a key or a cookie are counted as leaks.
    """

    name: ClassVar[str] = "redirect"
    endpoints: ClassVar[frozenset[Endpoint]] = ALL_ENDPOINTS

    location: str | None = None


Effect: TypeAlias = (
    Latency
    | RateLimit
    | Refusal
    | ConnectionFailure
    | OverlongBody
    | WrongLength
    | SlowBody
    | Corruption
    | ListDistortion
    | StorageEffect
    | Redirect
)

_CLASSES: Final[Mapping[str, type]] = {
    **{
        cls.name: cls for cls in (Latency, RateLimit, OverlongBody, WrongLength, SlowBody, Redirect)
    },
    **{kind.value: Refusal for kind in RefusalKind},
}
_MEMBERS: Final[Mapping[str, ConnectionFailure | Corruption | ListDistortion | StorageEffect]] = {
    member.value: member
    for kind in (ConnectionFailure, Corruption, ListDistortion, StorageEffect)
    for member in kind
}

FAULT_NAMES: Final = (*_CLASSES, *_MEMBERS)
"""The names of all faults, which `--fault`, a settings file and `make_fault` accept."""


def name_of(effect: Effect) -> str:
    """Return the name of the fault that has this effect."""
    return effect.value if isinstance(effect, Enum) else effect.name


def effect_class(name: str) -> type | None:
    """Return the attrs class whose fields are a fault's options; None for a fault without options.

    Raises:
        ValueError: There is no fault of that name.
    """
    if name not in FAULT_NAMES:
        raise ValueError(f"no fault is named {name!r}; faults: {', '.join(FAULT_NAMES)}")
    return _CLASSES.get(name)


def option_names(name: str) -> tuple[str, ...]:
    """Return the names of the options of a fault's effect.

    Raises:
        ValueError: There is no fault of that name.
    """
    cls = effect_class(name)
    return () if cls is None else tuple(key for key in attrs.fields_dict(cls) if key != "kind")


def make_effect(name: str, **options: object) -> Effect:
    """Return the effect of the fault `name`. The options become fields of the effect.

    Raises:
        ValueError: There is no fault of that name, the fault has no such option, or the value of an
            option is out of range.
    """
    known = option_names(name)
    for option in options:
        if option not in known:
            raise ValueError(
                f"fault {name!r} has no option {option!r}; options: {', '.join(known) or 'none'}"
            )
    if (cls := effect_class(name)) is None:
        return _MEMBERS[name]
    if cls is Refusal:
        options["kind"] = name
    effect: Effect = cls(**options)
    return effect
