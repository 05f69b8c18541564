"""The estimate of a distribution from censored observations: pure functions.

Imports distribution. Ages are seconds since the service received a job.
"""

import math
import operator
from collections.abc import Mapping, Sequence
from itertools import accumulate, repeat
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
"""Nearest edges to the ages at which a job was first seen active, last seen active, and seen ended;
the last is None if the job was never seen ended."""


def estimate(
    start: Distribution, gone: Mapping[Observation, float], passed: Sequence[float]
) -> Distribution:
    """Estimate the distribution of durations from observations, in several rounds.

    Args:
        start: The first guess.
        gone: Weights of the jobs that are not polled any more, by what was observed of them.
        passed: Number of active jobs that have passed each bin, as differences from bin to bin.
    """
    known_risk = list(passed)
    censored: dict[tuple[int, int], float] = {}  # number of ends by range of bins
    for (first, last, ended), weight in gone.items():
        known_risk[first] += weight
        known_risk[last] -= weight
        if ended is not None and last < LAST:
            bins = last, max(ended, last + 1)
            censored[bins] = censored.get(bins, 0.0) + weight
    known_risk = list(accumulate(known_risk))
    # Most bins are beyond the oldest job; nothing is observed there.
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
    """Return the expected number of ends in each bin, and of jobs at risk of them there.

    `survival` is the chance to reach each edge, `censored` the number of ends by range of bins.
    Only the bins in which a job may have ended count; its risk in earlier bins is known.
    """
    density = [0.0] * len(survival)  # as differences from bin to bin, like `after`
    after = [0.0] * len(survival)
    for (first, stop), weight in censored.items():
        chance = survival[first] - survival[stop]
        if chance > 0:
            each = weight / chance
            density[first] += each
            density[stop] -= each
            after[first] += each * survival[stop]
            after[stop] -= each * survival[stop]
    columns = zip(accumulate(density), accumulate(after), survival, survival[1:], strict=False)
    pairs = [(d * (s - t), d * s - a) for d, a, s, t in columns]
    return [ends for ends, _ in pairs], [risk for _, risk in pairs]


def _smooth(ends: Sequence[float], risk: Sequence[float]) -> Distribution:
    """Return the distribution of a smooth hazard: ends per job at risk.

    Neighbouring bins are pooled where ends are few. Without jobs at risk, the ratio of the hazard
    to that of the prior approaches 1 from bin to bin.
    """
    known = len(ends)
    # Only ages below the highest at which a job ended: without one, all may end at the next moment.
    quiet = quiet_until(ends, risk)
    bins = min(known + _REACH, LAST)
    ends = [*ends, *repeat(0.0, LAST - len(ends))]
    # Per second at risk, bins of different widths can be compared.
    times = [w * (r - e / 2) for w, r, e in zip(WIDTHS, risk, ends, strict=False)]
    sum_ends = (0.0, *accumulate(ends))
    sum_times = (0.0, *accumulate(times))
    enough = max(_MIN_ENDS, _MIN_ENDS_SHARE * sum_ends[-1])
    chances = []
    ratio = 1.0  # of the hazard to the prior's
    for number in range(LAST):
        low, high = number, number + 1
        if number < bins:
            while sum_ends[high] - sum_ends[low] < enough and 0 < low > number - _REACH:
                low, high = low - 1, min(high + 1, LAST)
        seen_ends = (sum_ends[high] - sum_ends[low]) / (high - low)
        seen_time = (sum_times[high] - sum_times[low]) / (high - low)
        assumed = PRIOR_RATES[number] * ratio**_LIKENESS
        weight = PRIOR_RISK[number] * WIDTHS[number]
        rate = (seen_ends + weight * assumed) / (max(seen_time, 0.0) + weight)
        chances.append(-math.expm1(-rate * WIDTHS[number]))
        ratio = max(rate / PRIOR_RATES[number], _MIN_RATIO)
    return Distribution((*chances, 1.0), known=known, quiet=quiet)


def quiet_until(ends: Sequence[float], risk: Sequence[float]) -> tuple[float, ...]:
    """Return one age for each bin: where its run of quiet bins ends, or 0 if it is not quiet.

    A bin is quiet if a job of that age ends before it is a quarter older with a chance of at most
    2%. The chance is an upper limit: three ends are added to those that were seen ("rule of
    three", J. A. Hanley & A. Lippman-Hand, JAMA 249, 1983). So at least 150 jobs must have been
    seen at these ages.

    Args:
        ends: Number of jobs seen to end in each bin.
        risk: Number of jobs seen to reach each bin; it has at least as many items as `ends`.
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
_MIN_ENDS: Final = 16.0  # ends from which a hazard is estimated, or a share of all ends:
_MIN_ENDS_SHARE: Final = 0.004
_REACH: Final = 8  # bins on either side that may be pooled for that
_LIKENESS: Final = 0.95  # of neighbouring bins
_MIN_RATIO: Final = 0.1
_AHEAD: Final = 1.25
_THREE: Final = 3.0
_QUIET: Final = 0.02
