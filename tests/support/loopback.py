"""LoopbackServer: the start and the end of a TCP server for tests."""

import asyncio
import contextlib


class LoopbackServer:
    """A server on loopback. The method `serve` of a subclass serves one connection.

    At the end of the ``async with`` block, the tasks of all connections are cancelled.

    Attributes:
        port: The port of the server.
        origin: The address of the server as a URL, without a slash at the end.
        connections: Number of connections that were accepted.
    """

    port = origin = None

    def __init__(self, **options):
        """Create a server; the options are those of `asyncio.start_server`."""
        self.connections = 0
        self._options = options
        self._tasks = set()

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, **self._options)
        self.port = self._server.sockets[0].getsockname()[1]
        scheme = "https" if self._options.get("ssl") else "http"
        self.origin = f"{scheme}://127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, *_):
        self._server.close()
        await asyncio.sleep(0)  # for connections that were just accepted
        await self.end_connections()
        await self._server.wait_closed()

    async def end_connections(self):
        """End all connections, and wait until they have ended."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def serve(self, reader, writer):
        """Serve one connection. Afterwards, the connection is closed."""
        raise NotImplementedError

    def _accept(self, reader, writer):
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader, writer):
        self.connections += 1
        try:
            await self.serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client has disconnected
        except asyncio.CancelledError:
            writer.transport.abort()  # the test is over, and the client may not read the rest
            raise
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
