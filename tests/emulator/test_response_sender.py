"""The faults of a connection that depend on how fast the client reads."""

import asyncio
import types
from random import Random

from adepoll.emulator.combined_effect import CombinedEffect
from adepoll.emulator.effects import ConnectionFailure
from adepoll.emulator.response_sender import FaultySender
from adepoll.emulator.responses import ResponseData


class SlowTransport:
    """A transport that sends the bytes of its buffer after the tasks that are ready have run."""

    def __init__(self):
        self.buffered, self.lost = 0, None

    async def write(self, data):
        self.buffered += len(data)
        asyncio.get_running_loop().call_soon(setattr, self, "buffered", 0)

    def get_write_buffer_size(self):
        return self.buffered

    def get_extra_info(self, _name):
        return None

    def abort(self):
        self.lost = self.buffered


async def test_a_connection_is_reset_after_all_bytes_have_been_sent():
    transport = SlowTransport()
    sender = FaultySender(
        types.SimpleNamespace(method="GET", writer=transport, transport=transport),
        ResponseData(status=200, headers={}, body=b"{}"),
        CombinedEffect(
            connection_failure=ConnectionFailure.RESET_AFTER_HEADERS, rng=Random(0), applied=()
        ),
        asyncio.sleep,
    )
    await sender.send(0.0)
    assert transport.lost == 0
