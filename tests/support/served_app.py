"""A server in a process of its own: ``python served_app.py KIND LOOP [bounded]``.

It writes its port first. The emulator that it asks is named by the environment, as for every user
of adepoll.
"""

import asyncio
import socket
import sys
from functools import partial

import houses
import uvicorn
from aiohttp import web

from adepoll import AdeClient, Fixed, JobWatcher


def main(kind, loop, bounded=None):
    options = {
        "client": AdeClient,
        "watcher": partial(JobWatcher, schedule=Fixed(interval=0.2)),
        "grace": 1.0,
    }
    sock = socket.create_server(("127.0.0.1", 0))
    sys.stdout.write(f"{sock.getsockname()[1]}\n")
    sys.stdout.flush()
    if kind == "aiohttp":
        if loop == "uvloop":
            import uvloop  # noqa: PLC0415 - an extra

            asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
        web.run_app(
            houses.aiohttp_app(**options),
            sock=sock,
            print=None,
            shutdown_timeout=3 if bounded else 60,
        )
    else:
        app = houses.fastapi_app(**options)
        config = uvicorn.Config(
            app, loop=loop, log_level="warning", timeout_graceful_shutdown=3 if bounded else None
        )
        uvicorn.Server(config).run(sockets=[sock])


if __name__ == "__main__":
    main(*sys.argv[1:])
