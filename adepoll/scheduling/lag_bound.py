"""The lag bound: the longest delay until the next poll of a job. Imports nothing of adepoll.

No delay is longer than this bound, whatever adepoll has learnt of how long jobs take. The bound
itself depends on what was learnt in two cases: at unknown ages and at quiet ages (see below). Times
are seconds.

*A job that somebody waits for.* The bound is ``0.4 * w`` after a wait of ``w`` seconds, at least
1 s, at most 4 s in the first minute, and at most 7 s later. For comparison: the waiter of the
official SDK pauses for 1 s, and then 1.5 times as long after each poll, up to 10 s. So its pause
after ``w`` seconds is ``1 + w / 2``, until it reaches 10 s. The bound is never longer than that
pause. A single job can still be detected later than by that waiter, because the polls come at other
moments.

Why the delay grows with the wait: the job ends at an unknown time. Delays in proportion to the wait
need at most a constant factor more than the best search for an unknown point (A. Beck & D. Newman,
Israel J. Math. 8, 1970). With delays of ``c * w``, the number of polls is about ``log(w) / c``, and
the mean lag is ``c * w / 2``, so their product hardly depends on ``c``. For constant delays, the
product does not depend on the delay either.

Why at most 7 s, not 10 s: polls in the first seconds are more frequent than those of the SDK's
waiter. Shorter delays later reduce the lag, so that the product of polls and lag is about as small
as that of the SDK's waiter, or smaller. A job that ends in the first minute has had few of these
later polls, so the bound is only 4 s in the first minute.

*The same at unknown ages.* If no job was seen to end at the age of the job or later, nothing is
known of when it will end. Then the delay is also at most twice the target lag. So the mean lag is
about the target lag, however long the job takes. If the delays grew, a job that ends late would
have the long lag of the late delays, and the many polls of the early delays. With delays in
proportion to ``w ** p``, the product of polls and lag is ``1 / (1 - p)`` times that of equal
delays.

*Any other job.* The bound is half of the time for which the job has been watched, or twice the
target lag if that is longer. Twice the target lag is enough, because the mean lag of regular polls
is half of a delay. Except at quiet ages, the bound is also at most 7 s, or twice the target lag if
that is longer. Only at quiet ages can a delay grow to the maximum of the schedule. A bound for the
mean lag of all jobs would not be enough. Each of the last 1% of the jobs of a batch could be half a
minute late, and the mean would hardly show that.

Ages are *quiet* under three conditions (see `estimation.quiet_until`). Many jobs were observed at
these ages. A job of such an age ends with a chance of at most 2% before it is 1.25 times as old.
And other jobs ended later.
"""

from typing import Final

LONGEST: Final = 7.0
"""Longest delay at ages at which a job may end, in seconds."""

LONGEST_AFTER_FAILURE: Final = 10.0
"""Longest delay after failed polls, for a job that somebody waits for, in seconds."""

_SHORTEST: Final = 1.0  # seconds of the shortest bound for a job that somebody waits for
_SHARE_WAITED: Final = 0.4  # bound, as a share of the time for which somebody has waited
_FIRST_MINUTE: Final = 60.0
_LONGEST_AT_FIRST: Final = 4.0  # longest bound, in seconds, in the first minute of a wait
_SHARE_WATCHED: Final = 0.5  # bound, as a share of the time for which the job has been watched


def bound_while_waiting(waited_for: float) -> float:
    """Return the longest delay after somebody has waited for a job for `waited_for` seconds."""
    longest = LONGEST if waited_for >= _FIRST_MINUTE else _LONGEST_AT_FIRST
    return min(max(_SHORTEST, _SHARE_WAITED * waited_for), longest)


def bound_while_watching(watched_for: float, target_lag: float) -> float:
    """Return the longest delay of a job that has been watched for `watched_for` seconds."""
    return max(2 * target_lag, _SHARE_WATCHED * watched_for)
