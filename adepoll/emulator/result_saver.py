"""Saves results to the `output_save_url` of their jobs, over HTTP."""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import aiohttp
from aiohttp import hdrs, web
from attrs import define, field
from yarl import URL

from adepoll.emulator.stored_objects import StoredObject
from adepoll.emulator.world import World

_CHUNK_BYTES: Final = 256 * 1024
_TIMEOUT: Final = aiohttp.ClientTimeout(total=30)


@define(eq=False)
class ResultSaver:
    """Saves the result of a job at the first poll after the job's end.

    Attributes:
        world: The world with the jobs.
    """

    world: World
    _session: aiohttp.ClientSession | None = field(init=False, default=None)
    _saving: asyncio.Lock = field(init=False, factory=asyncio.Lock)

    async def running(self, _app: web.Application) -> AsyncIterator[None]:
        """Keep an HTTP session open while the application runs."""
        async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
            self._session = session
            yield
            self._session = None

    async def save(self, job_id: str) -> None:
        """PUT the result of a completed job to its `output_save_url`, and record the status.

        Do nothing if the job has no such URL, has not completed, or was saved before.
        """
        if self.world.pending_save(job_id) is None:
            return
        async with self._saving:
            # Another poll may have saved the result while this poll waited for the lock.
            if (pending := self.world.pending_save(job_id)) is not None:
                self.world.record_save(job_id, await self._put(*pending))

    async def _put(self, url: str, result: StoredObject) -> int:
        """PUT a result to a URL; return the status of the answer, or 0 if there was no answer."""
        if self._session is None:
            raise RuntimeError("the application is not running")

        async def body() -> AsyncIterator[bytes]:
            for chunk in result.chunks(0, result.size, chunk_bytes=_CHUNK_BYTES):
                yield chunk

        headers = {hdrs.CONTENT_LENGTH: str(result.size), hdrs.CONTENT_TYPE: "application/json"}
        try:
            target = URL(url, encoded=True)
            async with self._session.put(target, data=body(), headers=headers) as answer:
                return answer.status
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return 0
