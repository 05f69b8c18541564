"""Sends an answer in ways that no server should: cut off, stalled, endless, of a wrong length."""

import asyncio
import socket
import struct
import zlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from email.utils import formatdate
from http import HTTPStatus
from typing import Final, TypeAlias

from aiohttp import hdrs, web
from aiohttp.abc import AbstractStreamWriter
from attrs import frozen

from adepoll.emulator.effects import Break, Trick
from adepoll.emulator.replies import Reply
from adepoll.emulator.treatment import Treatment

Sleep: TypeAlias = Callable[[float], Awaitable[object]]
"""Waits for so many seconds, as `asyncio.sleep` does."""

FOR_GOOD: Final = 86_400.0
"""How long a stalled answer stays silent, in seconds, if the client does not leave before."""

_CHUNK_BYTES: Final = 64 * 1024
_PAUSES_PER_SECOND: Final = 10  # of a throttled body
_BREATH: Final = 0.01  # seconds between the chunks of a body that never ends
_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER of no time: RST in place of FIN


class _Sent(web.StreamResponse):
    """Tells aiohttp that the answer has been sent already, and that the connection is to close."""

    def __init__(self) -> None:
        super().__init__()
        self.force_close()

    async def prepare(self, request: web.BaseRequest) -> None:  # noqa: ARG002 - as overridden
        return None

    async def write_eof(self, data: bytes = b"") -> None:  # noqa: ARG002 - as overridden
        return None


@frozen
class Delivery:
    """One answer on its way.

    Attributes:
        request: What it answers.
        reply: What should be sent.
        treatment: What happens to it.
        sleep: Waits.
    """

    request: web.Request
    reply: Reply
    treatment: Treatment
    sleep: Sleep

    async def send(self, now: float) -> web.StreamResponse:
        """Send it; the connection is closed afterwards.

        Args:
            now: Unix seconds, for the `Date` header.
        """
        try:
            await self._send(self.request.writer, now)
        except ConnectionError:
            # The client had enough of it.
            return _Sent()
        return _Sent()

    async def _send(self, writer: AbstractStreamWriter, now: float) -> None:
        how, treatment = self.treatment.broken, self.treatment
        if how is Break.SILENT:
            await self.sleep(FOR_GOOD)
            return
        unmeasured = how is Break.NEVER_ENDING or Trick.GZIP_UNASKED in treatment.tricks
        announced = self.reply.size + treatment.extra_bytes + treatment.off_by
        head = self._head(now, None if unmeasured else max(announced, 0))
        if how in _RESETS_IN_HEAD:
            await self._reset_after(writer, head[: round(_RESETS_IN_HEAD[how] * len(head))])
            return
        await writer.write(head)
        stop = None if how in _WHOLE else treatment.stop(self.reply.size)
        for chunk in self._body(stop):
            await writer.write(b"%x\r\n%b\r\n" % (len(chunk), chunk) if unmeasured else chunk)
            if treatment.rate is not None:
                await self.sleep(len(chunk) / treatment.rate)
        if how is Break.NEVER_ENDING:
            await self._never_end(writer)
        elif how is Break.STALLED:
            await self.sleep(FOR_GOOD)
        elif how in {Break.RESET_IN_BODY, Break.EXPIRED_IN_MID_DOWNLOAD}:
            await self._reset_after(writer, b"")
        elif unmeasured:
            await writer.write(b"0\r\n\r\n")

    def _head(self, now: float, length: int | None) -> bytes:
        reply = self.reply
        headers = {name: text for name, text in reply.headers.items() if name not in _FRAMING}
        headers |= {hdrs.DATE: formatdate(now, usegmt=True), hdrs.CONNECTION: "close"}
        if length is None:
            headers[hdrs.TRANSFER_ENCODING] = "chunked"
        else:
            headers[hdrs.CONTENT_LENGTH] = str(length)
        if Trick.GZIP_UNASKED in self.treatment.tricks:
            headers[hdrs.CONTENT_ENCODING] = "gzip"
        lines = [f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}"]
        lines += [f"{name}: {text}" for name, text in headers.items()]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    def _body(self, stop: int | None) -> Iterator[bytes]:
        if self.request.method == hdrs.METH_HEAD:
            return
        treatment, chunk_bytes = self.treatment, _CHUNK_BYTES
        if treatment.rate is not None:
            chunk_bytes = min(max(int(treatment.rate / _PAUSES_PER_SECOND), 1), chunk_bytes)
        chunks = self.reply.chunks(chunk_bytes=chunk_bytes, stop=stop)
        yield from _gzipped(chunks) if Trick.GZIP_UNASKED in treatment.tricks else chunks
        if stop is None:
            for sent in range(0, treatment.extra_bytes, chunk_bytes):
                yield b" " * min(chunk_bytes, treatment.extra_bytes - sent)

    async def _never_end(self, writer: AbstractStreamWriter) -> None:
        blanks = b"%x\r\n%b\r\n" % (_CHUNK_BYTES, b" " * _CHUNK_BYTES)
        while True:
            await writer.write(blanks)
            await self.sleep(_BREATH)

    async def _reset_after(self, writer: AbstractStreamWriter, last: bytes) -> None:
        """Reset the connection once all that was written has left, `last` included."""
        if last:
            await writer.write(last)
        transport = self.request.transport
        if transport is None:
            return
        # A transport tells nobody when it is empty.
        while transport.get_write_buffer_size() and not transport.is_closing():  # noqa: ASYNC110
            await asyncio.sleep(_BREATH)
        if (sock := transport.get_extra_info("socket")) is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        transport.abort()


# How much of the headers is sent.
_RESETS_IN_HEAD: Final[Mapping[Break | None, float]] = {
    Break.RESET_BEFORE_HEADERS: 0.0,
    Break.RESET_IN_HEADERS: 0.5,
    Break.RESET_AFTER_HEADERS: 1.0,
}
_WHOLE: Final = frozenset({None, Break.NEVER_ENDING})
_FRAMING: Final = frozenset({hdrs.CONTENT_LENGTH, hdrs.DATE, hdrs.CONNECTION})


def _gzipped(chunks: Iterator[bytes]) -> Iterator[bytes]:
    packer = zlib.compressobj(wbits=31)
    for chunk in chunks:
        if packed := packer.compress(chunk):
            yield packed
    yield packer.flush()
