"""Wraps the HTTP handlers of the API and of the storage, so that faults change their answers."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeAlias

from aiohttp import hdrs, web
from attrs import frozen
from yarl import URL

from adepoll.emulator.api_handlers import LIST_SHIFT
from adepoll.emulator.combined_effect import CombinedEffect
from adepoll.emulator.effects import ConnectionFailure, Redirect, StorageEffect
from adepoll.emulator.endpoints import Endpoint
from adepoll.emulator.kinds.emulated_kind import EmulatedKind
from adepoll.emulator.refusals import RefusalResponse
from adepoll.emulator.response_sender import FaultySender, Sleep, send
from adepoll.emulator.responses import ResponseData
from adepoll.emulator.result_parts import dump
from adepoll.emulator.storage_handlers import StorageHandlers
from adepoll.emulator.world import World

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]
ApiHandler: TypeAlias = Callable[[web.Request], Awaitable[ResponseData]]

FLIGHT_TIME: Final = 0.1
"""For this many seconds after a `Retry-After`, arriving requests do not count as early.

The client may have sent such a request before it received the header.
"""

_GATEWAY_PAGE: Final = (
    "<html><body><center><h1>{0}</h1></center><hr><center>nginx</center></body></html>"
)
_GATEWAY_TITLES: Final = {502: "502 Bad Gateway", 504: "504 Gateway Time-out"}
_S3_ERRORS: Final[Mapping[int, tuple[str, str]]] = {
    500: ("InternalError", "We encountered an internal error. Please try again."),
    503: ("SlowDown", "Please reduce your request rate."),
}


@frozen
class FaultHandlers:
    """Wraps handlers so that the faults of a world change their answers.

    Attributes:
        world: The world.
        sleep: Waits for a number of seconds. A test can pass a function that records the delays
            instead of waiting.
    """

    world: World
    sleep: Sleep = asyncio.sleep

    def wrap_api(self, endpoint: Endpoint, rules: EmulatedKind, handler: ApiHandler) -> Handler:
        """Return a handler that applies faults to the answers of a handler of the API."""
        faults = self.world.faults

        async def handle(request: web.Request) -> web.StreamResponse:
            if not len(faults):
                return await send(request, await handler(request))
            job_id, now = request.match_info.get("job_id"), self.world.now()
            if not (applied := faults.select(endpoint, job_id, now, kind=rules.name)):
                return await send(request, await handler(request))
            effect = CombinedEffect.of(applied, now)
            try:
                await self._wait(effect)
            except asyncio.CancelledError:
                # The client disconnected during the delay. Its request counts all the same.
                self.world.count(endpoint, job_id)
                raise
            if effect.replacement is not None:
                # Count the request before its own refusal is recorded. The `Retry-After` of the
                # refusal is for later requests.
                self.world.count(endpoint, job_id)
                data = self._replaced(request, effect.replacement, endpoint, rules)
            else:
                data = await self._corrupted(request, effect, handler)
            return await self._send(request, data, effect)

        return handle

    def wrap_storage(self, storage: StorageHandlers) -> Handler:
        """Return a handler that applies faults to the results that the storage sends."""
        faults, world = self.world.faults, self.world

        async def handle(request: web.Request) -> web.StreamResponse:
            if not len(faults):
                return await storage.get(request)
            job_id, now = world.job_id_at(request.raw_path.partition("?")[0]), world.now()
            kind = world.kind_of(job_id)
            if not (applied := faults.select(Endpoint.RESULT, job_id, now, kind=kind)):
                return await storage.get(request)
            storage.record(request)
            effect = CombinedEffect.of(applied, now)
            await self._wait(effect)
            if effect.replacement is not None:
                data = self._replaced(request, effect.replacement, Endpoint.RESULT, None)
            else:
                if StorageEffect.CHANGING_ETAG in effect.storage_effects and job_id is not None:
                    world.replace_result(job_id)
                headers = request.headers.copy()
                if StorageEffect.RANGE_IGNORED in effect.storage_effects:
                    headers.popall(hdrs.RANGE, None)
                data = storage.response(request, headers)
            if effect.connection_failure is ConnectionFailure.EXPIRED_MID_DOWNLOAD:
                world.expire(request.raw_path)
            return await self._send(request, data, effect)

        return handle

    async def _wait(self, effect: CombinedEffect) -> None:
        if effect.delay:
            await self.sleep(effect.delay)

    def _replaced(
        self,
        request: web.Request,
        replacement: RefusalResponse | Redirect,
        endpoint: Endpoint,
        rules: EmulatedKind | None,
    ) -> ResponseData:
        """Return the response with the error status or redirect that replaces the answer."""
        if isinstance(replacement, RefusalResponse):
            return self._refuse(replacement, endpoint, rules)
        location = self._location(replacement, request)
        return ResponseData(status=307, headers={hdrs.LOCATION: location})

    def _refuse(
        self, refusal: RefusalResponse, endpoint: Endpoint, rules: EmulatedKind | None
    ) -> ResponseData:
        """Return the response with an error status, and record it in the request log.

        `rules` are the rules of the kind of jobs; None for a request to the storage.
        """
        log, now, status = self.world.request_log, self.world.now(), refusal.status
        log.statuses[status] += 1
        if refusal.until and rules is not None:
            log.record_retry_after(known_at=now + FLIGHT_TIME, until=refusal.until)
        if (title := _GATEWAY_TITLES.get(status)) is not None:
            page = _GATEWAY_PAGE.format(title).encode()
            data = ResponseData(status=status, headers={hdrs.CONTENT_TYPE: "text/html"}, body=page)
        elif rules is None:
            data = ResponseData.s3_error(status, *_S3_ERRORS[status])
        else:
            body = dump(rules.error(endpoint, status)).encode()
            kind: Mapping[str, str] = {hdrs.CONTENT_TYPE: "application/json"}
            data = ResponseData(status=status, headers=kind, body=body)
        if refusal.retry_after is None:
            return data
        headers = {**data.headers, hdrs.RETRY_AFTER: refusal.retry_after}
        return ResponseData(status=status, headers=headers, body=data.body)

    def _location(self, redirect: Redirect, request: web.Request) -> str:
        """Return the URL of a redirect: by default, the same path at another host name."""
        if redirect.location is not None:
            return redirect.location
        origin = URL(self.world.results_origin)
        other = "127.0.0.1" if origin.host == "localhost" else "localhost"
        return f"{origin.scheme}://{other}:{origin.port}{request.raw_path}"

    async def _corrupted(
        self, request: web.Request, effect: CombinedEffect, handler: ApiHandler
    ) -> ResponseData:
        """Return the answer of the handler. Corrupt a successful answer as `effect` says."""
        request[LIST_SHIFT] = effect.shift
        data = await handler(request)
        is_success = data.status < 300 and request.method == hdrs.METH_GET  # noqa: PLR2004 - HTTP
        if not is_success or not effect.is_corrupting:
            return data
        body, kind = effect.corrupt(data.read())
        return ResponseData(status=data.status, headers={hdrs.CONTENT_TYPE: kind}, body=body)

    async def _send(
        self, request: web.Request, data: ResponseData, effect: CombinedEffect
    ) -> web.StreamResponse:
        """Send the answer as `effect` says; without aiohttp if aiohttp cannot do this."""
        if not effect.needs_raw_socket:
            return await send(request, data)
        return await FaultySender(request, data, effect, self.sleep).send(self.world.now())
