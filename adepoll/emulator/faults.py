"""Faults: effects, and the requests to which they happen. Reproducible from a seed; no I/O."""

import hashlib
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from attrs import define, field, frozen

from adepoll.common.safe_repr import SafeRepr
from adepoll.emulator import validators
from adepoll.emulator.effects import Effect, make_effect, name_of
from adepoll.emulator.endpoints import Endpoint
from adepoll.emulator.kinds import DEFAULT_KIND, rules_of
from adepoll.emulator.refusals import RateLimit

_CHANCE_SCALE: Final = 2**64


def _check_window(
    _instance: object, _attribute: object, window: tuple[float, float] | None
) -> None:
    if window is not None and not 0 <= window[0] < window[1]:
        raise ValueError(f"'window' must be 0 <= start < end, in seconds: {window!r}")


def _set_of_endpoints(values: Iterable[Endpoint | str] | None) -> frozenset[Endpoint] | None:
    return None if values is None else frozenset(map(Endpoint, values))


def _set_of_jobs(values: Iterable[str] | None) -> frozenset[str] | None:
    # A string would become the set of its letters, which match no job.
    if isinstance(values, str):
        raise TypeError("jobs must be several job ids, not one string")
    return None if values is None else frozenset(values)


def _set_of_kinds(values: Iterable[str] | None) -> frozenset[str] | None:
    if isinstance(values, str):
        raise TypeError("kinds must be several kinds of jobs, not one string")
    return None if values is None else frozenset(rules_of(kind).name for kind in values)


@frozen(kw_only=True)
class When(SafeRepr):
    """The conditions under which a fault applies to a request. All of them must hold.

    Attributes:
        chance: Probability that the fault applies to a request, 0 to 1. Each request has its own
            draw.
        window: Start (included) and end (excluded) of the period in which the fault applies, in
            seconds after the fault was added; None for always.
        every: Seconds after which the window repeats; None for a single window.
        endpoints: Endpoints of the requests; None for all endpoints at which the effect can happen.
        jobs: Ids of jobs. The fault applies only to requests about these jobs and their results;
            None for all requests.
        kinds: Kinds of jobs, such as ``v2-parse``. The fault applies only to requests about jobs of
            these kinds, and to their lists; None for all requests.
        times: Largest number of requests to which the fault applies; None for no limit.
    """

    chance: float = field(default=1.0, validator=validators.SHARE)
    window: tuple[float, float] | None = field(default=None, validator=_check_window)
    every: float | None = None
    endpoints: frozenset[Endpoint] | None = field(default=None, converter=_set_of_endpoints)
    jobs: frozenset[str] | None = field(default=None, converter=_set_of_jobs)
    kinds: frozenset[str] | None = field(default=None, converter=_set_of_kinds)
    times: int | None = None

    def __attrs_post_init__(self) -> None:
        """Raise `ValueError` if `every` is less than the end of the window, or `times` below 0."""
        if self.every is not None and (self.window is None or not self.every >= self.window[1]):
            raise ValueError(f"'every' must be at least the end of the window: {self.every!r}")
        if self.times is not None and self.times < 0:
            raise ValueError(f"'times' must be at least 0: {self.times!r}")

    def is_open(self, age: float) -> bool:
        """Return whether the window is open `age` seconds after the fault was added."""
        if self.window is None:
            return True
        moment = age if self.every is None else math.fmod(age, self.every)
        return self.window[0] <= moment < self.window[1]


@frozen(kw_only=True)
class Fault(SafeRepr):
    """An effect, and the requests to which it happens.

    Attributes:
        effect: What happens to a request.
        when: The conditions that a request must meet.
    """

    effect: Effect
    when: When = When()

    def __attrs_post_init__(self) -> None:
        """Raise `ValueError` for endpoints at which the effect cannot happen."""
        if impossible := (self.when.endpoints or frozenset()) - self.effect.endpoints:
            names = ", ".join(sorted(endpoint.value for endpoint in impossible))
            raise ValueError(f"fault {self.name!r} cannot happen at endpoints: {names}")

    @property
    def name(self) -> str:
        """The name of the fault and of its effect."""
        return name_of(self.effect)

    @property
    def endpoints(self) -> frozenset[Endpoint]:
        """The endpoints at which the fault can apply to a request."""
        return self.effect.endpoints if self.when.endpoints is None else self.when.endpoints


def make_fault(
    name: str,
    *,
    chance: float = 1.0,
    window: tuple[float, float] | None = None,
    every: float | None = None,
    endpoints: Iterable[Endpoint | str] | None = None,
    jobs: Iterable[str] | None = None,
    kinds: Iterable[str] | None = None,
    times: int | None = None,
    **options: object,
) -> Fault:
    """Return the fault `name`.

    `When` describes the arguments from `chance` to `times`. All other arguments are options of the
    fault.

    Raises:
        ValueError: There is no such fault, option or endpoint, or a value is out of range.
    """
    when = When(
        chance=chance, window=window, every=every, endpoints=endpoints, jobs=jobs, kinds=kinds,
        times=times,
    )  # fmt: skip
    return Fault(effect=make_effect(name, **options), when=when)


@frozen
class AppliedFault:
    """A fault that applies to one request.

    Attributes:
        fault: The fault.
        rng: Draws the random values of the effect. Its own seed depends only on the seed of the
            world, the fault and the request.
        until_token: For a `RateLimit`: seconds until its token bucket has the next token; 0.0 for
            other effects.
    """

    fault: Fault
    rng: random.Random = field(repr=False)
    until_token: float = 0.0

    @property
    def effect(self) -> Effect:
        """What happens to the request."""
        return self.fault.effect


@define
class _TokenBucket:
    tokens: float
    updated_at: float

    def take(self, limit: RateLimit, now: float) -> float:
        """Remove a token, and return 0.0. Return the seconds to the next one if there is no token.

        `limit` has the size and rate of the bucket; `now` is in Unix seconds.
        """
        elapsed = max(now - self.updated_at, 0.0)
        self.tokens = min(self.tokens + elapsed * limit.rate, limit.burst)
        self.updated_at = max(now, self.updated_at)
        if self.tokens >= 1:
            self.tokens -= 1
            return 0.0
        return (1 - self.tokens) / limit.rate


@define
class _ActiveFault:
    fault: Fault
    number: int
    added_at: float
    applied: int = 0
    bucket: _TokenBucket | None = None


@frozen
class _Request:
    endpoint: Endpoint
    job_id: str | None
    kind: str
    now: float
    # Identifies the request in every run: "get/2/ID" is the third poll of the job with this id.
    text: str


@define(kw_only=True, eq=False)
class Faults(SafeRepr):
    """The active faults of a world. Several can apply to the same request.

    The draw for the `chance` of a fault depends only on four things: the seed, the number of faults
    that were added before, the job, and the number of earlier requests about this job to the same
    endpoint. (Requests while no fault was active are not counted.) So the order in which requests
    about different jobs arrive does not change the draw.

    Attributes:
        seed: Determines everything random.
        clock: Returns Unix seconds. It is called when a fault with a window is added.
        counts: Number of requests to which a fault applied, by the name of the fault.
    """

    seed: int = 0
    clock: Callable[[], float] = field(default=time.time, repr=False)
    counts: Counter[str] = field(init=False, factory=Counter)
    _active: list[_ActiveFault] = field(init=False, factory=list)
    _by_endpoint: dict[Endpoint, list[_ActiveFault]] = field(init=False, factory=dict, repr=False)
    _requests: Counter[tuple[Endpoint, str]] = field(init=False, factory=Counter, repr=False)
    _added: int = field(init=False, default=0)

    def add(self, fault: Fault | str, **options: object) -> Fault:
        """Activate a fault and return it. A name and options are passed to `make_fault`.

        Raises:
            ValueError: There is no such fault, option or endpoint, or a value is out of range.
            TypeError: Options were passed together with a `Fault`.
        """
        if isinstance(fault, str):
            fault = make_fault(fault, **options)  # type: ignore[arg-type]  # make_fault checks them
        elif options:
            raise TypeError("options can only be passed with the name of a fault, not with a Fault")
        added_at = self.clock() if fault.when.window is not None else 0.0
        self._active.append(_ActiveFault(fault, self._added, added_at))
        self._by_endpoint.clear()
        self._added += 1
        return fault

    def remove(self, fault: Fault) -> None:
        """Deactivate a fault.

        Raises:
            ValueError: The fault is not active.
        """
        for index, active in enumerate(self._active):
            if active.fault is fault:
                del self._active[index]
                self._by_endpoint.clear()
                return
        raise ValueError(f"fault {fault.name!r} is not active")

    def clear(self) -> None:
        """Deactivate all faults; `counts` stays as it is."""
        self._active.clear()
        self._by_endpoint.clear()

    def __len__(self) -> int:
        """Return the number of active faults, including those whose window is closed now."""
        return len(self._active)

    def __iter__(self) -> Iterator[Fault]:
        """Iterate over the active faults, in the order in which they were added."""
        return iter([active.fault for active in self._active])

    def select(
        self, endpoint: Endpoint, job_id: str | None, now: float, *, kind: str = DEFAULT_KIND
    ) -> tuple[AppliedFault, ...]:
        """Return the faults that apply to a request, in the order in which they were added.

        The request is counted, unless no fault is active.

        Args:
            endpoint: The request's endpoint.
            job_id: The job that the request is about; None if it is not about one job: a request
                for the list, or a submission.
            now: Unix seconds. The value must not decrease from call to call.
            kind: Name of the kind of jobs that the request is about.
        """
        if not self._active:
            return ()
        subject = job_id or (kind if kind != DEFAULT_KIND else "")
        nth = self._requests[endpoint, subject]
        self._requests[endpoint, subject] += 1
        request = _Request(endpoint, job_id, kind, now, f"{endpoint.value}/{nth}/{subject}")
        if (possible := self._by_endpoint.get(endpoint)) is None:
            possible = [active for active in self._active if endpoint in active.fault.endpoints]
            self._by_endpoint[endpoint] = possible
        applied = (self._apply(active, request) for active in possible)
        return tuple(fault for fault in applied if fault is not None)

    def _apply(self, active: _ActiveFault, request: _Request) -> AppliedFault | None:
        """Return the fault if it applies to this request, and count it; otherwise None."""
        fault, when = active.fault, active.fault.when
        if (
            (when.jobs is not None and request.job_id not in when.jobs)
            or (when.kinds is not None and request.kind not in when.kinds)
            or (when.times is not None and active.applied >= when.times)
            or not when.is_open(request.now - active.added_at)
        ):
            return None
        text = f"{self.seed}/{active.number}/{request.text}".encode("utf-8", "surrogatepass")
        digest = hashlib.blake2b(text, digest_size=16).digest()
        if int.from_bytes(digest[:8]) >= when.chance * _CHANCE_SCALE:
            return None
        until_token = 0.0
        if isinstance(fault.effect, RateLimit):
            if active.bucket is None:
                active.bucket = _TokenBucket(fault.effect.burst, request.now)
            if not (until_token := active.bucket.take(fault.effect, request.now)):
                return None
        active.applied += 1
        self.counts[fault.name] += 1
        rng = random.Random(int.from_bytes(digest[8:]))  # noqa: S311 - reproducible, not secret
        return AppliedFault(fault, rng, until_token)
