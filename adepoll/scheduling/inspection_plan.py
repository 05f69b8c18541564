"""The plan of looks that the adaptive schedule follows: pure functions. Imports durations.

All times are seconds; ages are those of a job.
"""

import math
import operator
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Final

from attrs import field, frozen

from adepoll.scheduling.durations import EDGES, Law, bin_of

_WIDTHS: Final = (*map(operator.sub, EDGES[1:], EDGES), EDGES[-1])
_SURE: Final = 1 - 1e-9  # a chance of 1 would be an endless hazard


@frozen(eq=False)
class Plan:
    """When to look at jobs of one law, so that little lag costs few looks.

    To trade lag against looks, look with density ``n(a) = sqrt(h(a) / 2c)``, h the hazard at age a
    and c the price of a look in seconds of lag (R. E. Barlow, L. C. Hunter & F. Proschan, J. SIAM
    11, 1963; J. B. Keller, Management Science 21, 1974). In other words: from one look to the next
    the integral of sqrt(h), here called effort, grows by a constant step, ``sqrt(2c)``.

    Attributes:
        law: How long jobs take.
        step: Effort from look to look.
        minimum: Shortest wait.
        maximum: Longest wait.
        stride: How far to go at once into ages that the law does not know; or a quarter of the age,
            where that is more.
    """

    law: Law
    step: float
    minimum: float
    maximum: float
    stride: float
    _roots: Sequence[float] = field(repr=False)  # of the hazard in each bin
    _efforts: Sequence[float] = field(repr=False)  # up to each edge

    def wait(self, age: float, *, stretch: float = 1.0) -> float:
        """Give the time from a look at a job of that age, still active, to the next one.

        Args:
            age: Its age.
            stretch: Factor of the step; jitter, say.
        """
        number = bin_of(age)
        effort = self._efforts[number] + (age - EDGES[number]) * self._roots[number]
        effort += self.step * stretch
        until = bisect_right(self._efforts, effort, number) - 1
        rest = (effort - self._efforts[until]) / self._roots[until]
        wait = EDGES[until] + rest - age
        # Where nothing was seen yet, jobs may begin to end at any age, however few have so far.
        unknown = max(age, EDGES[self.law.known])
        wait = min(wait, unknown - age + stretch * max(self.stride, unknown * _STRIDE))
        return min(max(wait, self.minimum), self.maximum)

    @property
    def price(self) -> float:
        """What one look more is worth, in seconds of lag."""
        return self.step**2 / 2

    def cost(self) -> tuple[float, float]:
        """Give the mean lag, and the mean number of looks, at jobs that are watched from age 0."""
        age, reached, lag, polls = 0.0, 1.0, 0.0, 1.0
        for _ in range(_MOST_LOOKS):
            if reached <= _RARE:
                break
            until = age + self.wait(age)
            active = self.law.active_time(until) - self.law.active_time(age)
            lag += reached * (until - age) - active
            polls += reached
            age, reached = until, self.law.reaches(until)
        # Where there are many looks, all that matters is how dense they are.
        for number in range(bin_of(age), len(EDGES) - 1):
            if reached <= _RARE:
                break
            until, left = EDGES[number + 1], self.law.survival[number + 1]
            wait = min(max(self.step / self._roots[number], self.minimum), self.maximum)
            lag += (reached - left) * wait / 2
            polls += (reached + left) / 2 * (until - age) / wait
            age, reached = until, left
        return lag / (1.0 - reached), polls


_STRIDE: Final = 0.25  # of the age
_RARE: Final = 0.001  # share of the jobs that may be left out of account
_MOST_LOOKS: Final = 200  # that are gone through one by one


def make_plan(law: Law, *, target_lag: float, minimum: float, maximum: float) -> Plan:
    """Give the plan of that mean lag, as near as the bounds of a wait allow."""
    hazards = (
        -math.log1p(-min(chance, _SURE)) / width
        for chance, width in zip(law.chances, _WIDTHS, strict=True)
    )
    roots = [*map(math.sqrt, hazards)]
    efforts = [*accumulate(map(operator.mul, roots[:-1], _WIDTHS), initial=0.0)]

    # Whatever comes there, half of a wait is the lag, and only of those that get there.
    stride = 2 * target_lag / max(law.survival[law.known], _RARE)

    def with_step(step: float) -> Plan:
        return Plan(
            law=law,
            step=step,
            minimum=minimum,
            maximum=maximum,
            stride=stride,
            roots=roots,
            efforts=efforts,
        )

    # By the theory, lag = step / 2 * the integral of survival * sqrt(h); where looks are few the
    # true one differs, and grows with the step all the same.
    weights = zip(law.survival, law.survival[1:], roots, _WIDTHS, strict=False)
    step = 2 * target_lag / sum((s + t) / 2 * root * width for s, t, root, width in weights)
    low, high = 0.0, math.inf
    for _ in range(_TRIALS):
        plan = with_step(step)
        lag, _ = plan.cost()
        if abs(lag - target_lag) < _NEAR * target_lag:
            break
        if lag < target_lag:
            low = step
        else:
            high = step
        step *= min(max(target_lag / lag, 0.25), 4.0)
        if not low < step < high:
            step = (low + high) / 2
    return plan


_TRIALS: Final = 12
_NEAR: Final = 0.01
