"""Reads the body of a response while it arrives.

Most bodies have arrived completely when `Transport` reads them, and need no `ArrivingBody`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from attrs import define

from adepoll.api.body_decoding import Read, decoded
from adepoll.api.connector import Response
from adepoll.api.large_answer import LargeAnswer
from adepoll.api.received_result import ReadAnswer
from adepoll.throttling.hosts import Sent


@define(eq=False)
class ArrivingBody:
    """The body of a response that is still arriving.

    Attributes:
        response: The response.
        sent: Record of the request. `sent.heard_at` is set each time bytes arrive.
        restart: Restarts the time limit of the request. The argument is the present time of the
            event loop.
        codings: The codings of the body (`codings_in`); empty if it is not encoded.
        size: Number of bytes that have arrived of a large answer (see `LargeAnswer`); 0 for any
            other answer.
    """

    response: Response
    sent: Sent
    restart: Callable[[float], None]
    codings: Sequence[str] = ()
    size: int = 0
    _since_restart: int = 0  # bytes of a large answer since its time limit has started again

    async def read(
        self, most: int, large: Callable[[], LargeAnswer] | None, *, job_id: str | None
    ) -> tuple[bytes, ReadAnswer | None]:
        """Read the body to its end.

        Args:
            most: Largest size, in bytes, of a body that is kept in memory. A larger body is read as
                a large answer. If this is not possible, reading stops as soon as the body is larger
                than `most`, so that the caller can refuse the body.
            large: Creates the reader of a large answer; None if the body is never a large answer.
            job_id: Id of the job that the request is about, for errors; None for a page of the
                list.

        Returns:
            The body and None. For a large answer: the answer without its result, as bytes and as a
            `ReadAnswer`.

        Raises:
            ResultError: The body cannot be decoded. Its job id is not set.
        """
        content = self.response.content
        readany: Read = content.readany
        read: Callable[[int], Awaitable[bytes]] = content.read
        if self.codings:
            readany = decoded(readany, self.codings, job_id="")
            read = lambda _size: readany()  # noqa: E731 - a function for this body only
        self._heard()
        chunks: list[bytes] = []
        size = 0 if large is None else self.response.content_length or 0
        if size <= most:  # a body whose size is not declared counts as empty here
            size = 0
            while size <= most and (chunk := await readany()):
                self._heard()
                size += len(chunk)
                chunks.append(chunk)
        if large is None or size <= most:
            return b"".join(chunks), None
        answer = await large().read(chunks, read, self._received, job_id=job_id)
        return answer.body, answer

    def _heard(self) -> None:
        """Record that bytes of the response have arrived now."""
        self.sent.heard_at = asyncio.get_running_loop().time()

    def _received(self, size: int) -> None:
        """Count `size` more bytes of a large answer.

        Restart the time limit of the request after each 64 KiB.
        """
        self._heard()
        self.size += size
        self._since_restart += size
        if self._since_restart >= _MIN_PROGRESS:
            self._since_restart = 0
            self.restart(self.sent.heard_at)


_MIN_PROGRESS: Final = 2**16  # bytes of a large answer after which its time limit starts again
