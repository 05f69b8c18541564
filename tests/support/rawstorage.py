"""HTTP storages on loopback whose responses a test chooses, byte for byte."""

import asyncio
import socket
import struct

from loopback import LoopbackServer
from waiting import bounded

LONG = 30.0
"""Seconds of a timeout that a busy machine does not reach, and that `pass_time` exceeds."""


async def pass_time(leap, *, ends=lambda: False):
    """Move the time of the loop on by twice `LONG`, or until `ends` returns true.

    It moves a little in each of many rounds. In each round, whatever has been sent in this loop is
    received, however slow the machine is.
    """
    for _ in range(200):
        await asyncio.sleep(0.001)
        if ends():
            break
        leap(LONG / 100)


class RawStorage(LoopbackServer):
    """A storage on loopback that sends the given responses in turn, and repeats the last.

    A response is bytes, after which the connection is closed, or a coroutine function that is
    called with reader and writer, and returns true if the connection stays open.
    """

    def __init__(self):
        super().__init__()
        self.answers = []
        self.heads = []  # raw heads of the requests

    @property
    def targets(self):
        """The targets in the request lines, between method and version."""
        lines = [head.partition(b"\r\n")[0].decode("latin-1") for head in self.heads]
        return [line.removeprefix("GET ").removesuffix(" HTTP/1.1") for line in lines]

    def url(self, target="/result.json"):
        return self.origin + target

    async def left_alone(self):
        """Wait until the client has closed every connection."""
        async with bounded("for the client to close its connections", 30):
            while self._tasks:
                await asyncio.wait(self._tasks)

    @staticmethod
    def reply(body=b"", *, status="200 OK", length=True, headers=()):
        """Return a response; `length` is True for the right Content-Length, None for none."""
        lines = [f"HTTP/1.1 {status}", *headers]
        if length is not None:
            lines.append(f"Content-Length: {len(body) if length is True else length}")
        return "\r\n".join([*lines, "", ""]).encode() + body

    @staticmethod
    def keeping(answer):
        """Return a response that leaves the connection open for the next request."""

        async def send(_reader, writer):
            writer.write(answer)
            await writer.drain()
            return True

        return send

    @staticmethod
    async def hang(reader, leap=None):
        """Send nothing until the client disconnects; with `leap`, for more than `LONG` seconds."""
        if leap is not None:
            await pass_time(leap, ends=lambda: reader.at_eof() or reader.exception())
        await reader.read()

    @staticmethod
    def resetting(answer):
        """Return a response that ends with a reset of the connection."""

        async def send(_reader, writer):
            writer.write(answer)
            await writer.drain()
            no_lingering = struct.pack("ii", 1, 0)
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_lingering)
            writer.transport.abort()

        return send

    async def serve(self, reader, writer):
        while True:
            self.heads.append(await reader.readuntil(b"\r\n\r\n"))
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            if isinstance(answer, bytes):
                writer.write(answer)
                await writer.drain()
                break
            if not await answer(reader, writer):
                break


class Bucket(RawStorage):
    """A storage with one object, which it serves with ranges as in RFC 9110.

    `answers` come from `give`, or from the methods of `RawStorage` for other responses.
    """

    def __init__(self):
        super().__init__()
        self.body = b""
        self.etag = '"one"'
        self.gives_ranges = True
        self.answers = [self.give()]

    @property
    def requests(self):
        """The header fields of each request, by name in lower case."""
        return [self._fields(head) for head in self.heads]

    @property
    def ranges(self):
        """The requested ranges, as (start, stop); None for the whole, or no stop."""
        asked = []
        for fields in self.requests:
            first, _, last = fields.get("range", "").removeprefix("bytes=").partition("-")
            asked.append((int(first), int(last) + 1 if last else None) if first else None)
        return asked

    def give(self, most=None, *, then="keep", before=None, leap=None):
        """Return a response with the requested bytes, or `most` of them and then `then`.

        `then` is "close", "reset" or "hang". `before` is called with the number of the request.
        With `leap`, a response that hangs exceeds each timeout of up to `LONG` seconds.
        """

        async def send(reader, writer):
            number = len(self.heads) - 1
            if before is not None:
                before(number)
            answer = self._answer(self._fields(self.heads[number]))
            head, blank, body = answer.partition(b"\r\n\r\n")
            writer.write(head + blank)
            for start in range(0, len(body) if most is None else min(most, len(body)), 2**18):
                writer.write(body[start : start + 2**18][: None if most is None else most - start])
                await writer.drain()
            if most is None or then == "keep":
                return True
            if then == "hang":
                await self.hang(reader, leap)
            if then == "reset":
                await self.resetting(b"")(reader, writer)
            return False

        return send

    def _answer(self, fields):
        size, tag = len(self.body), self.etag
        tags = [] if tag is None else [f"ETag: {tag}"]
        if tag is not None and fields.get("if-match", tag) != tag:
            return self.reply(status="412 Precondition Failed")
        asked = fields.get("range") if self.gives_ranges else None
        if asked is None or fields.get("if-range", tag) != tag:
            return self.reply(self.body, headers=tags)
        first, _, last = asked.removeprefix("bytes=").partition("-")
        start, stop = int(first), min(int(last) + 1 if last else size, size)
        if start >= size:
            headers = [*tags, f"Content-Range: bytes */{size}"]
            return self.reply(status="416 Range Not Satisfiable", headers=headers)
        headers = [*tags, f"Content-Range: bytes {start}-{stop - 1}/{size}"]
        return self.reply(self.body[start:stop], status="206 Partial Content", headers=headers)

    @staticmethod
    def _fields(head):
        lines = head.decode("latin-1").split("\r\n")[1:]
        pairs = [line.partition(":")[::2] for line in lines if line]
        return {name.lower(): value.strip() for name, value in pairs}
