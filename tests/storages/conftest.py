"""Fixtures for tests with real storages."""

import asyncio
import contextlib
from random import Random

import pytest
from loopback import LoopbackServer
from nginx import COMMAND, WHY_NOT, Nginx


@pytest.fixture
def serve(tmp_path):
    """Start an nginx that serves these files, with additional lines of configuration."""
    with contextlib.ExitStack() as stack:

        def start(files=None, *, server="", http=""):
            if COMMAND is None:
                pytest.skip(WHY_NOT)
            home, folder = tmp_path / "nginx", tmp_path / "served"
            home.mkdir()
            folder.mkdir()
            for name, body in (files or {}).items():
                (folder / name).write_bytes(body)
            return stack.enter_context(Nginx(home, folder, server=server, http=http))

        yield start


@pytest.fixture
def out(tmp_path):
    """Return an empty folder to download into."""
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


@pytest.fixture
def make_json():
    """Return a result of exactly that many bytes, at least 20, without repetitions."""

    def make(size, *, seed=0):
        text = Random(seed).randbytes(size // 2).hex().encode()
        return b'{"extraction":"' + (text + b"0")[: size - 17] + b'"}'

    return make


class Cutter(LoopbackServer):
    """A proxy on loopback that cuts connections after a number of response bytes.

    Each connection uses the next of `cuts`: a number of bytes, or None for no cut; later
    connections are not cut. `before_cut` is called before each cut.
    """

    def __init__(self, port):
        super().__init__()
        self.cuts = []
        self.before_cut = lambda: None
        self.passed = 0  # bytes of the response
        self._to = port

    def url(self, path):
        return f"{self.origin}{path}"

    async def serve(self, reader, writer):
        left = self.cuts.pop(0) if self.cuts else None
        ends, upward = [writer], None
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._to)
            ends.append(far_writer)
            upward = asyncio.create_task(self._pass_on(reader, far_writer))
            while data := await far_reader.read(2**16):
                if left is not None and len(data) >= left:
                    writer.write(data[:left])
                    self.before_cut()
                    break
                left = left and left - len(data)
                self.passed += len(data)
                writer.write(data)
                await writer.drain()
        finally:
            for end in ends:
                end.close()
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                if upward is not None:
                    upward.cancel()
                    await asyncio.wait([upward])
                for end in ends:
                    await end.wait_closed()

    @staticmethod
    async def _pass_on(reader, writer):
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(2**16):
                writer.write(data)
                await writer.drain()


@pytest.fixture
def cutter():
    """Return the class `Cutter`."""
    return Cutter
