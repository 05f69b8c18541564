"""The estimate of the durations against a slow one that follows the formulas bin by bin."""

import math
from itertools import pairwise
from random import Random

import pytest

from adepoll.scheduling.distribution import (
    EDGES,
    LAST,
    PRIOR,
    PRIOR_ENDS,
    PRIOR_RATES,
    PRIOR_RISK,
    WIDTHS,
    bin_index,
)
from adepoll.scheduling.estimation import estimate, quiet_until

ROUNDS = 6


def ranges_of(gone):
    """Return the bins, from the first up to the last but one, in which each ended job may end."""
    for (_, last, ended), weight in gone.items():
        if ended is not None and last < LAST:
            yield last, max(ended, last + 1), weight


def at_risk(gone, passed):
    """Return how many jobs were certainly active during each whole bin."""
    risk = [sum(passed[: number + 1]) for number in range(LAST + 1)]
    for (first, last, _), weight in gone.items():
        for number in range(first, last):
            risk[number] += weight
    return risk


def slow_counts(start, gone, passed):
    """Return the expected number of ended jobs and of jobs at risk in each bin."""
    ranges = [*ranges_of(gone)]
    horizon = max((stop for _, stop, _ in ranges), default=0)
    survival = start.survival[: horizon + 1]
    known_risk = at_risk(gone, passed)
    for _ in range(ROUNDS):
        ends, risk = [0.0] * horizon, known_risk[:horizon]
        for first, stop, weight in ranges:
            chance = survival[first] - survival[stop]
            for number in range(first, stop) if chance > 0 else ():
                ends[number] += weight * (survival[number] - survival[number + 1]) / chance
                risk[number] += weight * (survival[number] - survival[stop]) / chance
        survival = [1.0]
        for number in range(horizon):
            hazard = (ends[number] + PRIOR_ENDS[number]) / (risk[number] + PRIOR_RISK[number])
            survival.append(survival[-1] * (1 - hazard))
    return ends, [*risk, *known_risk[horizon:]]


def slow_chances(ends, risk):
    """Return the chance that a job ends in each bin, smoothed over up to eight bins each side."""
    known = len(ends)
    ends = ends + [0.0] * (LAST - known)
    times = [WIDTHS[n] * (risk[n] - ends[n] / 2) for n in range(LAST)]
    enough = max(16.0, 0.004 * math.fsum(ends))
    chances, ratio = [], 1.0
    for number in range(LAST):
        low, high = number, number + 1
        if number < known + 8:
            while math.fsum(ends[low:high]) < enough - 1e-9 and low > 0 and low > number - 8:
                low, high = low - 1, min(high + 1, LAST)
        assumed = PRIOR_RATES[number] * ratio**0.95
        weight = PRIOR_RISK[number] * WIDTHS[number]
        seen = math.fsum(times[low:high]) / (high - low)
        rate = math.fsum(ends[low:high]) / (high - low) + weight * assumed
        rate /= max(seen, 0.0) + weight
        chances.append(1 - math.exp(-rate * WIDTHS[number]))
        ratio = max(rate / PRIOR_RATES[number], 0.1)
    return [*chances, 1.0]


def slow_quiet(ends, risk):
    """Return the age up to which each bin and the next bins are quiet, or 0."""
    quiet = []
    for number in range(len(ends)):
        stops = [n for n in range(number, len(ends)) if EDGES[n + 1] >= 1.25 * EDGES[number]]
        if not stops:
            quiet.append(False)
            continue
        ended = math.fsum(ends[number : stops[0] + 1])
        quiet.append(ended + 3 <= 0.02 * risk[stops[0]])
    until = []
    for number, is_quiet in enumerate(quiet):
        end = number
        while end < len(quiet) and quiet[end]:
            end += 1
        until.append(EDGES[end] if is_quiet else 0.0)
    return tuple(until)


def observe(seed, jobs, longest, *, censored=0.2, gap=4):
    """Return random observations, with weights, and random active jobs."""
    rng, gone, passed = Random(seed), {}, [0.0] * (LAST + 1)
    for _ in range(jobs):
        first = rng.choice((0, 0, rng.randrange(longest)))
        last = min(first + rng.randrange(longest), LAST)
        ended = None if rng.random() < censored else min(last + rng.randrange(gap), LAST)
        key = (first, last, ended)
        gone[key] = gone.get(key, 0.0) + rng.choice((1.0, 0.5))
    for _ in range(jobs // 4):
        first = rng.randrange(longest)
        passed[first] += 1
        passed[min(first + rng.randrange(1, longest), LAST)] -= 1
    return gone, passed


def crowd():
    """Return observations of jobs of which most end at the age of 60 s, and few earlier."""
    at, early = bin_index(60.0), bin_index(20.0)
    gone = {(0, at, at + 1): 5_000.0, (0, early, early + 1): 40.0, (0, 3, 4): 0.5}
    return gone, [0.0] * (LAST + 1)


CASES = {
    "nothing": ({}, [0.0] * (LAST + 1)),
    "one job": ({(0, 3, 5): 1.0}, [0.0] * (LAST + 1)),
    "active jobs only": observe(1, 40, 30, censored=1.0),
    "few": observe(2, 30, 20),
    "many": observe(3, 3_000, 60),
    "exact": observe(4, 1_000, 40, gap=1),
    "wide": observe(5, 1_000, 40, gap=30),
    "all ages": observe(6, 2_000, LAST),
    "a day": ({(0, LAST - 1, LAST): 40.0, (0, LAST, LAST): 40.0}, [0.0] * (LAST + 1)),
    "crowd": crowd(),
}


@pytest.mark.parametrize(("gone", "passed"), CASES.values(), ids=CASES)
def test_the_estimate_follows_the_formulas(gone, passed):
    found = estimate(PRIOR, gone, passed)
    ends, risk = slow_counts(PRIOR, gone, passed)
    assert found.known == len(ends)
    assert found.chances == pytest.approx(slow_chances(ends, risk), rel=1e-6, abs=1e-12)
    assert found.quiet == slow_quiet(ends, risk)


def test_the_estimate_starts_with_the_distribution_of_the_last_one():
    gone, passed = observe(7, 200, 40, gap=12)
    last = estimate(PRIOR, gone, passed)
    again = estimate(last, gone, passed)
    ends, risk = slow_counts(last, gone, passed)
    assert again.chances == pytest.approx(slow_chances(ends, risk), rel=1e-6, abs=1e-12)
    assert again.chances != last.chances


@pytest.mark.parametrize(
    ("early", "late", "known", "proven"), [(9, 8, 40, 40), (9, 7, 40, 20), (7, 0, 20, 0)]
)
def test_an_age_is_proven_if_eight_jobs_ended_later(early, late, known, proven):
    gone = {(0, 19, 20): float(early), (0, 39, 40): float(late)}
    seen = {ages: weight for ages, weight in gone.items() if weight}
    found = estimate(PRIOR, seen, [0.0] * (LAST + 1))
    assert (found.known, found.proven) == (known, proven)


@pytest.mark.parametrize(
    ("ended", "risk", "is_quiet"), [(0.0, 150.0, True), (0.0, 149.0, False), (1.0, 200.0, True)]
)
def test_a_bin_is_quiet_if_at_most_2_percent_of_its_jobs_may_end_soon(ended, risk, is_quiet):
    """Three jobs are added to those that were seen to end before an age 1.25 times as great."""
    number = bin_index(100.0)
    ends = [0.0] * (number + 40)
    ends[number + 1] = ended
    quiet = quiet_until(ends, [risk] * (number + 40))
    assert (quiet[number] > 0) is is_quiet
    if is_quiet:
        # The last 7 bins are not: 1.03 ** 8 is the first power above 1.25.
        assert quiet[0] == quiet[number] == EDGES[len(quiet) - 7]


def test_the_bins_of_the_prior_are_those_of_its_formula():
    for number, edge in enumerate(EDGES):
        assert PRIOR_RISK[number] == pytest.approx(2 * (1 + edge / 90) ** -2)
        assert PRIOR_RATES[number] == pytest.approx(2 / (edge + 90))
    assert [*PRIOR_ENDS] == pytest.approx([a - b for a, b in pairwise((*PRIOR_RISK, 0.0))])
    assert [PRIOR.survival_at(edge) for edge in EDGES] == pytest.approx(
        [risk / 2 for risk in PRIOR_RISK]
    )
    assert PRIOR.known == PRIOR.proven == 0
    assert EDGES[:3] == (0.0, 0.5, 1.0)
    assert (EDGES[33], EDGES[34]) == (16.5, pytest.approx(16.5 * 1.03))
    assert EDGES[-1] < 86_400.0 <= EDGES[-1] * 1.03
