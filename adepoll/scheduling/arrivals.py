"""How old jobs are when a watcher gets them. Imports nothing of adepoll.

Times are seconds of one monotonic clock.
"""

import math
from typing import Final

from attrs import define


@define(eq=False)
class Arrivals:
    """An estimate of whether the next jobs are new, from the first answers about earlier jobs.

    An immediate poll of a new job finds it active, and is wasted. One old job makes adepoll poll
    all waiting and later jobs immediately, until 32 new jobs in a row have arrived: old jobs rarely
    come alone, as when a batch is started again.

    Attributes:
        new: Jobs that were new; earlier ones count less.
        old: Jobs that were not new; earlier ones count less.
        run: New jobs in a row since the last old one.
        resets: Number of runs that an old job ended.
        reset_at: Time at which the last old job was found.
    """

    new: float = 0.0
    old: float = 0.0
    run: int = 0
    resets: int = 0
    reset_at: float = -math.inf

    def record(self, age: float, *, added_at: float, now: float) -> bool:
        """Record the age of a job at its arrival; return whether the job was new.

        Args:
            age: Seconds since the service had received it. A negative age shows that the clocks
                differ, and that ages are not known: the job does not count as new.
            added_at: When the watcher got the job.
            now: The time.
        """
        new = abs(age) <= _MAX_NEW_AGE
        if new:
            self.new += 1
            # A job that arrived before the last old one was found says nothing about later ones.
            self.run += added_at > self.reset_at
        else:
            self.old += 1
            self.resets += self.run > 0
            self.run = 0
            self.reset_at = now
        if self.new + self.old > _MEMORY:
            self.new /= 2
            self.old /= 2
        return new

    @property
    def trusted(self) -> bool:
        """True if the next job is expected to be new."""
        return self.run >= _MIN_RUN

    @property
    def old_share(self) -> float:
        """Probability that the next job is old, by Laplace's rule of succession."""
        return (self.old + 1) / (self.new + self.old + 2)

    def to_json(self) -> list[float]:
        """Return what `from_json` reads."""
        return [self.new, self.old, self.run]

    @classmethod
    def from_json(cls, saved: object) -> "Arrivals":
        """Read what `to_json` returned; raise ValueError or TypeError if it is something else."""
        if not isinstance(saved, list):
            raise TypeError("arrivals must be a list")
        new, old, run = saved
        if not all(isinstance(n, int | float) and 0 <= n < math.inf for n in saved):
            raise ValueError(f"{saved} are not counts of arrivals")
        return cls(float(new), float(old), int(run))


_MAX_NEW_AGE: Final = 2.0  # seconds; received_at and the service's clock are in whole seconds
_MIN_RUN: Final = 32
_MEMORY: Final = 8000.0
