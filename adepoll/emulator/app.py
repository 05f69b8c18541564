"""The two aiohttp applications of the emulator: the API, and the storage of large results."""

import asyncio
import functools
from collections.abc import Awaitable, Callable, Iterable
from email.utils import formatdate
from typing import Final

from aiohttp import hdrs, web

from adepoll.emulator.api_handlers import ApiHandlers, answer_truth
from adepoll.emulator.endpoints import Endpoint
from adepoll.emulator.fault_handlers import FaultHandlers, Handler
from adepoll.emulator.kinds import DEFAULT_KIND, KINDS
from adepoll.emulator.kinds.emulated_kind import EmulatedKind
from adepoll.emulator.response_sender import Sleep
from adepoll.emulator.result_saver import ResultSaver
from adepoll.emulator.storage_handlers import StorageHandlers
from adepoll.emulator.world import World

_LARGEST_REQUEST: Final = 2**30  # bytes; a submission can contain long Markdown


def make_api_app(
    world: World, *, api_keys: Iterable[str], sleep: Sleep = asyncio.sleep
) -> web.Application:
    """Return the application of the API, for all kinds of jobs.

    Each request needs the header ``Authorization: Bearer KEY``. Before the first poll of a job with
    a large result, set `world.results_origin` to the origin at which `make_results_app` is served.

    Args:
        world: The world that the API serves.
        api_keys: The accepted keys; a request with another key gets a 401.
        sleep: Waits for a number of seconds; used for the delays that faults cause.
    """
    saver, faults = ResultSaver(world), FaultHandlers(world, sleep)
    bearers = {f"Bearer {key}" for key in api_keys}

    def authorized(rules: EmulatedKind, handler: Handler) -> Handler:
        async def check_key(request: web.Request) -> web.StreamResponse:
            if request.headers.get(hdrs.AUTHORIZATION) in bearers:
                return await handler(request)
            world.traffic.unauthorized += 1
            return web.json_response(
                rules.error(Endpoint.GET, 401),
                status=401,
                headers={hdrs.WWW_AUTHENTICATE: "Bearer"},
            )

        return check_key

    app = web.Application(client_max_size=_LARGEST_REQUEST)
    router = app.router
    for rules in KINDS.values():
        api = ApiHandlers(world, rules, saver)
        get = authorized(rules, faults.wrap_api(Endpoint.GET, rules, api.get))
        page = authorized(rules, faults.wrap_api(Endpoint.LIST, rules, api.list))
        create = authorized(rules, faults.wrap_api(Endpoint.CREATE, rules, api.create))
        router.add_get(rules.path + "/{job_id}", get, allow_head=False)
        router.add_get(rules.path, page, allow_head=False)
        router.add_post(rules.path, create)
    truth = authorized(KINDS[DEFAULT_KIND], functools.partial(answer_truth, world))
    router.add_get("/_emulator/truth", truth, allow_head=False)
    app.cleanup_ctx.append(saver.running)
    app.on_response_prepare.append(_date_setter(world))
    return app


def make_results_app(world: World, *, sleep: Sleep = asyncio.sleep) -> web.Application:
    """Return the application of the storage of large results.

    It serves presigned URLs, and needs no API key.

    Args:
        world: The world with the results.
        sleep: Waits for a number of seconds; used for the delays that faults cause.
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
    """Return a handler that sets the header `Date` of each response."""
    # `Date` must be the time of the world, because clients compare their own clock with it.
    second, date = -1, ""

    async def set_date(_request: web.Request, response: web.StreamResponse) -> None:
        nonlocal second, date
        if (now := int(world.now())) != second:
            second, date = now, formatdate(now, usegmt=True)
        response.headers[hdrs.DATE] = date

    return set_date
