"""A server in a process of its own: ``python served_app.py KIND LOOP [bounded|observed]``.

It writes its port first. The emulator that it asks is named by the environment, as for every user
of adepoll. An observed one tells what it holds, as a line of JSON, for each line that it is sent.
"""

import asyncio
import json
import socket
import sys
from contextlib import asynccontextmanager
from functools import partial

import houses
import observing
import uvicorn
from aiohttp import web

from adepoll import AdeClient, Fixed, JobWatcher


@asynccontextmanager
async def observed(port, app):
    """Answer what is asked on stdin."""
    loop = asyncio.get_running_loop()

    def answer():
        if not sys.stdin.readline():
            loop.remove_reader(sys.stdin)
            return
        told = {
            "tasks": len(asyncio.all_tasks()),
            "connected": observing.connected(port),
            "blocks": observing.in_use(),
            "resident": observing.resident(),
        }
        sys.stdout.write(f"{json.dumps(told)}\n")
        sys.stdout.flush()

    loop.add_reader(sys.stdin, answer)
    observing.spare_the_collector()
    yield
    loop.remove_reader(sys.stdin)


async def observed_context(port, app):
    """The same for aiohttp."""
    async with observed(port, app):
        yield


def main(kind, loop, way=None):
    options = {
        "client": AdeClient,
        "watcher": partial(JobWatcher, schedule=Fixed(interval=0.2)),
        "grace": 1.0,
    }
    sock = socket.create_server(("127.0.0.1", 0), backlog=2_000)
    port = sock.getsockname()[1]
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    if kind == "aiohttp":
        if loop == "uvloop":
            import uvloop  # noqa: PLC0415 - an extra

            asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
        app = houses.aiohttp_app(**options)
        if way == "observed":
            app.cleanup_ctx.append(partial(observed_context, port))
        timeout = 3 if way == "bounded" else 60
        web.run_app(app, sock=sock, print=None, shutdown_timeout=timeout)
    else:
        inner = partial(observed, port) if way == "observed" else None
        config = uvicorn.Config(
            houses.fastapi_app(**options, inner=inner),
            loop=loop,
            log_level="warning",
            timeout_graceful_shutdown=3 if way == "bounded" else None,
        )
        uvicorn.Server(config).run(sockets=[sock])


if __name__ == "__main__":
    main(*sys.argv[1:])
