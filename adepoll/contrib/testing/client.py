"""An AdeClient that needs nobody to close it. Imports client."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import TypeVar

from yarl import URL

from adepoll.api.client import AdeClient

_T = TypeVar("_T")


class SelfClosingClient(AdeClient):
    """An `AdeClient` that is closed at the latest when the loop ends in which it was used.

    It hangs on an asynchronous generator, which every orderly end of a loop closes before the
    loop itself (PEP 525, 2016, "Asynchronous Generators and Event Loop Finalization"):
    ``asyncio.run``, pytest-asyncio and anyio all end so, and it need not know which it was.
    """

    _loop: asyncio.AbstractEventLoop | None = None
    _end: AsyncGenerator[None, None] | None = None

    def finish(self) -> None:
        """Close it from outside of its loop, if that lives on and is at rest."""
        if self._loop is None or self._end is None:
            return
        if not (self._loop.is_closed() or self._loop.is_running()):
            self._loop.run_until_complete(self._end.aclose())

    async def _send(
        self, url: URL, read: Callable[..., _T], job_id: str | None, sent_at: float
    ) -> _T:
        if self._end is None:
            self._loop = asyncio.get_running_loop()
            self._end = self._close_at_the_end()
            await anext(self._end)
        return await super()._send(url, read, job_id, sent_at)

    async def _close_at_the_end(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            await self.aclose()
