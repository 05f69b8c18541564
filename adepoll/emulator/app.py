"""The two aiohttp applications over a world: who may ask what where, and what time it is there."""

import asyncio
from collections.abc import Awaitable, Callable
from email.utils import formatdate

from aiohttp import hdrs, web

from adepoll.emulator.api import Api
from adepoll.emulator.delivery import Sleep
from adepoll.emulator.effects import Endpoint
from adepoll.emulator.faulty import Handler, Wire
from adepoll.emulator.saving import Saver
from adepoll.emulator.storage import Storage
from adepoll.emulator.world import World

_JOBS = "/v1/ade/extract/jobs"


def make_api_app(world: World, *, api_key: str, sleep: Sleep = asyncio.sleep) -> web.Application:
    """Make the API: every route of it wants ``Authorization: Bearer <api_key>``.

    Before the first large result is asked for, `world.results_origin` must say where the
    application of `make_results_app` is served.

    Args:
        world: What it is about.
        api_key: The key.
        sleep: Waits, where a fault wants it.
    """
    saver = Saver(world)
    api, wire = Api(world, saver), Wire(world, sleep)
    bearer = f"Bearer {api_key}"

    def guarded(handler: Handler) -> Handler:
        async def guard(request: web.Request) -> web.StreamResponse:
            if request.headers.get(hdrs.AUTHORIZATION) != bearer:
                world.traffic.unauthorized += 1
                return web.json_response(
                    {"detail": "Invalid or missing API key"},
                    status=401,
                    headers={hdrs.WWW_AUTHENTICATE: "Bearer"},
                )
            return await handler(request)

        return guard

    app = web.Application()
    app.router.add_get(
        _JOBS + "/{job_id}", guarded(wire.api(Endpoint.GET, api.get)), allow_head=False
    )
    app.router.add_get(_JOBS, guarded(wire.api(Endpoint.LIST, api.list)), allow_head=False)
    app.router.add_post(_JOBS, guarded(wire.api(Endpoint.CREATE, api.create)))
    app.router.add_get("/_emulator/truth", guarded(api.truth), allow_head=False)
    app.cleanup_ctx.append(saver.running)
    app.on_response_prepare.append(_date_stamper(world))
    return app


def make_results_app(world: World, *, sleep: Sleep = asyncio.sleep) -> web.Application:
    """Make the origin of the large results: it wants a presigned query, and no key at all.

    Args:
        world: Whose results they are.
        sleep: Waits, where a fault wants it.
    """
    storage = Storage(world)
    app = web.Application()
    app.router.add_get("/{key:.*}", Wire(world, sleep).results(storage))
    app.router.add_put("/{key:.*}", storage.put)
    app.on_response_prepare.append(_date_stamper(world))
    return app


def _date_stamper(
    world: World,
) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    # Clients work out their clock's skew from `Date`, so it must tell the time of the world.
    second, date = -1, ""

    async def stamp(_request: web.Request, response: web.StreamResponse) -> None:
        nonlocal second, date
        if (now := int(world.now())) != second:
            second, date = now, formatdate(now, usegmt=True)
        response.headers[hdrs.DATE] = date

    return stamp
