"""Estimates the distribution of job durations from polls of active and ended jobs. Pure functions.

The age of a job is the number of seconds since the service received the job. `EDGES` contains the
age at which each bin begins; in this module, an edge is an index in `EDGES`. Bin n is between the
edges n and n + 1, and the last bin has no end. A job is at risk in a bin if it was active at the
start of the bin.
"""

import math
import operator
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise, repeat, takewhile
from typing import Final, TypeAlias

from adepoll.scheduling.distribution import (
    EDGES,
    LAST,
    PRIOR_ENDS,
    PRIOR_RATES,
    PRIOR_RISK,
    WIDTHS,
    Distribution,
)

Observation: TypeAlias = tuple[int, int, int | None]
"""Ages at which a job was first seen active, last seen active, and seen to have ended.

Each is the index of the nearest edge. The third is None if the job was not seen to end."""


def estimate(
    start: Distribution, gone: Mapping[Observation, float], active_changes: Sequence[float]
) -> Distribution:
    """Return the distribution of durations that fits the observations best.

    Args:
        start: The previous estimate; the computation improves it in several rounds.
        gone: Jobs that are no longer polled: the weight of each `Observation`.
        active_changes: For each bin, the number of jobs that are still polled and were active
            during the whole bin, minus this number for the previous bin. For example, [2, 1, -3]
            means two jobs in the first bin, three in the second, none in the third.
    """
    known_risk = list(active_changes)
    censored: dict[tuple[int, int], float] = {}  # number of ended jobs, by range of bins
    for (first, last, ended), weight in gone.items():
        known_risk[first] += weight
        known_risk[last] -= weight
        if ended is not None and last < LAST:
            bins = last, max(ended, last + 1)
            censored[bins] = censored.get(bins, 0.0) + weight
    known_risk = list(accumulate(known_risk))
    # No job was seen to end after this edge. Most bins are after it, and are left out here.
    horizon = max((stop for _, stop in censored), default=0)
    survival: Sequence[float] = start.survival[: horizon + 1]
    for _ in range(_ROUNDS):
        ends, risk = _expected(survival, censored)
        risk = [*map(operator.add, risk, known_risk)]
        columns = zip(ends, PRIOR_ENDS, risk, PRIOR_RISK, strict=False)
        stays = [1 - (e + p) / (r + q) for e, p, r, q in columns]
        survival = [*accumulate(stays, operator.mul, initial=1.0)]
    return _smooth(ends, [*risk, *known_risk[horizon:]])


def _expected(
    survival: Sequence[float], censored: Mapping[tuple[int, int], float]
) -> tuple[Sequence[float], Sequence[float]]:
    """Return for each bin how many jobs have probably ended in it, and how many were at risk.

    Polls show only that a job ended in one of several bins. So each of these bins counts the job
    with the chance that it ended there. `estimate` adds the earlier bins, in which the job was
    certainly at risk.

    Args:
        survival: Chance that a job is active at each edge.
        censored: Number of jobs for each range (start, stop) of bins in which they may have ended.
    """
    # Of `weight` jobs that ended in the bins `first` to `stop - 1`, these numbers are expected in
    # one of these bins, from the edge `b` to the edge `b + 1`, where S is `survival`:
    #
    #     ended in the bin:    density * (S[b] - S[b + 1])
    #     at risk in the bin:  density * (S[b] - S[stop])
    #     where density is:    weight / (S[first] - S[stop])
    #
    # The two sums over all ranges that contain a bin are the sum of `density`, and the sum of
    # `density * S[stop]`. They are stored as steps: the sum for a bin minus that for the previous
    # bin. So a range changes only two items of each list, however many bins it has.
    density_steps = [0.0] * len(survival)
    later_steps = [0.0] * len(survival)
    for (first, stop), weight in censored.items():
        chance = survival[first] - survival[stop]
        if chance > 0:
            density = weight / chance
            density_steps[first] += density
            density_steps[stop] -= density
            later_steps[first] += density * survival[stop]
            later_steps[stop] -= density * survival[stop]
    ends, risk = [], []
    sums = zip(accumulate(density_steps), accumulate(later_steps), strict=True)
    for (density, later), (start, end) in zip(sums, pairwise(survival), strict=False):
        ends.append(density * (start - end))
        risk.append(density * start - later)
    return ends, risk


def _smooth(ends: Sequence[float], risk: Sequence[float]) -> Distribution:
    """Return a distribution in which the rate of ending jobs changes smoothly from bin to bin.

    A bin in which few jobs ended is combined with its neighbours. At ages that no job has reached,
    the rate gradually becomes that of the prior distribution.

    Args:
        ends: Number of jobs that ended in each bin.
        risk: Number of jobs that were active at the start of each bin.
    """
    known = len(ends)
    # `ends` goes up to the highest age at which a job ended. No bin at a higher age is quiet,
    # because all jobs of such an age may end in the next moment.
    quiet = quiet_until(ends, risk)
    later = accumulate(reversed(ends))  # jobs that ended in a bin or in the bins after it
    proven = known - sum(1 for _ in takewhile(lambda number: number < _FEW_ENDS, later))
    bins = min(known + _REACH, LAST)
    ends = [*ends, *repeat(0.0, LAST - len(ends))]
    # Seconds for which jobs were at risk in each bin: bins of different widths become comparable.
    times = [
        width * (at_risk - ended / 2)
        for width, at_risk, ended in zip(WIDTHS, risk, ends, strict=False)
    ]
    sum_ends = (0.0, *accumulate(ends))
    sum_times = (0.0, *accumulate(times))
    enough = max(_MIN_ENDS, _MIN_ENDS_SHARE * sum_ends[-1])
    chances = []
    ratio = 1.0  # hazard of the previous bin, divided by its hazard in the prior
    for number in range(LAST):
        low, high = number, number + 1
        if number < bins:
            low, high = _pooled(number, sum_ends, enough)
        # Means of the pooled bins.
        seen_ends = (sum_ends[high] - sum_ends[low]) / (high - low)
        seen_time = (sum_times[high] - sum_times[low]) / (high - low)
        # The prior counts like jobs that were at risk for `prior_time`, and ended at its rate. This
        # rate is first changed in the same ratio as in the previous bin.
        prior_rate = PRIOR_RATES[number] * ratio**_LIKENESS
        prior_time = PRIOR_RISK[number] * WIDTHS[number]
        rate = (seen_ends + prior_time * prior_rate) / (max(seen_time, 0.0) + prior_time)
        chances.append(-math.expm1(-rate * WIDTHS[number]))
        ratio = max(rate / PRIOR_RATES[number], _MIN_RATIO)
    return Distribution((*chances, 1.0), known=known, proven=proven, quiet=quiet)


def _pooled(number: int, sum_ends: Sequence[float], enough: float) -> tuple[int, int]:
    """Return the edges between which a bin and its neighbours have `enough` ended jobs.

    At most `_REACH` neighbours on each side are used, and none before the first bin.

    Args:
        number: Number of the bin.
        sum_ends: For each edge, the number of jobs that ended before it.
        enough: Number of ended jobs.
    """
    low, high = number, number + 1
    while sum_ends[high] - sum_ends[low] < enough and low > max(0, number - _REACH):
        low, high = low - 1, min(high + 1, LAST)
    return low, high


def quiet_until(ends: Sequence[float], risk: Sequence[float]) -> tuple[float, ...]:
    """Find the quiet ages: ages at which jobs hardly ever end, so that polls can be rare.

    For each bin, return the age until which jobs hardly ever end; 0 if the bin is not quiet. A bin
    is quiet if at most 2% of the jobs that reach it end before they are 1.25 times as old.

    A small number of observed jobs must not show a quiet age by chance. So the share is computed as
    if three more jobs had ended ("rule of three", J. A. Hanley & A. Lippman-Hand, JAMA 249, 1983).
    Even if no job was seen to end, at least 150 jobs are then needed for a share of 2%.

    Args:
        ends: Number of jobs seen to end in each bin.
        risk: Number of jobs seen to reach each bin; at least as many items as `ends`.
    """
    sums = [*accumulate(ends, initial=0.0)]
    last = len(ends) - 1
    quiet: list[bool] = []
    stop = 0
    for number in range(last + 1):
        stop = max(stop, number)
        while stop < last and EDGES[stop + 1] < _AHEAD * EDGES[number]:
            stop += 1
        expected = sums[stop + 1] - sums[number] + _THREE
        seen = EDGES[stop + 1] >= _AHEAD * EDGES[number]
        quiet.append(seen and expected <= _QUIET * risk[stop])
    until = [0.0] * (last + 1)
    for number in range(last, -1, -1):
        if quiet[number]:
            after = until[number + 1] if number < last else 0.0
            until[number] = after or EDGES[number + 1]
    return tuple(until)


_ROUNDS: Final = 6
# Neighbouring bins are pooled until they contain this number of ended jobs, or this share of them.
_MIN_ENDS: Final = 16.0
_MIN_ENDS_SHARE: Final = 0.004
# With fewer than eight ended jobs, it is uncertain when jobs of an age end. The sum for eight jobs
# can be slightly below 8.
_FEW_ENDS: Final = 7.5
_REACH: Final = 8  # maximum number of bins on each side that are pooled with a bin
# Exponent below 1 of `ratio`: the ratio that is assumed for a bin is a little closer to 1 than the
# ratio of the previous bin.
_LIKENESS: Final = 0.95
_MIN_RATIO: Final = 0.1
# A bin is quiet if hardly any job of this age ends before it is this number of times as old.
_AHEAD: Final = 1.25
_THREE: Final = 3.0  # jobs that the rule of three adds
_QUIET: Final = (
    0.02  # largest chance, in a quiet bin, that a job ends before it is 1.25 times as old
)
