"""Learns whether jobs are new when a watcher gets them.

Imports nothing of adepoll. All times are in seconds and from one monotonic clock.
"""

import math
from typing import Final

from attrs import define


@define(eq=False)
class Arrivals:
    """Predicts whether the next jobs will be new, from the ages of earlier jobs.

    A poll of a new job is wasted, because the job is still active. An old job should be polled
    immediately, because it may have settled. Old jobs rarely come alone: if a batch is started
    again, all of its jobs are old. So after one old job, adepoll polls all waiting and later jobs
    immediately, until 32 consecutive new jobs have arrived.

    Attributes:
        new: Number of jobs that were new: at most 2 s old when the watcher got them. Earlier jobs
            count less.
        old: Number of the other jobs. Earlier jobs count less.
        new_in_a_row: Number of consecutive new jobs since the last old job.
        resets: Number of times that an old job has set `new_in_a_row` back to 0.
        reset_at: Time at which the last old job was found.
    """

    new: float = 0.0
    old: float = 0.0
    new_in_a_row: int = 0
    resets: int = 0
    reset_at: float = -math.inf

    def record(self, age: float, *, added_at: float, now: float) -> bool:
        """Record how old a job was when the watcher got the job; return True if it was new.

        A new job is at most 2 s old.

        Args:
            age: Seconds from the time at which the service received the job to `added_at`. It is
                negative if the clocks of the service and of this machine differ. Below -2 s, the
                job counts as old.
            added_at: Time at which the watcher got the job.
            now: The present time.
        """
        new = abs(age) <= _MAX_NEW_AGE
        if new:
            self.new += 1
            # A job that arrived before the last old job was found says nothing about later jobs.
            self.new_in_a_row += added_at > self.reset_at
        else:
            self.old += 1
            self.resets += self.new_in_a_row > 0
            self.new_in_a_row = 0
            self.reset_at = now
        if self.new + self.old > _MEMORY:
            self.new /= 2
            self.old /= 2
        return new

    @property
    def trusted(self) -> bool:
        """True if the next job is expected to be new."""
        return self.new_in_a_row >= _MIN_RUN

    @property
    def old_share(self) -> float:
        """Probability that the next job is not new, by Laplace's rule of succession."""
        return (self.old + 1) / (self.new + self.old + 2)

    def to_json(self) -> list[float]:
        """Return the attributes `new`, `old` and `new_in_a_row`, for `from_json`."""
        return [self.new, self.old, self.new_in_a_row]

    @classmethod
    def from_json(cls, saved: object) -> "Arrivals":
        """Return an object with the values in `saved`, which `to_json` has returned.

        Raises:
            ValueError, TypeError: The values are not those of `to_json`.
        """
        if not isinstance(saved, list):
            raise TypeError("arrivals must be a list")
        new, old, new_in_a_row = saved
        if not all(0 <= n < math.inf for n in saved):
            raise ValueError(f"{saved} are not counts of arrivals")
        return cls(float(new), float(old), int(new_in_a_row))


# A job is new if it was at most this many seconds old when the watcher got it. The number cannot
# be smaller, because the service states times in whole seconds.
_MAX_NEW_AGE: Final = 2.0
_MEMORY: Final = 8000.0  # number of jobs above which the counts of new and of old jobs are halved
_MIN_RUN: Final = 32  # after so many new jobs in a row, the next job is expected to be new, too
