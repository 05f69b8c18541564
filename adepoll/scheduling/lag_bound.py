"""The lag bound: the longest delay until the next poll of a job. Imports nothing of adepoll.

What `Adaptive` has learnt can make a delay shorter than the bound, but not longer. A delay is
longer than the bound only if `Adaptive.minimum` is longer, after failed polls, while the job list
shows the job as active, or if the request budget is short. Times are seconds. The target lag is
`Adaptive.target_lag`: the mean time that the caller allows from a job's end to the poll that
observes this end.

*A job that somebody waits for.* After a wait of ``w`` seconds, the bound is ``0.4 * w``. It is at
least 1 s, at most 4 s in the first minute, and at most 7 s later. An age is *unknown* if no job was
seen to end at this age or later. At unknown ages, the bound is also at most twice the target lag.

*Any other job.* After the job was watched for ``w`` seconds, the bound is ``w / 2``, but at least
twice the target lag and at most 7 s. With the default target lag of 2 s, this means 4 s until ``w``
is 8, and 7 s from ``w = 14`` on. With a target lag above 3.5 s, the bound is always twice the
target lag. *Quiet* ages are an exception, because jobs hardly ever end there (see
`estimation.quiet_until`). There, the limit of 7 s becomes 10 s, or up to `Adaptive.maximum` if many
jobs are active (`longest_when_quiet`). But no delay ends more than 7 s, or twice the target lag,
after the quiet ages. Shortly after several jobs have ended at quiet ages, the limit is 7 s there,
too (`Durations.quiet_delay`).

The reasons:

- *The bound grows with the wait.* The end of a job is a point at an unknown distance. Steps in
  proportion to the distance find such a point with at most a constant factor more effort than the
  best possible search (A. Beck & D. Newman, Israel J. Math. 8, 1970).
- *It is never longer than the pauses of the official SDK's waiter.* That waiter pauses for 1 s, and
  then 1.5 times as long after each poll, up to 10 s. So its pause after ``w`` seconds is
  ``1 + w / 2``, until it reaches 10 s. That waiter can still detect a single job earlier by chance,
  because its polls come at other moments.
- *At most 7 s, not 10 s.* The first polls are more frequent than those of that waiter. Short delays
  later are useful, too: with 7 s, the number of polls times the lag is about as small as for that
  waiter, or smaller. A job that ends in the first minute has few of these later polls. So the bound
  is only 4 s in the first minute.
- *Longer delays at quiet ages, if many jobs are active.* They save many polls. But if jobs become
  shorter, this must be noticed soon. With many jobs, the next poll of any job comes soon enough,
  although each single job is polled rarely.
- *No growth at unknown ages.* With growing delays, a job that ends late would need the many polls
  of the short delays, and still have the lag of the long delays.
- *A bound for each job, not only for the mean.* If each of the last 1% of the jobs of a batch were
  half a minute late, the mean would hardly show it.
"""

from typing import Final

LONGEST: Final = 7.0
"""Longest delay at ages at which a job may end, in seconds."""

LONGEST_FOR_FEW: Final = 10.0
"""Longest delay at quiet ages for few jobs, in seconds, as of the official SDK's waiter."""

LONGEST_AFTER_FAILURE: Final = 10.0
"""Longest delay after failed polls, in seconds, for a job that somebody waits for.

It is also the limit for any other job, unless many jobs are active (`longest_when_quiet`)."""

_SHORTEST: Final = 1.0  # seconds of the shortest bound for a job that somebody waits for
_SHARE_WAITED: Final = 0.4  # bound, as a share of the time for which somebody has waited
_FIRST_MINUTE: Final = 60.0
_LONGEST_AT_FIRST: Final = 4.0  # longest bound, in seconds, in the first minute of a wait
_APART: Final = 0.8  # seconds between two polls, of any jobs, if all jobs are at quiet ages
_SHARE_WATCHED: Final = 0.5  # bound, as a share of the time for which the job has been watched


def bound_while_waiting(waited_for: float) -> float:
    """Return the lag bound of a job for which somebody has waited for `waited_for` seconds.

    At unknown ages, the caller must also apply the limit of twice the target lag.
    """
    longest = LONGEST if waited_for >= _FIRST_MINUTE else _LONGEST_AT_FIRST
    return min(max(_SHORTEST, _SHARE_WAITED * waited_for), longest)


def bound_while_watching(watched_for: float, target_lag: float) -> float:
    """Return the lag bound of a job that was watched for `watched_for` seconds.

    The caller must also apply the limit of 7 s, or that of quiet ages.
    """
    return max(2 * target_lag, _SHARE_WATCHED * watched_for)


def longest_when_quiet(jobs: int) -> float:
    """Return the longest delay at quiet ages, in seconds, if `jobs` jobs are active.

    After failed polls, it is the longest delay at any age. The caller must also apply the limit
    `Adaptive.maximum`.
    """
    return max(LONGEST_FOR_FEW, _APART * jobs)
