"""Which faults meet a request: by chance, window, endpoint and job. Pure, seeded, switchable.

What a fault then does, on the wire or in virtual time, is not decided here.
"""

import hashlib
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from attrs import define, field, frozen

from adepoll.emulator import checks
from adepoll.emulator.catalogue import make_effect
from adepoll.emulator.effects import Effect, Endpoint, RateLimit, name_of

_LOTS: Final = 2**64


def _check_window(
    _instance: object, _attribute: object, window: tuple[float, float] | None
) -> None:
    if window is not None and not 0 <= window[0] < window[1]:
        raise ValueError(f"window must be 0 <= start < end, in seconds, not {window!r}")


def _set_of_endpoints(values: Iterable[Endpoint | str] | None) -> frozenset[Endpoint] | None:
    return None if values is None else frozenset(map(Endpoint, values))


def _set_of_jobs(values: Iterable[str] | None) -> frozenset[str] | None:
    if isinstance(values, str):  # a set of its letters would never match, and never be noticed
        raise TypeError("jobs must be several job ids, not one string")
    return None if values is None else frozenset(values)


@frozen(kw_only=True)
class When:
    """Which requests a fault meets; all conditions must hold.

    Attributes:
        chance: Share of the requests, drawn for each one from the seed.
        window: From when to when, in seconds since the fault was added, the end excluded; None
            for always.
        every: After how many seconds the window comes again, as storms do; None for once.
        endpoints: Where; None for wherever the effect can happen.
        jobs: Requests about these jobs alone, results included; None for all requests.
        times: Not more often than that in all; None for no end.
    """

    chance: float = field(default=1.0, validator=checks.share)
    window: tuple[float, float] | None = field(default=None, validator=_check_window)
    every: float | None = None
    endpoints: frozenset[Endpoint] | None = field(default=None, converter=_set_of_endpoints)
    jobs: frozenset[str] | None = field(default=None, converter=_set_of_jobs)
    times: int | None = None

    def __attrs_post_init__(self) -> None:
        """Refuse what could never be meant."""
        if self.every is not None and (self.window is None or not self.every >= self.window[1]):
            raise ValueError(f"every must be at least the end of the window, not {self.every!r}")
        if self.times is not None and self.times < 0:
            raise ValueError(f"times must be at least 0, not {self.times!r}")

    def covers(self, age: float) -> bool:
        """Tell whether the window is open so many seconds after the fault was added."""
        if self.window is None:
            return True
        if age < 0:
            return False
        moment = age if self.every is None else math.fmod(age, self.every)
        return self.window[0] <= moment < self.window[1]


@frozen(kw_only=True)
class Fault:
    """An effect, and when it happens.

    Attributes:
        effect: What goes wrong.
        when: For which requests.
    """

    effect: Effect
    when: When = When()

    def __attrs_post_init__(self) -> None:
        """Refuse endpoints at which the effect can never happen."""
        if elsewhere := (self.when.endpoints or frozenset()) - self.effect.endpoints:
            names = ", ".join(sorted(endpoint.value for endpoint in elsewhere))
            raise ValueError(f"fault {self.name!r} cannot happen at endpoints: {names}")

    @property
    def name(self) -> str:
        """The name of its effect."""
        return name_of(self.effect)


def make_fault(
    name: str,
    *,
    chance: float = 1.0,
    window: tuple[float, float] | None = None,
    every: float | None = None,
    endpoints: Iterable[Endpoint | str] | None = None,
    jobs: Iterable[str] | None = None,
    times: int | None = None,
    **options: object,
) -> Fault:
    """Make a fault of the catalogue; the conditions are those of `When`.

    Raises:
        ValueError: There is no such fault, option or endpoint, or a value is out of range.
    """
    when = When(
        chance=chance, window=window, every=every, endpoints=endpoints, jobs=jobs, times=times
    )
    return Fault(effect=make_effect(name, **options), when=when)


@frozen
class Hit:
    """A fault that meets a request.

    Attributes:
        fault: The fault.
        rng: Draws whatever the effect leaves open; the same for the same request of the same seed.
        wait: Seconds until a token is there, for a `RateLimit`; 0.0 otherwise.
    """

    fault: Fault
    rng: random.Random = field(repr=False)
    wait: float = 0.0

    @property
    def effect(self) -> Effect:
        """What goes wrong."""
        return self.fault.effect


@define
class _Bucket:
    tokens: float
    updated_at: float

    def take(self, limit: RateLimit, now: float) -> float:
        """Take a token, and give 0.0; or give the seconds until there is one."""
        elapsed = max(now - self.updated_at, 0.0)
        self.tokens = min(self.tokens + elapsed * limit.rate, limit.burst)
        self.updated_at = max(now, self.updated_at)
        if self.tokens >= 1:
            self.tokens -= 1
            return 0.0
        return (1 - self.tokens) / limit.rate


@define
class _Armed:
    fault: Fault
    number: int
    since: float
    hits: int = 0
    bucket: _Bucket | None = None


@define(kw_only=True, eq=False)
class Faults:
    """The faults of a world. They add up: a request may meet several.

    The lot of a request follows from the seed, the fault's place among those added, the job and
    how many requests to that endpoint about that job came before: it does not depend on how the
    requests of different jobs interleave.

    Attributes:
        seed: Everything random follows from it.
        clock: Gives Unix seconds; read when a fault with a window is added.
        counts: How often each fault has met a request, by name.
    """

    seed: int = 0
    clock: Callable[[], float] = field(default=time.time, repr=False)
    counts: Counter[str] = field(init=False, factory=Counter)
    _armed: list[_Armed] = field(init=False, factory=list)
    _asked: Counter[tuple[Endpoint, str | None]] = field(init=False, factory=Counter, repr=False)
    _added: int = field(init=False, default=0)

    def add(self, fault: Fault | str, **options: object) -> Fault:
        """Switch a fault on from now; a name stands for ``make_fault(name, **options)``.

        Raises:
            ValueError: As `make_fault`.
            TypeError: Options were given beside a fault that is ready.
        """
        if isinstance(fault, str):
            fault = make_fault(fault, **options)  # type: ignore[arg-type]  # checked in there
        elif options:
            raise TypeError("options go with the name of a fault, not with a Fault")
        since = self.clock() if fault.when.window is not None else 0.0
        self._armed.append(_Armed(fault, self._added, since))
        self._added += 1
        return fault

    def remove(self, fault: Fault) -> None:
        """Switch one off.

        Raises:
            ValueError: It is not on.
        """
        for index, armed in enumerate(self._armed):
            if armed.fault is fault:
                del self._armed[index]
                return
        raise ValueError(f"fault {fault.name!r} is not on")

    def clear(self) -> None:
        """Switch all off; what was counted stays."""
        self._armed.clear()

    def __len__(self) -> int:
        """How many are on, open windows or not."""
        return len(self._armed)

    def __iter__(self) -> Iterator[Fault]:
        """Give those that are on, in the order in which they were added."""
        return iter([armed.fault for armed in self._armed])

    def decide(self, endpoint: Endpoint, job_id: str | None, now: float) -> tuple[Hit, ...]:
        """Give the faults that meet a request, in the order in which they were added.

        Args:
            endpoint: Where it goes.
            job_id: The job that it is about; None for the list and a submission.
            now: Unix seconds; they must not go back.
        """
        if not self._armed:
            return ()
        nth = self._asked[endpoint, job_id]
        self._asked[endpoint, job_id] += 1
        request = f"{endpoint.value}/{nth}/{job_id or ''}"
        hits = (self._meet(armed, endpoint, job_id, now, request) for armed in self._armed)
        return tuple(hit for hit in hits if hit is not None)

    def _meet(
        self, armed: _Armed, endpoint: Endpoint, job_id: str | None, now: float, request: str
    ) -> Hit | None:
        fault, when = armed.fault, armed.fault.when
        if (
            endpoint not in (when.endpoints or fault.effect.endpoints)
            or (when.jobs is not None and job_id not in when.jobs)
            or (when.times is not None and armed.hits >= when.times)
            or not when.covers(now - armed.since)
        ):
            return None
        text = f"{self.seed}/{armed.number}/{request}".encode("utf-8", "surrogatepass")
        digest = hashlib.blake2b(text, digest_size=16).digest()
        if int.from_bytes(digest[:8]) >= when.chance * _LOTS:
            return None
        wait = 0.0
        if isinstance(fault.effect, RateLimit):
            if armed.bucket is None:
                armed.bucket = _Bucket(fault.effect.burst, now)
            if not (wait := armed.bucket.take(fault.effect, now)):
                return None
        armed.hits += 1
        self.counts[fault.name] += 1
        rng = random.Random(int.from_bytes(digest[8:]))  # noqa: S311 - reproducible, not secret
        return Hit(fault, rng, wait)
