"""Runs the main parts of adepoll without the names that `portable` takes away."""

import portable

portable.install()  # before adepoll is imported

import asyncio  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

from adepoll import (  # noqa: E402
    AdeClient,
    Batch,
    JobWatcher,
    ResultFetcher,
)
from adepoll.common import file_system  # noqa: E402
from adepoll.emulator import Emulator, JobPlan  # noqa: E402
from adepoll.errors import JournalBusyError  # noqa: E402
from adepoll.journal import JournalReader  # noqa: E402


async def main(folder):
    assert not file_system.HAS_FLOCK
    os.chdir(folder)
    async with Emulator() as ade:
        soon = JobPlan(processing_time=0.01)
        job_ids = [ade.submit(soon) for _ in range(3)]
        large = ade.submit(JobPlan(processing_time=0.0, result_bytes=8_000_000))
        async with (
            AdeClient(ade.api_key, base_url=ade.base_url) as client,
            JobWatcher(client) as watcher,
        ):
            print((await watcher.wait(job_ids[0])).status.value)
            print(len([job async for job in watcher.watch(job_ids)]), "watched")
            await fetch(client, ade, large)
            await batch(client, [*job_ids, large])


async def fetch(client, ade, large):
    stalled = ade.faults.add("stalled", endpoints=["result"])
    async with ResultFetcher(client) as fetcher:
        download = asyncio.create_task(fetcher.download(large, "large.json"))
        while not [*Path().glob(".*.json")]:  # the resume state
            await asyncio.sleep(0.01)
        download.cancel()
        await asyncio.wait([download])
        ade.faults.remove(stalled)
    async with ResultFetcher(client) as fetcher:
        await fetcher.download(large, "large.json")
        print("resumed:", fetcher.stats.bytes_received < 8_000_000)
        await fetcher.download(large, "large.json", overwrite=True)
    print([path.name for path in Path().iterdir()], Path("large.json").stat().st_size > 6_000_000)


async def batch(client, job_ids):
    async with Batch(client, journal="batch.db", out_dir="results") as batch:
        async for outcome in batch.run(job_ids[:2]):
            assert outcome.file is not None
            with JournalReader("batch.db") as reader:
                assert reader.holder == os.getpid()
        try:
            async with Batch(client, journal="batch.db"):
                pass
        except JournalBusyError as error:
            print("busy:", error.pid == os.getpid())
    async with Batch(client, journal="batch.db", out_dir="results") as batch:
        print(len([outcome async for outcome in batch.run(job_ids)]), "outcomes")
    print(
        len([*Path("results").iterdir()]), "files;", sorted(path.name for path in Path().iterdir())
    )


asyncio.run(main(sys.argv[1]))
