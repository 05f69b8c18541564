"""Server processes end in order on a signal, and large results need little memory."""

import asyncio
import os
import signal
import sys
from contextlib import asynccontextmanager, suppress
from itertools import product
from pathlib import Path

import aiohttp
import forkserver
import pytest
from amounts import more
from arrivals import Arrivals
from ports import free_port
from waiting import supervised

from adepoll.emulator import JobPlan

SUPPORT = Path(__file__).parent.parent / "support"
EXAMPLES = SUPPORT.parents[1] / "docs" / "examples"
ENDLESS = JobPlan(processing_time=float("inf"))


@pytest.fixture(params=["aiohttp", "fastapi"])
def kind(request):
    return request.param


@asynccontextmanager
async def served(kind, *options):
    process = await forkserver.create_subprocess_exec(
        sys.executable,
        "-X",
        "dev",
        SUPPORT / "served_app.py",
        kind,
        *(options or ["asyncio"]),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        preload=("fastapi", "uvicorn"),
    )
    async with supervised(process):
        port = int(await process.stdout.readline())
        yield process, f"http://127.0.0.1:{port}"


ENDS = [*product(("aiohttp", "fastapi"), ("asyncio", "uvloop"), (signal.SIGTERM, signal.SIGINT))]
SOME = ENDS[7:]  # FastAPI, uvloop and SIGINT


@pytest.mark.parametrize(
    ("kind", "loop", "number"), more(SOME, [end for end in ENDS if end not in SOME])
)
async def test_a_signal_under_load_ends_the_server_in_order(kind, loop, number, ade_env):
    endless = ade_env.submit(ENDLESS)
    large = ade_env.submit(JobPlan(result_bytes=50_000_000))
    async with (
        served(kind, loop) as (process, url),
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http,
    ):
        async with http.get(f"{url}/ready") as response:
            assert response.status == 200
        streams = [await http.get(f"{url}/events?id={endless}") for _ in range(30)]
        for stream in streams:
            await stream.content.readuntil(b"event: job")
        waits = [asyncio.create_task(http.get(f"{url}/wait/{endless}")) for _ in range(30)]
        download = await http.get(f"{url}/result/{large}")
        await download.content.readexactly(1000)
        while True:
            async with http.get(f"{url}/ready") as response:
                if (await response.json())["watcher"]["subscribers"] == 60:
                    break
        process.send_signal(number)
        # A slow client: its response is aborted after the grace time.
        with pytest.raises(aiohttp.ClientError):
            await read_slowly(download)
        download.close()
        async with asyncio.timeout(60):
            _, stderr = await process.communicate()
        for response in await asyncio.gather(*waits):
            assert response.status == 503
            await response.read()
        for stream in streams:
            # A busy machine may need longer than the grace time, which is 1 s here.
            with suppress(aiohttp.ClientPayloadError):
                await stream.read()
    for warning in ("Task was destroyed", "Unclosed", "never retrieved", "never awaited"):
        assert warning not in stderr.decode()
    assert process.returncode in {0, -number}


@pytest.mark.thorough
async def test_several_workers_serve_one_port_and_end_in_order(ade_env):
    endless, short = ade_env.submit(ENDLESS), ade_env.submit(JobPlan(processing_time=0.5))
    port = free_port()
    command = ["uvicorn", "--app-dir", EXAMPLES, "fastapi_app:app", "--port", str(port)]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-X", "dev", "-m", *command, "--workers", "2"),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        process_group=0,
    )
    async with supervised(process, group=True):
        log = b""
        while log.count(b"startup complete") < 2:
            log += (line := await process.stderr.readline())
            assert line, log.decode()
        arrivals = Arrivals()
        async with aiohttp.ClientSession(
            f"http://127.0.0.1:{port}",
            connector=aiohttp.TCPConnector(limit=0),
            trace_configs=arrivals.traces,
        ) as http:
            stream = await http.get(f"/events?ids={endless},{short}")
            frame = await stream.content.readuntil(b'"completed","is_last":true')
            [*_, last] = [line for line in frame.splitlines() if line.startswith(b"id: ")]
            last_id = {"Last-Event-ID": last.removeprefix(b"id: ").decode()}
            ids = f"{endless},{short}"
            # Any of the workers may serve these requests.
            streams = [await http.get(f"/events?ids={ids}", headers=last_id) for _ in range(20)]
            waits = [asyncio.create_task(http.get(f"/jobs/{endless}")) for _ in range(20)]
            await arrivals.until_read(port, waits)
            for number in range(20):
                async with http.get(f"/jobs/{short}") as response:
                    assert response.status == 200, number
            process.terminate()
            log += await process.stderr.read()
            for response in await asyncio.gather(*waits):
                assert response.status == 503
            for stream in streams:
                assert b"event: " not in await stream.read()
        await process.wait()
    assert log.count(b"Application shutdown complete") == 2
    for warning in (b"Traceback", b"Task was destroyed", b"Unclosed", b"never retrieved"):
        assert warning not in log


async def test_a_client_that_accepts_no_data_delays_the_end_only_up_to_the_limit(kind, ade_env):
    large = ade_env.submit(JobPlan(result_bytes=50_000_000))
    async with served(kind, "asyncio", "bounded") as (process, url):
        port = int(url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**10)
        writer.write(f"GET /result/{large} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.transport.pause_reading()
        await asyncio.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(60):
            _, stderr = await process.communicate()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
    for warning in ("Task was destroyed", "Unclosed", "never retrieved", "never awaited"):
        assert warning not in stderr.decode()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
@pytest.mark.parametrize("kind", more(["fastapi"], ["aiohttp"]))
async def test_a_large_result_for_a_slow_client_needs_little_memory(kind, ade_env):
    large = ade_env.submit(JobPlan(result_bytes=60_000_000))
    async with (
        served(kind) as (process, url),
        aiohttp.ClientSession(read_bufsize=2**14) as http,
    ):
        async with http.get(f"{url}/result/{large}", headers={"Range": "bytes=0-9"}) as response:
            await response.read()
        before = memory(process.pid)
        peak = 0
        async with http.get(f"{url}/result/{large}") as response:
            size = 0
            async for chunk in response.content.iter_chunked(2**20):
                size += len(chunk)
                await asyncio.sleep(0.005)
                peak = max(peak, memory(process.pid))
        assert size > 59_000_000
        assert peak - before < 32 * 2**20
        process.send_signal(signal.SIGTERM)
        await process.communicate()


async def read_slowly(response):
    async for _ in response.content.iter_chunked(100_000):
        await asyncio.sleep(0.02)


def memory(pid):
    """Return the resident memory of a process in bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
