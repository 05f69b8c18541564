"""How old jobs are when a watcher is given them. Imports nothing of adepoll.

Times are seconds of one monotonic clock.
"""

import math
from typing import Final

from attrs import define


@define(eq=False)
class Arrivals:
    """Whether the jobs that a watcher is given are new, as their first answers tell.

    Where they are, a look at once finds nothing. Old jobs seldom come alone (a batch is begun
    anew), so that after a single one nothing is taken for new until a run of new ones was seen.

    Attributes:
        new: Jobs that were new when they were given; what is long ago counts less.
        old: Those that were not.
        run: How many new ones were given since the last old one was met.
        alarms: How many runs have ended so far.
        alarmed_at: When the last old one was met.
    """

    new: float = 0.0
    old: float = 0.0
    run: int = 0
    alarms: int = 0
    alarmed_at: float = -math.inf

    def met(self, age: float, *, given_at: float, now: float) -> bool:
        """Take in how old a job was when it was given, as is known now; tell whether it was new."""
        # An age below nothing is that of clocks which disagree: then nothing is known of ages.
        is_new = abs(age) <= _NEW
        if is_new:
            self.new += 1
            self.run += given_at > self.alarmed_at  # those before it say nothing of those after
        else:
            self.old += 1
            self.alarms += self.run > 0
            self.run = 0
            self.alarmed_at = now
        if self.new + self.old > _MEMORY:
            self.new /= 2
            self.old /= 2
        return is_new

    @property
    def trusted(self) -> bool:
        """Whether the next job may be taken for new."""
        return self.run >= _RUN

    @property
    def old_share(self) -> float:
        """The chance that the next job is old, by Laplace's rule of succession."""
        return (self.old + 1) / (self.new + self.old + 2)

    def to_json(self) -> list[float]:
        """Give what `from_json` reads."""
        return [self.new, self.old, self.run]

    @classmethod
    def from_json(cls, saved: object) -> "Arrivals":
        """Read back what `to_json` gave; raise ValueError or TypeError where it is not that."""
        if not isinstance(saved, list):
            raise TypeError("arrivals must be a list")
        new, old, run = saved
        if not all(isinstance(n, int | float) and 0 <= n < math.inf for n in saved):
            raise ValueError(f"{saved} are no counts of arrivals")
        return cls(float(new), float(old), int(run))


_NEW: Final = 2.0  # seconds: received_at is cut to whole ones, and so is the service's clock
_RUN: Final = 32
_MEMORY: Final = 8000.0
