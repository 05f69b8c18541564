"""The HTTP handlers of the storage of large results: presigned GET and PUT, as S3 does them."""

import time
from collections.abc import Mapping
from typing import Final

from aiohttp import hdrs, web
from attrs import frozen

from adepoll.emulator.endpoints import Endpoint
from adepoll.emulator.presigned_urls import Verdict, expires_at
from adepoll.emulator.response_sender import send
from adepoll.emulator.responses import ResponseData, object_response
from adepoll.emulator.stored_objects import SAVED_PREFIX, SavedObject
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
class StorageHandlers:
    """Handles the requests to the emulated storage: ``GET``, ``HEAD`` and ``PUT`` of results.

    Attributes:
        world: The state of the emulated service, to which the results belong.
    """

    world: World

    async def get(self, request: web.Request) -> web.StreamResponse:
        """Answer ``GET`` or ``HEAD`` of a result: 200, 206 or 304, or an error in S3's XML."""
        self.record(request)
        return await send(request, self.response(request, request.headers))

    async def put(self, request: web.Request) -> web.StreamResponse:
        """Answer the ``PUT`` of a saved result: 200, or an error in S3's XML."""
        self.record(request)
        error = self._error(request)
        raw_path = request.raw_path.partition("?")[0]
        if error is None and not raw_path.startswith(SAVED_PREFIX):
            error = ResponseData.s3_error(405, "MethodNotAllowed", _NO_METHOD)
        body = b"".join([chunk async for chunk in request.content.iter_chunked(_CHUNK_BYTES)])
        if error is not None:
            return await send(request, error)
        saved = SavedObject(body, self.world.now())
        self.world.saved[raw_path] = saved
        return web.Response(headers={hdrs.ETAG: saved.etag})

    def record(self, request: web.Request) -> None:
        """Count a request, and record its headers with secrets as leaks."""
        raw_path = request.raw_path.partition("?")[0]
        self.world.count(Endpoint.RESULT, self.world.job_id_at(raw_path))
        carried = [name for name in (hdrs.AUTHORIZATION, hdrs.COOKIE) if name in request.headers]
        self.world.traffic.leaks += bool(carried)
        for name in carried:
            self.world.request_log.record_leak(str(name), raw_path, self.world.now())

    def response(self, request: web.Request, headers: Mapping[str, str]) -> ResponseData:
        """Return the response to a GET of a result: bytes of it, or an error in S3's XML.

        Args:
            request: The request, with its signature.
            headers: Headers of the request, from which the conditions and the range are read.
        """
        if (error := self._error(request)) is not None:
            return error
        raw_path = request.raw_path.partition("?")[0]
        stored = self.world.object_at(raw_path)
        if stored is None:
            message = "The specified key does not exist."
            return ResponseData.s3_error(
                404, "NoSuchKey", message, {"Key": request.path.lstrip("/")}
            )
        return object_response(stored, headers)

    def _error(self, request: web.Request) -> ResponseData | None:
        """Return an error if a request has no valid signature; None if the signature is valid."""
        raw_query = request.raw_path.partition("?")[2]
        key = request.headers.get(hdrs.AUTHORIZATION)
        if key is not None and "X-Amz-" in raw_query:
            # As in S3, the body repeats the key, so a client that shows the body shows a secret.
            details = {"ArgumentName": "Authorization", "ArgumentValue": key}
            return ResponseData.s3_error(400, "InvalidArgument", _TWO_MECHANISMS, details)
        verdict = self.world.check_signature(
            method=request.method,
            host=request.headers.get(hdrs.HOST, ""),
            raw_target=request.raw_path,
        )
        if verdict is Verdict.UNSIGNED:
            return ResponseData.s3_error(403, "AccessDenied", "Access Denied")
        if verdict is Verdict.ALTERED:
            return ResponseData.s3_error(403, "SignatureDoesNotMatch", _ALTERED)
        if verdict is Verdict.EXPIRED:
            now = self.world.now()
            details = {
                "X-Amz-Expires": "3600",
                "Expires": _iso(min(expires_at(raw_query), now)),
                "ServerTime": _iso(now),
            }
            return ResponseData.s3_error(403, "AccessDenied", "Request has expired", details)
        return None


def _iso(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
