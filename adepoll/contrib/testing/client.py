"""An AdeClient that needs nobody to close it. Imports client."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress

from adepoll.api.client import AdeClient
from adepoll.api.models import JobPage, JobSnapshot, JobStatus
from adepoll.throttling.rate_limiter import Send


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

    def _job_request(self, job_id: str) -> Send[JobSnapshot]:
        self._close_with_the_loop()
        return super()._job_request(job_id)

    def _page_request(self, page: int, page_size: int, status: JobStatus | None) -> Send[JobPage]:
        self._close_with_the_loop()
        return super()._page_request(page, page_size, status)

    def _close_with_the_loop(self) -> None:
        if self._end is None:
            self._loop = asyncio.get_running_loop()
            self._end = self._close_at_the_end()
            with suppress(StopIteration):  # it has reached its yield, and the loop knows it
                self._end.asend(None).send(None)

    async def _close_at_the_end(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            await self.aclose()
