"""An `AdeClient` that closes itself with its event loop."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Self

from adepoll.api.client import AdeClient


class SelfClosingClient(AdeClient):
    """An `AdeClient` that can be closed by the end of its event loop: see `closed_with_loop`.

    It keeps an asynchronous generator open. ``asyncio.run``, pytest-asyncio and anyio close such
    generators before they close the loop (PEP 525, 2016, "Asynchronous Generators and Event Loop
    Finalization"), and the generator then closes the client.
    """

    _loop: asyncio.AbstractEventLoop | None = None
    _closer: AsyncGenerator[None, None] | None = None

    def closed_with_loop(self) -> Self:
        """Return this client, which from its first request on is closed with its loop."""
        self._requests.on_request = self._close_with_the_loop
        return self

    def finish(self) -> None:
        """Close the client from outside of its loop, if the loop is open and not running."""
        if self._loop is None or self._closer is None:
            return
        if not (self._loop.is_closed() or self._loop.is_running()):
            self._loop.run_until_complete(self._closer.aclose())

    def _close_with_the_loop(self) -> None:
        if self._closer is None:
            self._loop = asyncio.get_running_loop()
            self._closer = self._close_with_loop()
            with suppress(StopIteration):  # it has reached its yield, and the loop knows it
                self._closer.asend(None).send(None)

    async def _close_with_loop(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            await self.aclose()
