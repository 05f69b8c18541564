"""What the origin of large results answers: presigned GETs and PUTs, as S3 does them."""

import time
from collections.abc import Mapping
from typing import Final

from aiohttp import hdrs, web
from attrs import frozen

from adepoll.emulator.effects import Endpoint
from adepoll.emulator.presign import Verdict, expires_at
from adepoll.emulator.replies import Reply, reply_with
from adepoll.emulator.store import PREFIX, Saved
from adepoll.emulator.world import World

_CHUNK_BYTES: Final = 256 * 1024
_ALTERED: Final = (
    "The request signature we calculated does not match the signature you provided. Check your "
    "key and signing method."
)
_TWO_MECHANISMS: Final = (
    "Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, Signature query "
    "string parameter or the Authorization header should be specified"
)
_NO_METHOD: Final = "The specified method is not allowed against this resource."


@frozen
class Storage:
    """The handlers of the origin of the results.

    Attributes:
        world: Whose results they are.
    """

    world: World

    async def get(self, request: web.Request) -> web.StreamResponse:
        """``GET`` or ``HEAD`` of a result: 200, 206 or 304, or an error in XML as S3 words it."""
        self.note(request)
        return await send(request, self.reply(request, request.headers))

    async def put(self, request: web.Request) -> web.StreamResponse:
        """``PUT`` of what a job saves: 200, or an error in XML."""
        self.note(request)
        refusal = self._refusal(request)
        raw_path = request.raw_path.partition("?")[0]
        if refusal is None and not raw_path.startswith(PREFIX):
            refusal = Reply.s3_error(405, "MethodNotAllowed", _NO_METHOD)
        body = b"".join([chunk async for chunk in request.content.iter_chunked(_CHUNK_BYTES)])
        if refusal is not None:
            return await send(request, refusal)
        saved = Saved(body, self.world.now())
        self.world.saved[raw_path] = saved
        return web.Response(headers={hdrs.ETAG: saved.etag})

    def note(self, request: web.Request) -> None:
        """Write the request down, and what it should not have carried."""
        raw_path = request.raw_path.partition("?")[0]
        self.world.count(Endpoint.RESULT, self.world.job_at(raw_path))
        carried = [name for name in (hdrs.AUTHORIZATION, hdrs.COOKIE) if name in request.headers]
        self.world.traffic.leaks += bool(carried)
        for name in carried:
            self.world.ledger.leak(str(name), raw_path, self.world.now())

    def reply(self, request: web.Request, headers: Mapping[str, str]) -> Reply:
        """Work out the answer to a GET.

        Args:
            request: What is asked for, and with which right.
            headers: The conditions and the range.
        """
        if (refusal := self._refusal(request)) is not None:
            return refusal
        raw_path = request.raw_path.partition("?")[0]
        stored = self.world.result_at(raw_path)
        if stored is None:
            message = "The specified key does not exist."
            return Reply.s3_error(404, "NoSuchKey", message, {"Key": request.path.lstrip("/")})
        return reply_with(stored, headers)

    def _refusal(self, request: web.Request) -> Reply | None:
        raw_query = request.raw_path.partition("?")[2]
        key = request.headers.get(hdrs.AUTHORIZATION)
        if key is not None and "X-Amz-" in raw_query:
            # S3 does repeat the value, so that a client that shows the body shows a secret.
            details = {"ArgumentName": "Authorization", "ArgumentValue": key}
            return Reply.s3_error(400, "InvalidArgument", _TWO_MECHANISMS, details)
        verdict = self.world.judge(
            method=request.method,
            host=request.headers.get(hdrs.HOST, ""),
            raw_target=request.raw_path,
        )
        if verdict is Verdict.UNSIGNED:
            return Reply.s3_error(403, "AccessDenied", "Access Denied")
        if verdict is Verdict.ALTERED:
            return Reply.s3_error(403, "SignatureDoesNotMatch", _ALTERED)
        if verdict is Verdict.EXPIRED:
            now = self.world.now()
            details = {
                "X-Amz-Expires": "3600",
                "Expires": _iso(min(expires_at(raw_query), now)),
                "ServerTime": _iso(now),
            }
            return Reply.s3_error(403, "AccessDenied", "Request has expired", details)
        return None


async def send(request: web.Request, reply: Reply) -> web.StreamResponse:
    """Send a reply as it should be sent; as fast as the client reads it."""
    if reply.stored is None:
        return web.Response(status=reply.status, headers=reply.headers, body=reply.body)
    response = web.StreamResponse(status=reply.status, headers=reply.headers)
    response.content_length = reply.size
    try:
        await response.prepare(request)
        if request.method == hdrs.METH_GET:
            for chunk in reply.chunks(chunk_bytes=_CHUNK_BYTES):
                await response.write(chunk)
            await response.write_eof()
    except ConnectionError:
        # The client went away in the middle, which is its right and nobody's error here.
        return response
    return response


def _iso(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
