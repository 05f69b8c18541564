"""How fast jobs can be polled when the request budget is short. Imports nothing of adepoll.

Times are seconds of one monotonic clock, passed in as `now`.
"""

import math
from typing import Final

from attrs import define


@define(eq=False)
class Throughput:
    """Polls per second, as far as the budget and not the schedule decides when jobs are polled.

    A poll that ends long after its job was due was held up: by other jobs, by the client's request
    budget, or by a slow service. While most polls are held up, their rate is the highest possible
    rate. All counts fade with time.
    """

    _started: float = math.nan  # time of the first poll
    _updated: float = math.nan
    _polls: float = 0.0
    _late: float = 0.0
    _settled: float = 0.0  # late polls that found a job settled

    def record(self, due: float, now: float, *, settled: bool) -> None:
        """Record the end of a poll of a job that was due at a time."""
        if not self._polls:
            self._started = self._updated = due
        if now > self._updated + _FADE_EVERY:
            self._fade(now)
        self._polls += 1
        if now - due > _LATE:
            self._late += 1
            self._settled += settled

    @property
    def is_short(self) -> bool:
        """True if most polls are held up."""
        return self._late >= max(_MOST * self._polls, _MIN_LATE)

    def rate(self, now: float) -> float | None:
        """Return the highest possible number of polls per second; None while it is not known."""
        if not self.is_short:
            return None
        passed = max(now - self._started, _LATE)
        counted = self._polls * math.exp(-(now - self._updated) / _MEMORY)
        return counted / (_MEMORY * -math.expm1(-passed / _MEMORY))

    @property
    def settled_share(self) -> float:
        """Share of the late polls that find a settled job; high in a backlog of settled jobs."""
        return self._settled / self._late if self._late else 0.0

    def _fade(self, now: float) -> None:
        fading = math.exp(-(now - self._updated) / _MEMORY)
        self._updated = now
        self._polls *= fading
        self._late *= fading
        self._settled *= fading


_LATE: Final = 2.0  # seconds; a poll without a queue takes less
_MOST: Final = 0.5
_MIN_LATE: Final = 3.0  # polls
_MEMORY: Final = 20.0  # seconds
_FADE_EVERY: Final = 0.1  # seconds; fading at every poll would be too expensive
