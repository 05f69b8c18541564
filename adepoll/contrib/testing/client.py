"""An `AdeClient` that closes itself with its event loop."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress

from adepoll.api.client import AdeClient


class SelfClosingClient(AdeClient):
    """An `AdeClient` that is closed at the latest when its event loop ends.

    It keeps an asynchronous generator open. ``asyncio.run``, pytest-asyncio and anyio close such
    generators before they close the loop (PEP 525, 2016, "Asynchronous Generators and Event Loop
    Finalization"), and the generator then closes the client.
    """

    _loop: asyncio.AbstractEventLoop | None = None
    _closer: AsyncGenerator[None, None] | None = None

    def finish(self) -> None:
        """Close the client from outside of its loop, if the loop is open and not running."""
        if self._loop is None or self._closer is None:
            return
        if not (self._loop.is_closed() or self._loop.is_running()):
            self._loop.run_until_complete(self._closer.aclose())

    def _before_request(self) -> None:
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
