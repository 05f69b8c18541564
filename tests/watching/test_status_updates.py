"""Status updates, in virtual time: the present status immediately, changes soon, no backlog."""

import asyncio
from random import Random

import pytest
from attrs import evolve
from watching import watcher_of

from adepoll.api.models import JobStatus
from adepoll.errors import AuthenticationError, ClosedError, InvalidJobIdError, JobNotFoundError


async def gather(updates):
    return [(update.job_id, update.status_text) async for update in updates]


def test_a_fast_consumer_gets_every_change(replay, scripted):
    async def script():
        source = scripted({"a": ["pending", "pending", "processing", "completed"], "b": ["failed"]})
        async with watcher_of(source) as watcher:
            return await gather(watcher.status_updates(["a", "b"]))

    assert replay(script) == [
        ("a", "pending"),
        ("b", "failed"),
        ("a", "processing"),
        ("a", "completed"),
    ]


def test_a_slow_consumer_gets_only_the_latest_status(replay, scripted):
    async def script():
        source = scripted({"a": ["pending", "processing", "completed"], "b": ["pending"]})
        async with watcher_of(source) as watcher, watcher.status_updates(["a", "b"]) as updates:
            await asyncio.sleep(100)
            texts = [(await anext(updates)).status_text for _ in range(2)]
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(updates), 100)
            return texts

    assert replay(script) == ["completed", "pending"]


def test_a_status_known_from_polls_for_others_is_yielded_immediately(replay, scripted):
    async def script():
        source = scripted({"a": ["processing"]})
        async with watcher_of(source) as watcher, watcher.status_updates(["a"]) as first:
            await anext(first)
            await asyncio.sleep(1)
            polls, at = source.count(), asyncio.get_running_loop().time()
            async with watcher.status_updates(["a"]) as second:
                update = await anext(second)
                assert (update.status, update.snapshot) == (JobStatus.PROCESSING, None)
                assert (source.count(), asyncio.get_running_loop().time()) == (polls, at)

    replay(script)


def test_a_last_status_is_not_yielded_again(replay, scripted):
    async def script():
        source = scripted({"a": ["processing", "completed"], "done": ["completed"]})
        async with watcher_of(source) as watcher:
            last_status = {"a": "processing", "done": "completed"}
            return await gather(
                watcher.status_updates(["a", "done"], last_status=last_status)
            ), source.count("done")

    assert replay(script) == ([("a", "completed")], 0)


def test_the_statuses_of_earlier_updates_can_be_the_last_statuses(replay, scripted):
    """The job that was given up has no status text."""

    async def script():
        gone = JobNotFoundError(status=404, job_id="gone")
        source = scripted({"gone": [gone], "fine": ["completed"]})
        async with watcher_of(source) as watcher:
            jobs = ["gone", "fine"]
            last = {job.job_id: job.status_text async for job in watcher.status_updates(jobs)}
            source.scripts["gone"] = ["completed"]
            return last, await gather(watcher.status_updates(jobs, last_status=last))

    assert replay(script) == ({"fine": "completed", "gone": None}, [("gone", "completed")])


def test_unresolved_jobs_are_yielded_like_the_others(replay, scripted):
    async def script():
        source = scripted({"gone": [JobNotFoundError(status=404, job_id="gone")]})
        async with watcher_of(source) as watcher:
            return [update async for update in watcher.status_updates(["gone", "in valid", "fine"])]

    invalid, fine, gone = replay(script)
    assert isinstance(invalid.error, InvalidJobIdError)
    assert fine.status is JobStatus.COMPLETED
    assert isinstance(gone.error, JobNotFoundError)
    assert all(update.is_last for update in (invalid, fine, gone))


def test_an_update_contains_neither_result_nor_presigned_query(replay, scripted):
    async def script():
        whole = scripted.snapshot("a")
        url = "https://storage.example/a?X-Amz-Signature=canary"
        source = scripted({"a": [evolve(whole, output_url=url, data=object())]})
        async with watcher_of(source) as watcher:
            [update] = [update async for update in watcher.status_updates(["a"])]
            assert update.snapshot.data is None
            assert update.snapshot.output_url == "https://storage.example/a?REDACTED"

    replay(script)


def test_many_consumers_share_polls_and_leave_nothing_behind(replay, scripted):
    async def script():
        source = scripted({f"job{n}": ["processing"] * 5 + ["completed"] for n in range(20)})
        rng = Random(3)
        async with watcher_of(source) as watcher:
            job_ids = [*source.scripts]

            async def listen():
                async with watcher.status_updates(job_ids) as updates:
                    async for _ in updates:
                        if rng.random() < 0.02:
                            return

            await asyncio.gather(*(listen() for _ in range(100)))
            assert source.count() <= 20 * 7
            assert watcher.stats.subscribers == watcher.stats.watched == 0

    replay(script)


def test_a_refused_key_and_a_closed_watcher_end_the_stream_with_an_error(replay, scripted):
    async def script():
        async with watcher_of(scripted({"a": [AuthenticationError(status=401)]})) as watcher:
            with pytest.raises(AuthenticationError):
                await gather(watcher.status_updates(["a"]))
        async with watcher_of(scripted({"a": ["processing"]})) as watcher:
            asyncio.get_running_loop().call_later(5, asyncio.ensure_future, watcher.aclose())
            with pytest.raises(ClosedError):
                await gather(watcher.status_updates(["a"]))

    replay(script)


def test_a_single_id_is_refused(replay, scripted):
    async def script():
        async with watcher_of(scripted()) as watcher:
            with pytest.raises(TypeError, match="not one id"):
                watcher.status_updates("job-1")

    replay(script)


def test_a_job_whose_end_waits_for_a_full_consumer_ends_the_stream(replay, scripted):
    async def script():
        end = asyncio.get_running_loop().create_future()
        source = scripted({"shared": [end, "completed"]})
        async with watcher_of(source, buffer=1) as watcher:
            waiter = asyncio.create_task(watcher.wait("shared"))
            await asyncio.sleep(1)
            async with watcher.watch(["first", "shared"]) as full:
                await asyncio.sleep(1)
                end.set_result("completed")
                assert (await waiter).status is JobStatus.COMPLETED
                assert watcher.stats.watched == 1  # the watch has no room for its end yet
                async with asyncio.timeout(60):
                    updates = await gather(watcher.status_updates(["shared"]))
                assert [job.job_id async for job in full] == ["first", "shared"]
                return updates

    assert replay(script) == [("shared", "completed")]
