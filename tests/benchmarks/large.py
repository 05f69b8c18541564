"""Measures the peak memory of a batch that stores large results from the polls of v2 jobs.

A server in another process answers each poll with a completed job. The batch has a separate
process. Each result file is deleted as soon as its outcome was taken. The goal is less than 200 MB
of memory for 1,000 results of 30 MB. The options ``--jobs`` and ``--megabytes`` set other numbers.
With ``--chunked``, the answers have no Content-Length.
"""

import argparse
import asyncio
import multiprocessing
import resource
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

from adepoll import AdeClient, Batch, JobKind, JobRef

GOAL = 200.0  # maximum peak memory in MB
PIECE = b"x" * 2**16


def serve(tell: Connection, megabytes: float, *, chunked: bool) -> None:
    """Answer each poll of a job with a result of this size."""
    count = int(megabytes * 2**20 / len(PIECE))

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                job_id = head.split(None, 2)[1].rpartition(b"/")[2]
                first = b'{"job_id":"%b","status":"completed","result":{"extraction":"' % job_id
                last = b'","metadata":{}}}'
                size = len(first) + count * len(PIECE) + len(last)
                length = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % size
                writer.write(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n" % length)
                for piece in (first, *[PIECE] * count, last):
                    writer.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
                    await writer.drain()
                if chunked:
                    writer.write(b"0\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def run() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1")
        tell.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


async def store(port: int, jobs: int, folder: Path) -> tuple[int, float]:
    """Run the batch; return the number of files, and the peak memory in MB before the run."""
    before = peak()
    stored = 0
    refs = [JobRef(f"j-{number}", kind=JobKind.V2_EXTRACT) for number in range(jobs)]
    async with (
        AdeClient("key", base_url=f"http://127.0.0.1:{port}", timeout=600) as client,
        Batch(client, out_dir=folder, discovery="get") as batch,
    ):
        async for outcome in batch.run(refs):
            if outcome.file is not None:
                stored += 1
                outcome.file.path.unlink()
            elif outcome.error is not None:
                print(outcome.error)
    return stored, before


def peak() -> float:
    """Return the peak memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(tell: Connection, port: int, jobs: int) -> None:
    """Store the results; send the number of files, and the peak memory before and after, in MB."""
    with tempfile.TemporaryDirectory() as folder:
        stored, before = asyncio.run(store(port, jobs, Path(folder)))
    tell.send((stored, before, peak()))


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1_000)
    parser.add_argument("--megabytes", type=float, default=30)
    parser.add_argument("--chunked", action="store_true")
    options = parser.parse_args()
    processes = multiprocessing.get_context("spawn")
    ours, theirs = processes.Pipe()
    server = processes.Process(
        target=serve,
        args=(theirs, options.megabytes),
        kwargs={"chunked": options.chunked},
        daemon=True,
    )
    server.start()
    start = time.monotonic()
    batch = processes.Process(target=measure, args=(theirs, ours.recv(), options.jobs))
    batch.start()
    stored, before, most = ours.recv()
    batch.join()
    server.terminate()
    missed = "" if most < GOAL else "  missed"
    print(f"{stored} results of {options.megabytes:g} MB in {time.monotonic() - start:.0f} s")
    print(f"peak memory {most:.0f} MB, {before:.0f} MB before   goal {GOAL:g} MB{missed}")


if __name__ == "__main__":
    main()
