"""A server in a process of its own: ``python served_app.py KIND LOOP [bounded|observed]``.

It writes its port first. Environment variables name the emulator, as for every user of adepoll. An
observed server answers each line on stdin with a line of JSON about its tasks and its memory.
"""

import asyncio
import json
import socket
import sys
from contextlib import asynccontextmanager
from functools import partial

import observing
import server_apps
import uvicorn
from aiohttp import web

from adepoll import AdeClient, Fixed, JobWatcher


@asynccontextmanager
async def observed(port, app):
    """Answer lines on stdin."""
    loop = asyncio.get_running_loop()

    def answer():
        if not sys.stdin.readline():
            loop.remove_reader(sys.stdin)
            return
        report = {
            "tasks": len(asyncio.all_tasks()),
            "connections": observing.connections(port),
            "blocks": observing.allocated_blocks(),
            "resident": observing.resident_bytes(),
        }
        sys.stdout.write(f"{json.dumps(report)}\n")
        sys.stdout.flush()

    loop.add_reader(sys.stdin, answer)
    observing.tune_garbage_collector()
    yield
    loop.remove_reader(sys.stdin)


async def observed_context(port, app):
    """As `observed`, for `cleanup_ctx` of aiohttp."""
    async with observed(port, app):
        yield


def main(kind, loop, mode=None):
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
            import uvloop  # noqa: PLC0415 - an optional dependency

            asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
        app = server_apps.aiohttp_app(**options)
        if mode == "observed":
            app.cleanup_ctx.append(partial(observed_context, port))
        timeout = 3 if mode == "bounded" else 60
        web.run_app(app, sock=sock, print=None, shutdown_timeout=timeout)
    else:
        inner = partial(observed, port) if mode == "observed" else None
        config = uvicorn.Config(
            server_apps.fastapi_app(**options, inner=inner),
            loop=loop,
            log_level="warning",
            timeout_graceful_shutdown=3 if mode == "bounded" else None,
        )
        uvicorn.Server(config).run(sockets=[sock])


if __name__ == "__main__":
    main(*sys.argv[1:])
