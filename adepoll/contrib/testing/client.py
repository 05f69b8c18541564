"""SelfClosingClient: an `AdeClient` that closes itself when its event loop ends."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress

from adepoll import AdeClient


class SelfClosingClient(AdeClient):
    """An `AdeClient` that is closed at the latest when its event loop ends.

    The client keeps an asynchronous generator open. ``asyncio.run``, pytest-asyncio and anyio close
    all such generators before they close the loop (PEP 525, 2016, "Asynchronous Generators and
    Event Loop Finalization"). When the generator is closed, it closes the client.
    """

    # The loop of the first request, and the generator that closes the client.
    _closer: tuple[asyncio.AbstractEventLoop, AsyncGenerator[None, None]] | None = None

    def finish(self) -> None:
        """Run the event loop of the client until the client is closed.

        Do nothing if this loop is closed or running, or if the client has sent no request.

        Raises:
            RuntimeError: Another event loop is running in this thread.
        """
        if self._closer is None:
            return
        loop, generator = self._closer
        if not (loop.is_closed() or loop.is_running()):
            loop.run_until_complete(generator.aclose())

    def _before_request(self) -> None:
        """Before the first request, make the event loop close the client when the loop ends."""
        if self._closer is None:
            generator = self._close_with_loop()
            self._closer = asyncio.get_running_loop(), generator
            # This runs the generator up to its `yield`, which raises StopIteration here. It also
            # registers the generator in the loop.
            with suppress(StopIteration):
                generator.asend(None).send(None)

    async def _close_with_loop(self) -> AsyncGenerator[None, None]:
        """Wait at a ``yield``; close the client when this generator is closed.

        `asyncio.run` and test runners close all asynchronous generators before they close the loop.
        """
        try:
            yield
        finally:
            await self.aclose()
