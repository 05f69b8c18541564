"""The two aiohttp applications over a world: who may ask what where, and what time it is there."""

from collections.abc import Awaitable, Callable
from email.utils import formatdate
from typing import TypeAlias

from aiohttp import hdrs, web

from adepoll.emulator.api import Api
from adepoll.emulator.storage import Storage
from adepoll.emulator.world import World

_Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]

_JOBS = "/v1/ade/extract/jobs"


def make_api_app(world: World, *, api_key: str) -> web.Application:
    """Make the API: every route of it wants ``Authorization: Bearer <api_key>``.

    Before the first large result is asked for, `world.results_origin` must say where the
    application of `make_results_app` is served.
    """
    api = Api(world)
    bearer = f"Bearer {api_key}"

    def guarded(handler: _Handler) -> _Handler:
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
    app.router.add_get(_JOBS + "/{job_id}", guarded(api.get), allow_head=False)
    app.router.add_get(_JOBS, guarded(api.list), allow_head=False)
    app.router.add_post(_JOBS, guarded(api.create))
    app.router.add_get("/_emulator/truth", guarded(api.truth), allow_head=False)
    app.on_response_prepare.append(_date_stamper(world))
    return app


def make_results_app(world: World) -> web.Application:
    """Make the origin of the large results: it wants a presigned query, and no key at all."""
    app = web.Application()
    app.router.add_get("/{key:.*}", Storage(world).get)
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
