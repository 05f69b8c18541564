"""The model test: random scenarios of the watcher in virtual time, against all its invariants.

A scenario is a number. ``pytest tests/watching/test_model.py --model-seeds 10000`` plays that many;
``--model-first 4711 --model-seeds 1`` plays one again. The machinery is in `tests/support/model_*`.
"""

import pytest
from amounts import more
from model_draws import draw_scenario

DEFAULT = range(30)
THOROUGH = [range(first, first + 245) for first in range(30, 1_500, 245)]  # for many processes
SHOWN = 3  # scenarios that violate an invariant


@pytest.fixture
def seeds(request):
    first = request.config.getoption("--model-first")
    number = request.config.getoption("--model-seeds")
    return range(first, first + (number or len(DEFAULT))) if first or number else request.param


@pytest.mark.parametrize(
    "seeds", more([DEFAULT], THOROUGH), ids=lambda seeds: f"from {seeds.start}", indirect=True
)
def test_no_scenario_violates_an_invariant(seeds):
    violating = []
    reports = []
    for seed in seeds:
        scenario = draw_scenario(seed)
        if scenario.play():
            violating.append(seed)
            reports += [scenario.report()] if len(reports) < SHOWN else []
    if violating:
        shown = "\n\n".join([f"{len(violating)} of {len(seeds)}: {violating}", *reports])
        pytest.fail(shown, pytrace=False)


def test_a_seed_always_plays_the_same_scenario():
    def log(seed):
        scenario = draw_scenario(seed)
        scenario.play()
        return scenario.service.log

    assert log(7) == log(7)


def test_the_list_of_the_service_shows_active_jobs():
    """With a list that is always empty, the other test would say nothing about lists."""
    scenario = draw_scenario(294)
    assert scenario.behaviour.listing == "honest"
    assert not scenario.play()
    assert len(scenario.sources[0].shown) > len(scenario.jobs) / 2
