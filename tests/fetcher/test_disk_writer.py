"""DiskWriter and SegmentWriter: when a part file is written, reported and synced."""

import asyncio
import threading

import pytest
from waiting import until

from adepoll.common.threads import start_in_thread
from adepoll.fetcher import disk_writer
from adepoll.fetcher.buffered_body import BLOCK_BYTES
from adepoll.fetcher.disk_writer import DiskWriter
from adepoll.fetcher.response_body import SegmentWriter


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


class Syncs(SlowPart):
    """A part file whose syncs end immediately; the sync with the number `fails` fails."""

    def __init__(self, fails=None):
        super().__init__()
        self.fails = fails
        self.synced.set()

    def sync(self):
        super().sync()
        if self.syncs == self.fails:
            raise OSError("the disk is broken")


@pytest.fixture
def record_all(monkeypatch):
    """Return a function that records written bytes, and waits for each sync that this starts."""
    started = []

    def start(function, *args):
        started.append(start_in_thread(function, *args))
        return started[-1]

    monkeypatch.setattr(disk_writer, "start_in_thread", start)

    async def record(writer, *counts):
        for count in counts:
            writer.record(count, 0)
            if started:
                await asyncio.wait(started)

    return record


@pytest.mark.parametrize(
    ("counts", "syncs"),
    [
        ([2**26 - 1], 0),
        ([2**26], 1),
        ([2**26 - 1, 1], 1),
        ([2**26, 2**26 - 1], 1),
        ([2**26, 2**26 - 1, 1], 2),
        ([2**26] * 5, 5),
    ],
)
async def test_each_64_mebibytes_are_synced(record_all, counts, syncs):
    part = Syncs()
    writer = DiskWriter(part, None)
    await record_all(writer, *counts)
    assert part.syncs == syncs
    assert await writer.publish() == "digest"


@pytest.mark.parametrize("counts", [[2**26], [2**26] * 2])
async def test_the_error_of_a_sync_is_raised_by_the_next_call(record_all, counts):
    writer = DiskWriter(Syncs(fails=len(counts)), None)
    await record_all(writer, *counts)
    with pytest.raises(OSError, match="the disk is broken"):
        writer.record(2**26, 0)
    with pytest.raises(OSError, match="the disk is broken"):
        await writer.publish()


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


class Part:
    """A part file in memory."""

    hashed = 0

    def __init__(self):
        self.content = b""

    def write(self, offset, chunks):
        assert offset == len(self.content)
        self.content += b"".join(chunks)

    def hash(self, chunks):
        self.hashed += sum(map(len, chunks))


@pytest.mark.parametrize("full_chunk", [0, BLOCK_BYTES])
async def test_bytes_are_reported_before_a_wait_for_the_next_chunk(leap, full_chunk):
    """The last chunk before a stall is small if bytes arrived fast, or late if they did not."""
    part, reported, chunks = Part(), [], []
    disk = DiskWriter(part, lambda written, _size: reported.append(written))

    async def read():
        if len(chunks) == 3:
            # Here, the connection stalls.
            assert reported[-1] == sum(map(len, chunks))
            return b""
        leap(0.0 if full_chunk else 2.0)
        chunks.append(bytes(BLOCK_BYTES if full_chunk and len(chunks) < 2 else 1_000))
        return chunks[-1]

    await SegmentWriter(disk, 0, lambda _count: 0, full_chunk=full_chunk).copy(read)
    assert part.content == b"".join(chunks)
