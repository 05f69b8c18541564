"""Other ASGI servers end waits and event streams in order, as docs/frameworks.md says."""

import asyncio
import re
import shlex
import signal
import sys
from pathlib import Path

import aiohttp
import pytest
from arrivals import Arrivals
from ports import free_port
from waiting import supervised

from adepoll.emulator import JobPlan

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"
ENDLESS = JobPlan(processing_time=float("inf"))
SERVERS = {
    "hypercorn": "hypercorn --workers 0 fastapi_app:app -b 127.0.0.1:{port}",
    "gunicorn": "gunicorn fastapi_app:app -k uvicorn_worker.UvicornWorker -w 2 -b 127.0.0.1:{port}",
    "granian": "granian --interface asgi --workers 2 --workers-kill-timeout 10"
    " fastapi_app:app --port {port}",
    "uvicorn --reload": "uvicorn --reload fastapi_app:app --port {port}",
}

pytestmark = pytest.mark.thorough


@pytest.mark.parametrize("name", SERVERS)
async def test_a_signal_ends_waits_and_streams_in_order(name, ade_env):
    endless = ade_env.submit(ENDLESS)
    port = free_port()
    program, *arguments = shlex.split(SERVERS[name].format(port=port))
    process = await asyncio.create_subprocess_exec(
        *(Path(sys.executable).parent / program, *arguments),
        cwd=EXAMPLES,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        process_group=0,
    )
    arrivals = Arrivals()
    async with (
        supervised(process, group=True),
        aiohttp.ClientSession(
            f"http://127.0.0.1:{port}",
            connector=aiohttp.TCPConnector(limit=0),
            trace_configs=arrivals.traces,
        ) as http,
    ):
        async with asyncio.timeout(60):
            while not await is_ready(http):  # noqa: ASYNC110 - another process, which sends no notification
                await asyncio.sleep(0.1)
        streams = [await http.get(f"/events?ids={endless}") for _ in range(5)]
        for stream in streams:
            await stream.content.readuntil(b"event: job")
        waits = [asyncio.create_task(http.get(f"/jobs/{endless}")) for _ in range(5)]
        await arrivals.until_read(port, waits)
        await asyncio.sleep(0.5)  # granian reads in threads of its own, and then calls Python
        process.send_signal(signal.SIGTERM)
        for response in await asyncio.gather(*waits):
            assert response.status == 503
            assert (await response.json(content_type=None))["error"] == "ClosedError"
        for stream in streams:
            assert b"event: end" not in await stream.read()
        async with asyncio.timeout(60):
            output, _ = await process.communicate()
    assert b"Traceback" not in output


async def is_ready(http):
    try:
        async with http.get("/ready") as response:
            return response.status == 200
    except aiohttp.ClientError:
        return False


def test_the_documented_commands_are_these():
    text = (ROOT / "docs" / "frameworks.md").read_text("utf-8")
    for command in SERVERS.values():
        program, *arguments = shlex.split(command)
        assert re.search(rf"^\| {program} \|", text, re.MULTILINE), program
        for option in arguments:
            if option.startswith("--") and option != "--port":
                assert option in text
