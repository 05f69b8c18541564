"""An outcome is not delivered again after the next one was requested, however the run ends."""

import asyncio

from waiting import until

from adepoll import AdeClient, Batch, Journal
from adepoll.emulator import Emulator, JobPlan

SOON = JobPlan(processing_time=0.0)
NEVER = JobPlan(processing_time=float("inf"))


async def test_an_acknowledged_outcome_is_not_delivered_again_after_a_cancellation(tmp_path):
    async with Emulator() as ade, AdeClient(ade.api_key, base_url=ade.base_url) as client:
        done, never = ade.submit(SOON), ade.submit(NEVER)
        endpoint = client.base_url
        async with await Journal.open(tmp_path / "batch.db", endpoint=endpoint) as journal:
            async with Batch(client, journal=journal) as batch:
                outcomes = batch.run([done, never])
                assert (await anext(outcomes)).job_id == done
                requesting = asyncio.ensure_future(anext(outcomes))
                await asyncio.sleep(0)  # the acknowledgement is not written yet
                requesting.cancel()
                await asyncio.wait([requesting])
                assert requesting.cancelled()
            assert (await journal.counts()).acknowledged == 1


async def test_what_was_polled_is_recorded_while_the_consumer_is_slow(scene):
    """With zero data retention, a `kill -9` must not lose a result that only waits its turn."""
    jobs = scene.many(80, result_reads=1)
    async with scene.batch(concurrency=4, out_dir=None) as batch:
        run = batch.run(jobs)
        await anext(run)  # and then never again

        def results_read():
            return sum(truth.result_polls for truth in scene.ade.world.truths())

        def results_recorded():
            return sum(record.snapshot is not None for record in scene.records().values())

        # One outcome was taken, 32 are ready, and 8 snapshots can wait: then polls stop.
        await until(lambda: results_read() >= 40, pause=0.05)
        await until(lambda: results_recorded() == results_read(), pause=0.05)
        await run.aclose()
