"""DiskWriter: when it syncs a part file while the file is written."""

import threading

from adepoll.fetcher.disk_writer import DiskWriter


class SlowPart:
    """A part file whose syncs end when `synced` is set."""

    hashed = 0

    def __init__(self):
        self.syncs = 0
        self.synced = threading.Event()

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
