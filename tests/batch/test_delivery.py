"""An outcome is not delivered again after the next one was requested, however the run ends."""

import asyncio

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
