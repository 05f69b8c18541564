"""The lag bound: the longest delay until the next poll of a job. Imports nothing of adepoll.

The durations that were learnt can only make polls earlier or more frequent than this bound, never
later. Times are seconds.

*A job that somebody waits for.* The official SDK's waiter pauses for 1 s, then 1.5 times as long
after each poll, 10 s at most: ``1 + w / 2`` after a wait of ``w`` seconds. The bound is
``0.4 * w``, 1 s at least and 7 s at most, which is less at every ``w``. So the detection lag is at
most as long as with that waiter. Delays that grow in proportion to the wait keep the cost of a
search for an unknown point within a constant factor of the best (A. Beck & D. Newman, Israel J.
Math. 8, 1970). Number of polls times mean lag hardly depends on the factor: delays of ``c * w``
need ``log(w) / c`` polls and lead to a lag of ``c * w / 2``. The same holds for constant delays.
Hence 7 s instead of 10 s: shorter delays make up for the polls of the first seconds, which are more
frequent than the SDK's, so that the product stays near that of the SDK's waiter or below it.

*Any other job.* The bound is half the time for which the job has been watched, or twice the
target, as the mean lag of regular polls is half a delay. It is 7 s at most unless the ages are
*quiet*: so many jobs were seen at these ages, and so few of them ended there, that a job ends there
with a chance of 2% at most (see `estimation.quiet_until`), and others ended later. Only there may a
delay grow up to the maximum of the schedule. A mean over all jobs would allow more: in a
heavy-tailed batch, the last 1% of the jobs could be late by half a minute each, and the mean would
hardly show it.
"""

from typing import Final

LONGEST: Final = 7.0
"""Longest delay where a job may end, in seconds."""

LONGEST_AFTER_FAILURE: Final = 10.0
"""Longest delay after failed polls of a job that somebody waits for, in seconds."""

_SHORTEST: Final = 1.0
_SHARE_WAITED: Final = 0.4
_SHARE_WATCHED: Final = 0.5


def bound_while_waiting(waited_for: float) -> float:
    """Return the longest delay if somebody has waited for the job for `waited_for` seconds."""
    return min(max(_SHORTEST, _SHARE_WAITED * waited_for), LONGEST)


def bound_while_watching(watched_for: float, target_lag: float) -> float:
    """Return the longest delay of a job that has been watched for `watched_for` seconds."""
    return max(2 * target_lag, _SHARE_WATCHED * watched_for)
