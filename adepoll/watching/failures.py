"""How looks at one job have failed since the last one that succeeded. Imports nothing of adepoll.

All times are seconds of one monotonic clock, passed in as `now`.
"""

from attrs import define


@define(eq=False, weakref_slot=False)
class Trouble:
    """How looks at a job have failed since the last one that succeeded.

    Attributes:
        polled_at: When the last of them came back.
        missing_since: When the service first did not know the job.
        failing_since: When a look first failed for a passing reason.
        nonsense: How many answers made no sense.
        polls: How many looks have failed.
    """

    polled_at: float
    missing_since: float | None = None
    failing_since: float | None = None
    nonsense: int = 0
    polls: int = 0

    def throttled(self, now: float) -> None:
        """Leave out the time up to a 429: it tells nothing of the job."""
        waited = now - self.polled_at
        if self.missing_since is not None:
            self.missing_since += waited
        if self.failing_since is not None:
            self.failing_since += waited

    def missing_for(self, now: float) -> float:
        """Note a 404, and give the seconds since the first one."""
        if self.missing_since is None:
            self.missing_since = now
        return now - self.missing_since

    def failing_for(self, now: float) -> float:
        """Note a passing failure, and give the seconds since the first one."""
        if self.failing_since is None:
            self.failing_since = now
        return now - self.failing_since
