"""The least that aiohttp can do: a GET, and its body to a file. ``_plain.py URL PATH [URL ...]``.

Prints the seconds that each took.
"""

import asyncio
import sys
from pathlib import Path

import aiohttp

CHUNK = 2**16


async def fetch(session: aiohttp.ClientSession, url: str, path: Path) -> None:
    """Fetch one, as the manual of aiohttp shows it."""
    async with session.get(url) as response:
        response.raise_for_status()
        with path.open("wb") as file:  # blocking, as most people do
            async for chunk in response.content.iter_chunked(CHUNK):
                file.write(chunk)


async def main(*pairs: str) -> None:
    """Fetch one after another."""
    clock = asyncio.get_running_loop().time
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        for url, path in zip(pairs[::2], pairs[1::2], strict=True):
            began = clock()
            await fetch(session, url, Path(path))
            print(clock() - began, flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
