"""The two aiohttp applications of the emulator: the API, and the storage of large results."""

import asyncio
from collections.abc import Awaitable, Callable
from email.utils import formatdate

from aiohttp import hdrs, web

from adepoll.emulator.api_handlers import ApiHandlers
from adepoll.emulator.endpoints import Endpoint
from adepoll.emulator.fault_handlers import FaultHandlers, Handler
from adepoll.emulator.response_sender import Sleep
from adepoll.emulator.result_saver import ResultSaver
from adepoll.emulator.storage_handlers import StorageHandlers
from adepoll.emulator.world import World

_JOBS = "/v1/ade/extract/jobs"


def make_api_app(world: World, *, api_key: str, sleep: Sleep = asyncio.sleep) -> web.Application:
    """Return the API. Every route requires ``Authorization: Bearer <api_key>``.

    Set `world.results_origin` to the origin of the application of `make_results_app` before the
    first poll of a job with a large result.

    Args:
        world: The world that the API serves.
        api_key: The key.
        sleep: Waits for the delays that faults cause.
    """
    saver = ResultSaver(world)
    api, faults = ApiHandlers(world, saver), FaultHandlers(world, sleep)
    bearer = f"Bearer {api_key}"

    def authorized(handler: Handler) -> Handler:
        async def check_key(request: web.Request) -> web.StreamResponse:
            if request.headers.get(hdrs.AUTHORIZATION) != bearer:
                world.traffic.unauthorized += 1
                return web.json_response(
                    {"detail": "Invalid or missing API key"},
                    status=401,
                    headers={hdrs.WWW_AUTHENTICATE: "Bearer"},
                )
            return await handler(request)

        return check_key

    app = web.Application()
    app.router.add_get(
        _JOBS + "/{job_id}", authorized(faults.wrap_api(Endpoint.GET, api.get)), allow_head=False
    )
    app.router.add_get(
        _JOBS, authorized(faults.wrap_api(Endpoint.LIST, api.list)), allow_head=False
    )
    app.router.add_post(_JOBS, authorized(faults.wrap_api(Endpoint.CREATE, api.create)))
    app.router.add_get("/_emulator/truth", authorized(api.truth), allow_head=False)
    app.cleanup_ctx.append(saver.running)
    app.on_response_prepare.append(_date_setter(world))
    return app


def make_results_app(world: World, *, sleep: Sleep = asyncio.sleep) -> web.Application:
    """Return the storage of large results. It requires a presigned URL, and no API key.

    Args:
        world: The world with the results.
        sleep: Waits for the delays that faults cause.
    """
    storage = StorageHandlers(world)
    app = web.Application()
    app.router.add_get("/{key:.*}", FaultHandlers(world, sleep).wrap_storage(storage))
    app.router.add_put("/{key:.*}", storage.put)
    app.on_response_prepare.append(_date_setter(world))
    return app


def _date_setter(
    world: World,
) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    # Clients compute the skew of their clock from `Date`, so it must be the time of the world.
    second, date = -1, ""

    async def set_date(_request: web.Request, response: web.StreamResponse) -> None:
        nonlocal second, date
        if (now := int(world.now())) != second:
            second, date = now, formatdate(now, usegmt=True)
        response.headers[hdrs.DATE] = date

    return set_date
