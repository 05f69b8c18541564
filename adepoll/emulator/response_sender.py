"""Sends responses: correctly, or cut off, stalled, endless, or with a wrong length."""

import asyncio
import contextlib
import socket
import struct
import sys
import zlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from email.utils import formatdate
from http import HTTPStatus
from typing import Final, TypeAlias

from aiohttp import hdrs, web
from aiohttp.abc import AbstractStreamWriter
from attrs import frozen

from adepoll.emulator.combined_effect import CombinedEffect
from adepoll.emulator.effects import ConnectionFailure, StorageEffect
from adepoll.emulator.responses import ResponseData

Sleep: TypeAlias = Callable[[float], Awaitable[object]]
"""Waits for a number of seconds, as `asyncio.sleep` does."""

STALL_SECONDS: Final = 86_400.0
"""Seconds for which a stalled answer stays silent, unless the client disconnects before."""

_CHUNK_BYTES: Final = 256 * 1024
_FAULTY_CHUNK_BYTES: Final = 64 * 1024
_PAUSES_PER_SECOND: Final = 10  # for a body that is sent slowly
_SHORT_PAUSE: Final = 0.01  # seconds between the chunks of a body that never ends
# With a linger time of 0 s (SO_LINGER), closing a socket sends RST instead of FIN. On Windows, the
# two numbers have 16 bits each.
_LINGER_0_SECONDS: Final = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)


async def send(request: web.Request, data: ResponseData) -> web.StreamResponse:
    """Send a response correctly, as fast as the client reads it."""
    if data.stored is None:
        return web.Response(status=data.status, headers=data.headers, body=data.body)
    response = web.StreamResponse(status=data.status, headers=data.headers)
    response.content_length = data.size
    # A client that disconnects is not an error of the emulator.
    with contextlib.suppress(ConnectionError):
        await response.prepare(request)
        if request.method == hdrs.METH_GET:
            for chunk in data.chunks(chunk_bytes=_CHUNK_BYTES):
                await response.write(chunk)
    return response


class _AlreadySent(web.StreamResponse):
    """A placeholder for aiohttp: the response has been sent, and the connection must be closed."""

    def __init__(self) -> None:
        super().__init__()
        self.force_close()

    async def prepare(self, request: web.BaseRequest) -> None:  # noqa: ARG002 - the signature of the base class
        return None

    async def write_eof(self, data: bytes = b"") -> None:  # noqa: ARG002 - the signature of the base class
        return None


@frozen
class FaultySender:
    """Sends one response with the faults that aiohttp itself cannot produce.

    Attributes:
        request: The request.
        data: The correct response.
        effect: What the faults do to the response.
        sleep: Waits; see `Sleep`.
    """

    request: web.Request
    data: ResponseData
    effect: CombinedEffect
    sleep: Sleep

    async def send(self, now: float) -> web.StreamResponse:
        """Send the response; the connection is closed afterwards.

        Args:
            now: Unix seconds, for the `Date` header.
        """
        # A client that disconnects before the end is not an error of the emulator.
        with contextlib.suppress(ConnectionError):
            await self._send(self.request.writer, now)
        return _AlreadySent()

    async def _send(self, writer: AbstractStreamWriter, now: float) -> None:
        """Send the answer as `effect` says: it can fail before, in or after the body."""
        effect, failure = self.effect, self.effect.connection_failure
        if failure is ConnectionFailure.SILENT:
            await self.sleep(STALL_SECONDS)
            return
        chunked = (
            failure is ConnectionFailure.NEVER_ENDING
            or StorageEffect.UNREQUESTED_GZIP in effect.storage_effects
        )
        announced = self.data.size + effect.extra_bytes + effect.off_by
        head = self._head(now, None if chunked else max(announced, 0))
        if failure in _SHARE_OF_HEAD:
            await self._reset_after(writer, head[: round(_SHARE_OF_HEAD[failure] * len(head))])
            return
        await writer.write(head)
        if self.request.method == hdrs.METH_HEAD:
            return
        stop = None if failure in _WHOLE_BODY else effect.draw_break(self.data.size)
        for chunk in self._body(stop):
            await writer.write(b"%x\r\n%b\r\n" % (len(chunk), chunk) if chunked else chunk)
            if effect.rate is not None:
                await self.sleep(len(chunk) / effect.rate)
        if failure is ConnectionFailure.NEVER_ENDING:
            await self._never_end(writer)
        elif failure is ConnectionFailure.STALLED:
            await self.sleep(STALL_SECONDS)
        elif failure in {ConnectionFailure.RESET_IN_BODY, ConnectionFailure.EXPIRED_MID_DOWNLOAD}:
            await self._reset_after(writer, b"")
        elif chunked:
            await writer.write(b"0\r\n\r\n")

    def _head(self, now: float, length: int | None) -> bytes:
        """Return the status line and headers.

        `length` is the `Content-Length`. If it is None, the body is sent in chunks.
        """
        data = self.data
        headers = {name: text for name, text in data.headers.items() if name not in _OWN_HEADERS}
        headers |= {hdrs.DATE: formatdate(now, usegmt=True), hdrs.CONNECTION: "close"}
        if length is None:
            headers[hdrs.TRANSFER_ENCODING] = "chunked"
        else:
            headers[hdrs.CONTENT_LENGTH] = str(length)
        if StorageEffect.UNREQUESTED_GZIP in self.effect.storage_effects:
            headers[hdrs.CONTENT_ENCODING] = "gzip"
        lines = [f"HTTP/1.1 {data.status} {HTTPStatus(data.status).phrase}"]
        lines += [f"{name}: {text}" for name, text in headers.items()]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    def _body(self, stop: int | None) -> Iterator[bytes]:
        """Yield the body up to the offset `stop`.

        If `stop` is None, yield the whole body, and then the spaces that a fault adds.
        """
        effect, chunk_bytes = self.effect, _FAULTY_CHUNK_BYTES
        if effect.rate is not None:
            chunk_bytes = min(max(int(effect.rate / _PAUSES_PER_SECOND), 1), chunk_bytes)
        chunks = self.data.chunks(chunk_bytes=chunk_bytes, stop=stop)
        gzip = StorageEffect.UNREQUESTED_GZIP in effect.storage_effects
        yield from _gzipped(chunks) if gzip else chunks
        if stop is None:
            for sent in range(0, effect.extra_bytes, chunk_bytes):
                yield b" " * min(chunk_bytes, effect.extra_bytes - sent)

    async def _never_end(self, writer: AbstractStreamWriter) -> None:
        blanks = b"%x\r\n%b\r\n" % (_FAULTY_CHUNK_BYTES, b" " * _FAULTY_CHUNK_BYTES)
        while True:
            await writer.write(blanks)
            await self.sleep(_SHORT_PAUSE)

    async def _reset_after(self, writer: AbstractStreamWriter, last: bytes) -> None:
        """Send the bytes `last`, wait until all bytes have been sent, and reset the connection."""
        if last:
            await writer.write(last)
        transport = self.request.transport
        if transport is None:
            return
        while transport.get_write_buffer_size():  # noqa: ASYNC110 - asyncio has no event for an empty write buffer
            await asyncio.sleep(_SHORT_PAUSE)
        if (sock := transport.get_extra_info("socket")) is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_0_SECONDS)
        transport.abort()


# Share of the headers that is sent before the connection is reset.
_SHARE_OF_HEAD: Final[Mapping[ConnectionFailure | None, float]] = {
    ConnectionFailure.RESET_BEFORE_HEADERS: 0.0,
    ConnectionFailure.RESET_IN_HEADERS: 0.5,
    ConnectionFailure.RESET_AFTER_HEADERS: 1.0,
}
_WHOLE_BODY: Final = frozenset({None, ConnectionFailure.NEVER_ENDING})
_OWN_HEADERS: Final = frozenset({hdrs.CONTENT_LENGTH, hdrs.DATE, hdrs.CONNECTION})


def _gzipped(chunks: Iterator[bytes]) -> Iterator[bytes]:
    compressor = zlib.compressobj(wbits=31)
    for chunk in chunks:
        if compressed := compressor.compress(chunk):
            yield compressed
    yield compressor.flush()
