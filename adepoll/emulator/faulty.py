"""The handlers of both origins, with faults between them and the wire."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeAlias

from aiohttp import hdrs, web
from attrs import frozen
from yarl import URL

from adepoll.emulator.api import SHIFT
from adepoll.emulator.delivery import Delivery, Sleep
from adepoll.emulator.effects import Break, Endpoint, Redirect, Trick
from adepoll.emulator.replies import Reply
from adepoll.emulator.storage import Storage, send
from adepoll.emulator.treatment import Refused, Treatment
from adepoll.emulator.world import World

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]

FLIGHT_TIME: Final = 0.1
"""A request that arrives within so many seconds after a `Retry-After` may have been on its way."""

_PAGE: Final = "<html><body><center><h1>{0}</h1></center><hr><center>nginx</center></body></html>"
_OF_THE_GATEWAY: Final = {502: "502 Bad Gateway", 504: "504 Gateway Time-out"}
_DETAILS: Final[Mapping[int, str]] = {
    401: "Invalid or missing API key",
    402: "User balance is insufficient",
    403: "Forbidden",
    404: "Job ID not found",
    408: "Request timeout",
    429: "Rate limit exceeded",
    500: "Internal server error",
    503: "Service unavailable",
}
_S3_CODES: Final[Mapping[int, tuple[str, str]]] = {
    500: ("InternalError", "We encountered an internal error. Please try again."),
    503: ("SlowDown", "Please reduce your request rate."),
}


@frozen
class Wire:
    """Lets the faults of a world happen to the answers of handlers.

    Attributes:
        world: Whose faults.
        sleep: Waits; another one lets tests see the waits instead of waiting.
    """

    world: World
    sleep: Sleep = asyncio.sleep

    def api(self, endpoint: Endpoint, handler: Handler) -> Handler:
        """Wrap a handler of the API."""
        faults = self.world.faults

        async def handle(request: web.Request) -> web.StreamResponse:
            if not len(faults):
                return await handler(request)
            job_id, now = request.match_info.get("job_id"), self.world.now()
            if not (hits := faults.decide(endpoint, job_id, now)):
                return await handler(request)
            treatment = Treatment.of(hits, now)
            try:
                reply = await self._instead(request, treatment)
            except asyncio.CancelledError:
                # The client did not wait for it, and still it has asked.
                self.world.count(endpoint, job_id)
                raise
            if reply is not None:
                self.world.count(endpoint, job_id)
            else:
                reply = await self._spoilt(request, treatment, handler)
            return await self._deliver(request, reply, treatment)

        return handle

    def results(self, storage: Storage) -> Handler:
        """Wrap the GET of a result."""
        faults, world = self.world.faults, self.world

        async def handle(request: web.Request) -> web.StreamResponse:
            if not len(faults):
                return await storage.get(request)
            job_id, now = world.job_at(request.raw_path.partition("?")[0]), world.now()
            if not (hits := faults.decide(Endpoint.RESULT, job_id, now)):
                return await storage.get(request)
            storage.note(request)
            treatment = Treatment.of(hits, now)
            reply = await self._instead(request, treatment, at_results=True)
            if reply is None:
                if Trick.CHANGING_ETAG in treatment.tricks and job_id is not None:
                    world.replace_result(job_id)
                headers = request.headers.copy()
                if Trick.RANGE_IGNORED in treatment.tricks:
                    headers.popall(hdrs.RANGE, None)
                reply = storage.reply(request, headers)
            if treatment.broken is Break.EXPIRED_IN_MID_DOWNLOAD:
                world.expire(request.raw_path)
            return await self._deliver(request, reply, treatment)

        return handle

    async def _instead(
        self, request: web.Request, treatment: Treatment, *, at_results: bool = False
    ) -> Reply | None:
        """Wait as long as the treatment says, and give what is answered without being asked."""
        if treatment.delay:
            await self.sleep(treatment.delay)
        if treatment.refused is not None:
            return self._refuse(treatment.refused, at_results=at_results)
        if treatment.redirect is not None:
            location = self._elsewhere(treatment.redirect, request)
            return Reply(status=307, headers={hdrs.LOCATION: location})
        return None

    def _refuse(self, refused: Refused, *, at_results: bool) -> Reply:
        ledger, now, status = self.world.ledger, self.world.now(), refused.status
        ledger.statuses[status] += 1
        if refused.until and not at_results:
            ledger.ask_to_wait(heard_at=now + FLIGHT_TIME, until=refused.until)
        if (title := _OF_THE_GATEWAY.get(status)) is not None:
            kind, body = "text/html", _PAGE.format(title)
        else:
            kind, body = "application/json", f'{{"detail":"{_DETAILS[status]}"}}'
        reply = Reply(status=status, headers={hdrs.CONTENT_TYPE: kind}, body=body.encode())
        if at_results and title is None:
            reply = Reply.s3_error(status, *_S3_CODES[status])
        if refused.retry_after is None:
            return reply
        headers = {**reply.headers, hdrs.RETRY_AFTER: refused.retry_after}
        return Reply(status=status, headers=headers, body=reply.body)

    def _elsewhere(self, redirect: Redirect, request: web.Request) -> str:
        if redirect.location is not None:
            return redirect.location
        origin = URL(self.world.results_origin)
        other = "127.0.0.1" if origin.host == "localhost" else "localhost"
        return f"{origin.scheme}://{other}:{origin.port}{request.raw_path}"

    async def _spoilt(self, request: web.Request, treatment: Treatment, handler: Handler) -> Reply:
        request[SHIFT] = treatment.shift
        response = await handler(request)
        if not isinstance(response, web.Response) or not isinstance(response.body, bytes):
            raise AssertionError("the API answers from memory")  # noqa: TRY004 - our own mistake
        body, kind = response.body, response.content_type
        if response.status < 300 and request.method == hdrs.METH_GET:  # noqa: PLR2004 - success
            body, kind = treatment.spoil(body)
        return Reply(status=response.status, headers={hdrs.CONTENT_TYPE: kind}, body=body)

    async def _deliver(
        self, request: web.Request, reply: Reply, treatment: Treatment
    ) -> web.StreamResponse:
        if not treatment.spoils_delivery:
            return await send(request, reply)
        return await Delivery(request, reply, treatment, self.sleep).send(self.world.now())
