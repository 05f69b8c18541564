"""What to make of the list's word that a job is active, or is not there.

Imports learning, durations and entry. Times are seconds of one monotonic clock. Hints decide when
a job is looked at, and nothing more.
"""

import math
from typing import Final

from attrs import define

from adepoll.scheduling.durations import EDGES
from adepoll.watching.job_state import JobState
from adepoll.watching.learning import Learning


@define(eq=False, kw_only=True)
class ListHints:
    """How far the list is believed.

    Attributes:
        learning: Knows the ages of jobs, and how long jobs take.
        trust: Most seconds for which it is believed that a job is active.
        sweeping: Whether the list is swept: jobs are then looked at when it has them no more.
        lag: Seconds for which a new job may be missing from the list, as seen so far.
        urgent: How many entries are to be looked at at once.
        wasted_polls: Looks so far at jobs that were missing from the list, and active still.
    """

    learning: Learning
    trust: float = 300.0
    sweeping: bool = False
    lag: float = 0.0
    urgent: int = 0
    wasted_polls: int = 0

    def hurry(self, entry: JobState) -> None:
        """From now on, the job is to be looked at whatever the list says, and at once."""
        self.urgent += not entry.pressing
        entry.urgent = entry.pressing = True

    def doubt(self, entry: JobState) -> None:
        """From now on, the job is to be looked at whatever the list says, when it is due."""
        self.calm(entry)
        entry.urgent = True

    def calm(self, entry: JobState) -> None:
        """From now on, the list is believed that the job is active."""
        self.urgent -= entry.pressing
        entry.urgent = entry.pressing = False

    def believed_until(self, entry: JobState, now: float) -> float:
        """Give until when to believe the list, or wait for it, rather than look at a job."""
        if entry.urgent:
            # Since it was found missing, the list may have been found to be later than was known.
            if entry.entered is not None or entry.missed_at >= entry.since + self.lag:
                return -math.inf
            self.calm(entry)
            entry.missed_at = math.inf
        if not entry.doubt_at:
            entry.doubt_at = self.doubt_at(entry, now)
        return entry.doubt_at

    def doubt_at(self, entry: JobState, now: float) -> float:
        """Give when to look at a job even though the list says that it is active.

        That is when hardly any such job would be, by what was seen of jobs that old and older, and
        every few minutes at least.
        """
        if entry.entered is None:
            return now + self.trust
        age = self.learning.age(entry, now)
        law = self.learning.durations.law
        if law.quantile(_MOST, age=age) > EDGES[law.known]:
            # In a batch that began at once, none was seen that is older: what the law says of what
            # is to come can be anything, and all of the batch would be looked at in vain.
            return now + self.trust
        doubt = law.quantile(_HARDLY_ANY, age=age) - age
        return now + min(max(doubt, _LEAST_TRUST), self.trust)

    def proven_active(self, entry: JobState) -> bool:
        """A look saw a job active, as `learning` is yet to be told. Did the list not have it?"""
        missed_at, entry.missed_at = entry.missed_at, math.inf
        if missed_at == math.inf:
            return False
        self.wasted_polls += 1
        behind = max(missed_at - entry.born, 0.0) + _MORE_LAG
        if entry.entered is None and behind < _LONGEST_LAG:
            self.lag = max(self.lag, behind)
        return True


_HARDLY_ANY: Final = 0.99  # share of jobs that have ended by then
_MOST: Final = 0.95  # share of them that was to be seen, for the law to be believed in that
_LEAST_TRUST: Final = 10.0
_LONGEST_LAG: Final = 30.0  # where a job is missing for longer, that is no lag
_MORE_LAG: Final = 0.5  # than was seen, as jobs are looked at one after the other
