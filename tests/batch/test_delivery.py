"""An outcome whose consumer has asked for the next one is not told again, however the run ends."""

import asyncio

from adepoll import AdeClient, Batch, Journal
from adepoll.emulator import Emulator, JobPlan

SOON = JobPlan(processing_time=0.0)
NEVER = JobPlan(processing_time=float("inf"))


async def test_a_consumer_cancelled_while_its_mark_is_written_is_not_told_again(tmp_path):
    async with Emulator() as ade, AdeClient(ade.api_key, base_url=ade.base_url) as client:
        done, never = ade.submit(SOON), ade.submit(NEVER)
        endpoint = client.base_url
        async with await Journal.open(tmp_path / "batch.db", endpoint=endpoint) as journal:
            async with Batch(client, journal=journal) as batch:
                outcomes = batch.run([done, never])
                assert (await anext(outcomes)).job_id == done
                asking = asyncio.ensure_future(anext(outcomes))
                await asyncio.sleep(0)  # the mark is given to the journal, and not yet written
                asking.cancel()
                await asyncio.wait([asking])
                assert asking.cancelled()
            assert (await journal.counts()).delivered == 1
