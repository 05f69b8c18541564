"""A download by aiohttp without adepoll: ``_plain.py [options] URL PATH [URL PATH ...]``.

After each download, the program prints a line of JSON with its seconds and CPU seconds.
"""

import argparse
import asyncio
import hashlib
import json
import os
import resource
import ssl
from pathlib import Path

import aiohttp

CHUNK = 2**16


async def fetch(session: aiohttp.ClientSession, url: str, path: Path, *, digest: bool) -> None:
    """Write a body to a file as in the manual of aiohttp; `digest` adds SHA-256 and fsync."""
    checksum = hashlib.sha256()
    async with session.get(url) as response:
        response.raise_for_status()
        with path.open("wb") as file:  # blocks the loop, as in most programs
            async for chunk in response.content.iter_chunked(CHUNK):
                file.write(chunk)
                if digest:
                    checksum.update(chunk)
            if digest:
                file.flush()
                os.fsync(file.fileno())


def cpu() -> float:
    """Return the CPU seconds of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def main(options: argparse.Namespace) -> None:
    """Fetch the URLs one after another."""
    clock = asyncio.get_running_loop().time
    timeout = aiohttp.ClientTimeout(total=None)
    connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=options.ca))
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        for url, path in zip(options.pairs[::2], options.pairs[1::2], strict=True):
            began, before = clock(), cpu()
            await fetch(session, url, Path(path), digest=options.digest)
            print(json.dumps({"seconds": clock() - began, "cpu": cpu() - before}), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--ca")
    parser.add_argument("--digest", action="store_true")
    parser.add_argument("pairs", nargs="+", metavar="URL PATH")
    asyncio.run(main(parser.parse_args()))
