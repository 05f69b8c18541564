"""Downloads whose process is killed repeatedly, and the bytes that this costs."""

import asyncio
import json
import math
import os
import shutil
import sys
from pathlib import Path

import forkserver
from attrs import define, field
from loopback import LoopbackServer
from waiting import supervised

CHILD = Path(__file__).with_name("downloading.py")
ETAG = '"0123456789abcdef"'
CONNECTIONS = 4
PIECE = 2**16
PAUSE = 0.002  # seconds after each piece: too slow for a single connection


def union(spans):
    """Merge spans (start, stop)."""
    merged = []
    for start, stop in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return merged


def length(spans):
    return sum(stop - start for start, stop in spans)


@define
class Run:
    """What the server saw of one process.

    Attributes:
        spans: Bytes sent for each request, as [start, stop]; stop grows.
        open: Connections that are being served.
        most_open: Maximum of `open`.
        open_at_end: `open` when the process was killed.
    """

    spans: list = field(factory=list)
    open: int = 0
    most_open: int = 0
    open_at_end: int = 0

    @property
    def sent(self):
        return length(self.spans)


class Slow(LoopbackServer):
    """A server on loopback that sends ranges of one object slowly, and records them.

    It calls `watch` with the `run` after each piece.
    """

    def __init__(self, body, etag=ETAG):
        super().__init__()
        self.body = body
        self.etag = etag
        self.run = Run()
        self.watch = lambda _run: None

    @property
    def url(self):
        return f"{self.origin}/r.json"

    async def serve(self, reader, writer):
        run = self.run
        run.open += 1
        run.most_open = max(run.most_open, run.open)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
                await self._answer(run, head, writer)
        finally:
            run.open -= 1
            writer.transport.abort()

    async def _answer(self, run, head, writer):
        size = len(self.body)
        fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
        start, _, last = fields["range"].removeprefix("bytes=").partition("-")
        start, stop = int(start), min(int(last) + 1, size)
        if fields.get("if-match", self.etag) != self.etag:
            writer.write(b"HTTP/1.1 412 Precondition Failed\r\nContent-Length: 0\r\n\r\n")
            return
        writer.write(
            f"HTTP/1.1 206 Partial Content\r\nETag: {self.etag}\r\n"
            f"Content-Length: {stop - start}\r\n"
            f"Content-Range: bytes {start}-{stop - 1}/{size}\r\n\r\n".encode()
        )
        sent = [start, start]
        run.spans.append(sent)
        while start < stop:
            piece = self.body[start : min(start + PIECE, stop)]
            writer.write(piece)
            start += len(piece)
            sent[1] = start
            self.watch(run)
            await writer.drain()
            await asyncio.sleep(PAUSE)


@define
class Tally:
    """The outcome of all processes.

    Attributes:
        kills: Killed processes.
        files: Complete files, downloaded one after another.
        sent: Bytes that the server sent.
        again: For each kill, the bytes sent again after it, and the connections open at the kill.
        most_open: Maximum number of simultaneous connections.
    """

    kills: int = 0
    files: int = 0
    sent: int = 0
    again: list = field(factory=list)
    most_open: int = 0


async def download_and_kill(body, folder, *, kills, rng):
    """Download one object to files, one after another, until `kills` processes were killed.

    Each file must be complete, with no other file beside it. A process is killed after a random
    number of bytes, or, if fewer are left, a random time after the last.
    """
    tally = Tally()
    async with Slow(body) as server:
        while tally.kills < kills or not tally.files:
            target = folder / f"{tally.files}.json"
            before, killed = [], None
            while True:
                reach = rng.random() * 2 * len(body) / kills if tally.kills < kills else None
                run, status, report = await _run(server, target, reach, before, rng)
                after = union([*before, *map(tuple, run.spans)])
                if killed is not None:
                    again = run.sent - (length(after) - length(before))
                    tally.again.append((again, killed.open_at_end))
                before = after
                tally.sent += run.sent
                tally.most_open = max(tally.most_open, run.most_open)
                if status == 0:
                    break
                assert status == -9, report
                tally.kills += 1
                killed = run
                if target.exists():
                    break  # it was killed after it had published the file
            assert target.read_bytes() == body
            if status == 0:
                assert [path.name for path in folder.iterdir()] == [target.name]
                assert report["bytes"] == len(body)
            tally.files += 1
            shutil.rmtree(folder)
            folder.mkdir()
    return tally


async def _run(server, target, reach, before, rng):
    """Run one process until it ends, or kill it when `reach` bytes were sent."""
    run = server.run = Run()
    enough, complete = asyncio.Event(), asyncio.Event()

    def watch(run):
        if reach is not None and run.sent >= reach:
            enough.set()
        if run.sent >= len(server.body) - length(before) and not complete.is_set():
            whole = union([*before, *map(tuple, run.spans)])
            if whole == [(0, len(server.body))]:
                complete.set()

    server.watch = watch
    process = await forkserver.create_subprocess_exec(
        sys.executable, "-W", "error", CHILD, str(CONNECTIONS), server.url, target,
        stdout=asyncio.subprocess.PIPE, env=os.environ,
    )  # fmt: skip
    said = asyncio.create_task(process.communicate())
    waits = [asyncio.create_task(event.wait()) for event in (enough, complete)]
    try:
        async with supervised(process):
            await asyncio.wait([said, *waits], return_when=asyncio.FIRST_COMPLETED)
            if reach is not None and not said.done():
                if not enough.is_set():
                    await asyncio.wait([said], timeout=rng.random() * 0.1)
                run.open_at_end = run.open
                if process.returncode is None:
                    process.kill()
            out, _ = await said
    finally:
        for wait in waits:
            wait.cancel()
        await server.end_connections()
    return run, process.returncode, json.loads(out) if out else None


@define
class Contest:
    """The outcome of two processes that wrote different results to one target.

    Attributes:
        kills: Killed processes.
        published: Processes that ended well.
        wrong: Descriptions of errors, and of files under the target's name with other bytes.
        left: Names of the files beside the target at the end.
    """

    kills: int = 0
    published: int = 0
    wrong: list = field(factory=list)
    left: list = field(factory=list)


async def kill_two_writers(bodies, folder, *, kills, rng, locks):
    """Let two processes write one target again and again, and kill each at a random moment.

    At the end, each writes its result once more and is not killed. Without `locks`, flock succeeds
    for everybody, as on some network file systems.
    """
    contest, target = Contest(), folder / "out.json"
    options = ["--overwrite", *(() if locks else ("--no-locks",))]

    def check():
        if target.exists() and target.read_bytes() not in bodies:
            contest.wrong.append(f"after {contest.kills} kills: other bytes")

    async def write(server, reach=math.inf):
        run, enough = Run(), asyncio.Event()
        server.run, server.watch = run, lambda run: run.sent >= reach and enough.set()
        process = await forkserver.create_subprocess_exec(
            sys.executable, CHILD, *options, str(CONNECTIONS), server.url, target,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=os.environ,
        )  # fmt: skip
        async with supervised(process):
            said = asyncio.create_task(process.communicate())
            killing = asyncio.create_task(kill_after(process, enough))
            _, errors = await said
            killing.cancel()
        check()
        if process.returncode == 0:
            contest.published += 1
        elif process.returncode == -9:
            contest.kills += 1
        else:
            contest.wrong.append(errors.decode())

    async def kill_after(process, enough):
        await enough.wait()
        await asyncio.sleep(rng.choice([0, 0, rng.random() * 0.1]))
        process.kill()

    async def write_again(server):
        while contest.kills < kills:
            await write(server, rng.random() * 1.3 * len(server.body))
        await write(server)

    folder.mkdir(exist_ok=True)
    etags = (ETAG, '"another"')
    async with Slow(bodies[0], etags[0]) as first, Slow(bodies[1], etags[1]) as second:
        await asyncio.gather(write_again(first), write_again(second))
    contest.left = sorted(path.name for path in folder.iterdir() if path != target)
    return contest
