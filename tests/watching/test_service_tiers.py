"""Jobs of v2 in two service tiers, of which one ends ten times faster, in virtual time."""

import asyncio
from random import Random
from statistics import fmean

import pytest

from adepoll import JobKind, JobWatcher
from adepoll.contrib.testing import AdeWorld
from adepoll.emulator import Profile
from adepoll.emulator.world_source import EPOCH

TIERS = ["standard", "priority"]
PROFILE = Profile(median=60.0, failed=0.0, cancelled=0.0, large=0.0)


@pytest.fixture
def world():
    with AdeWorld(seed=3, profile=PROFILE) as world:
        yield world


async def watch(world, tiers, lags, *, jobs):
    """Watch jobs of these tiers, one new job each second; return the durations learnt."""

    async def submitted():
        for number in range(jobs):
            await asyncio.sleep(1.0)
            yield world.submit(kind="v2-parse", tier=tiers[number % len(tiers)])

    async with JobWatcher(world.source, rng=Random(1), discovery="get") as watcher:
        async for job in watcher.watch(submitted()):
            truth = world.truth(job.job_id)
            lags[truth.tier].append(EPOCH + world.elapsed - truth.finished_at)
        return watcher.durations_by_kind[JobKind.V2_PARSE]


def test_one_watcher_detects_the_jobs_of_both_tiers_in_time(world):
    lags = {tier: [] for tier in TIERS}
    world.run(watch(world, TIERS, lags, jobs=60))
    assert [len(lags[tier]) for tier in TIERS] == [30, 30]
    assert max(fmean(lags[tier]) for tier in TIERS) < 4.0  # twice the target


def test_two_watchers_learn_the_durations_of_each_tier_alone(world):
    async def both():
        lags = {tier: [] for tier in TIERS}
        return await asyncio.gather(*(watch(world, [tier], lags, jobs=30) for tier in TIERS))

    standard, priority = world.run(both())
    assert 30 < standard.quantile(0.5) < 120
    assert 3 < priority.quantile(0.5) < 12
