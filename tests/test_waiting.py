"""The waits of the tests end, and so do the processes that the tests start."""

import asyncio
import os

import pytest
from waiting import supervised


@pytest.mark.parametrize("has_ended", [False, True])
async def test_a_process_is_killed_with_those_that_it_has_started(has_ended, tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    code = "sleep 3600 > fifo &" + ("" if has_ended else " wait")
    process = await asyncio.create_subprocess_exec("sh", "-c", code, cwd=tmp_path, process_group=0)
    async with supervised(process, group=True):
        if has_ended:
            await process.wait()
        held = await asyncio.wait_for(asyncio.to_thread(fifo.open), 60)
    with held:
        assert await asyncio.wait_for(asyncio.to_thread(held.read), 60) == ""
    assert process.returncode == (0 if has_ended else -9)
