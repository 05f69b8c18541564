"""Harvests, in virtual time: every job comes once, few are held, and those told are forgotten."""

import asyncio
import gc

import pytest
from watching import watcher_of

from adepoll.errors import (
    AuthenticationError,
    ClosedError,
    InvalidJobIdError,
    JobNotFoundError,
    JobTimeoutError,
)
from adepoll.watching.harvest import Unresolved


async def generate(job_ids):
    for job_id in job_ids:
        yield job_id


async def gather(harvest):
    """Give how jobs ended, by id: the status text, or the error."""
    found = {}
    async for ends in harvest:
        assert ends
        for end in ends:
            assert end.job_id not in found
            found[end.job_id] = end.error if isinstance(end, Unresolved) else end.status_text
    return found


def test_every_job_comes_once_however_it_ended(replay, scripted):
    async def script():
        unknown = JobNotFoundError(status=404, job_id="unknown")
        source = scripted(
            {
                "slow": ["pending", "processing", "completed"],
                "ill": ["failed"],
                "unknown": [unknown],
            }
        )
        job_ids = ["slow", "unknown", "ill", "in valid", *(f"job{n}" for n in range(300))]
        async with watcher_of(source) as watcher:
            return await gather(watcher.harvest(generate(job_ids), window=1_000))

    found = replay(script)
    assert len(found) == 304
    assert found["slow"] == "completed"
    assert found["ill"] == "failed"
    assert isinstance(found["unknown"], JobNotFoundError)
    assert isinstance(found["in valid"], InvalidJobIdError)


def test_no_more_jobs_than_the_window_are_watched_and_none_is_left_out(replay, scripted):
    async def script():
        most = 0
        async with watcher_of(scripted()) as watcher:
            harvest = watcher.harvest(generate(f"job{n}" for n in range(500)), window=20)
            count = 0
            async for ends in harvest:
                count += len(ends)
                most = max(most, watcher.stats.watched)
            return count, most

    count, most = replay(script)
    assert count == 500
    assert most <= 20


def test_jobs_that_go_on_do_not_keep_others_out_for_ever(replay, scripted):
    async def script():
        unknown = {"gone": [JobNotFoundError(status=404, job_id="gone")]}
        async with watcher_of(scripted(unknown), not_found_grace=30.0) as watcher:
            harvest = watcher.harvest(generate(["gone", "next"]), window=1)
            return await gather(harvest)

    assert [*replay(script)] == ["gone", "next"]


def test_what_was_told_is_forgotten(replay, scripted):
    async def script():
        async with watcher_of(scripted()) as watcher:
            harvest = watcher.harvest(generate(f"job{n}" for n in range(300)), window=50)
            async for _ in harvest:
                assert len(harvest._feed._jobs) <= 50
            assert not harvest._feed._jobs
            assert not harvest._feed.causes

    replay(script)


def test_the_status_of_jobs_that_go_on_is_told_when_it_is_news(replay, scripted):
    async def script():
        source = scripted({"job": ["pending", "pending", "processing", "completed"]})
        async with (
            watcher_of(source) as watcher,
            watcher.harvest(generate(["job"]), window=1) as harvest,
        ):
            seen = []
            for _ in range(3):
                await asyncio.sleep(9.9)
                seen.append(dict(harvest.pop_seen()))
            ends = [end async for ends in harvest for end in ends]
            return seen, dict(harvest.pop_seen()), [end.status_text for end in ends]

    assert replay(script) == ([{"job": "pending"}, {}, {"job": "processing"}], {}, ["completed"])


def test_when_the_time_is_over_those_watched_come_as_given_up(replay, scripted):
    async def script():
        source = scripted({"slow": ["processing"], "waiting": ["processing"]})
        async with watcher_of(source) as watcher:
            harvest = watcher.harvest(generate(["slow", "waiting"]), window=1, timeout=25.0)
            return await gather(harvest), asyncio.get_running_loop().time()

    found, at = replay(script)
    assert [*found] == ["slow"]  # the other one was not taken from the iterator
    assert isinstance(found["slow"], JobTimeoutError)
    assert at == 25.0


def test_looks_pause_while_what_has_come_is_not_taken(replay, scripted):
    async def script():
        source = scripted()
        async with (
            watcher_of(source, buffer=10) as watcher,
            watcher.harvest(generate(f"job{n}" for n in range(100)), window=100) as harvest,
        ):
            await asyncio.sleep(100)
            held = source.count()
            return held, len(await gather(harvest))

    assert replay(script) == (10, 100)


@pytest.mark.parametrize("how", ["close", "break", "fatal"])
def test_a_harvest_that_ends_early_leaves_nothing(replay, scripted, how):
    async def script():
        refused = AuthenticationError(status=401)
        source = scripted({"slow": ["processing"], "fatal": [refused]})
        job_ids = ["slow", "other", *(["fatal"] if how == "fatal" else [])]
        async with watcher_of(source) as watcher:
            harvest = watcher.harvest(generate(job_ids), window=5)
            if how == "fatal":
                with pytest.raises(AuthenticationError):
                    await gather(harvest)
            elif how == "close":
                await anext(harvest)
                await harvest.aclose()
                with pytest.raises(StopAsyncIteration):
                    await anext(harvest)
            else:
                async for _ in harvest:
                    break
                del harvest
                gc.collect()
                await asyncio.sleep(0)
            await asyncio.sleep(0.01)
            assert watcher.stats.watched == 0

    replay(script)


def test_closing_the_watcher_ends_it_with_an_error(replay, scripted):
    async def script():
        async with watcher_of(scripted({"slow": ["processing"]})) as watcher:
            harvest = watcher.harvest(generate(["slow"]), window=5)
            asyncio.get_running_loop().call_later(5, asyncio.ensure_future, watcher.aclose())
            with pytest.raises(ClosedError):
                await gather(harvest)
            with pytest.raises(ClosedError):
                watcher.harvest(generate([]), window=1)

    replay(script)


def test_jobs_that_were_given_up_are_not_held_by_the_thousand_either(replay, scripted):
    async def script():
        source = scripted({f"job{n}": [JobNotFoundError(status=404, job_id="")] for n in range(99)})
        async with (
            watcher_of(source, not_found_grace=0.0, patience=0.0) as watcher,
            watcher.harvest(generate(f"job{n}" for n in range(99)), window=10) as harvest,
        ):
            await asyncio.sleep(1_000)
            return source.count(), len(await gather(harvest))

    assert replay(script) == (10, 99)


def test_a_window_must_hold_a_job(replay, scripted):
    async def script():
        async with watcher_of(scripted()) as watcher:
            with pytest.raises(ValueError, match="window must be positive, got 0"):
                watcher.harvest(generate([]), window=0)

    replay(script)
