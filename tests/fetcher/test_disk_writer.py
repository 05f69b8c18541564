"""DiskWriter: when it syncs a part file while the file is written."""

import asyncio
import threading

import pytest
from waiting import until

from adepoll.fetcher.disk_writer import DiskWriter


class SlowPart:
    """A part file whose syncs end when `synced` is set."""

    hashed = 0

    def __init__(self):
        self.syncs = 0
        self.synced = threading.Event()
        self.closed = []

    def open(self, _result_keys):
        return None

    def close(self):
        self.closed.append("synced" if self.synced.is_set() else "not synced")

    def sync(self):
        self.syncs += 1
        self.synced.wait()

    def publish(self):
        return "digest"


async def test_a_second_sync_does_not_begin_before_the_first_has_ended():
    part = SlowPart()
    writer = DiskWriter(part, None)
    try:
        for _ in range(3):
            writer.record(2**26, 0)
    finally:
        part.synced.set()
    assert await writer.publish() == "digest"
    assert part.syncs == 1


async def test_the_part_file_is_closed_after_its_sync_has_ended():
    """Closing releases its lock and its descriptor, which the sync still uses."""
    part = SlowPart()
    writer = DiskWriter(part, None)

    async def fail():
        async with writer.open():
            writer.record(2**26, 0)
            await until(lambda: part.syncs)
            raise KeyError

    running = asyncio.create_task(fail())
    await until(lambda: part.syncs)
    for _ in range(5):
        await asyncio.sleep(0)
    assert not part.closed
    part.synced.set()
    with pytest.raises(KeyError):
        await running
    assert part.closed == ["synced"]
