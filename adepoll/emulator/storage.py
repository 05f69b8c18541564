"""What the origin of large results answers: presigned GETs with ranges, as S3 does them."""

import re
from typing import Final
from xml.sax.saxutils import escape

from aiohttp import hdrs, web
from attrs import frozen

from adepoll.emulator.presign import Verdict
from adepoll.emulator.results import ResultBody
from adepoll.emulator.world import World

_CHUNK_BYTES: Final = 256 * 1024
_RANGE: Final = re.compile(r"bytes=(\d{1,18})?-(\d{1,18})?", re.ASCII)
_ALTERED: Final = (
    "The request signature we calculated does not match the signature you provided. Check your "
    "key and signing method."
)
_REFUSALS: Final = {
    Verdict.UNSIGNED: ("AccessDenied", "Access Denied"),
    Verdict.EXPIRED: ("AccessDenied", "Request has expired"),
    Verdict.ALTERED: ("SignatureDoesNotMatch", _ALTERED),
}
_TWO_MECHANISMS: Final = (
    "Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, Signature query "
    "string parameter or the Authorization header should be specified"
)


@frozen
class Storage:
    """The handlers of the origin of the results.

    Attributes:
        world: Whose results they are.
    """

    world: World

    async def get(self, request: web.Request) -> web.StreamResponse:
        """``GET`` or ``HEAD`` of a result: 200 or 206, or an error in XML as S3 words it."""
        traffic, headers = self.world.traffic, request.headers
        traffic.result += 1
        if hdrs.AUTHORIZATION in headers or hdrs.COOKIE in headers:
            traffic.leaks += 1
        raw_path, _, raw_query = request.raw_path.partition("?")
        if hdrs.AUTHORIZATION in headers and "X-Amz-" in raw_query:
            return _refusal(400, "InvalidArgument", _TWO_MECHANISMS)
        verdict = self.world.presigner.check(
            method=request.method,
            host=headers.get(hdrs.HOST, ""),
            raw_target=request.raw_path,
            now=self.world.now(),
        )
        if verdict is not Verdict.VALID:
            return _refusal(403, *_REFUSALS[verdict])
        stored = self.world.result_at(raw_path)
        if stored is None:
            return _refusal(404, "NoSuchKey", "The specified key does not exist.")
        if not _matches(headers.get(hdrs.IF_MATCH), stored.etag):
            message = "At least one of the pre-conditions you specified did not hold"
            return _refusal(412, "PreconditionFailed", message)
        return await _send(request, stored)


async def _send(request: web.Request, stored: ResultBody) -> web.StreamResponse:
    wanted = request.headers.get(hdrs.RANGE)
    if request.headers.get(hdrs.IF_RANGE, stored.etag) != stored.etag:
        wanted = None
    part = None if wanted is None else requested_range(wanted, stored.size)
    start, stop = (0, stored.size) if part is None else part
    if start >= stop:
        refusal = _refusal(416, "InvalidRange", "The requested range is not satisfiable")
        refusal.headers[hdrs.CONTENT_RANGE] = f"bytes */{stored.size}"
        return refusal
    response = web.StreamResponse(
        status=200 if part is None else 206,
        headers={
            hdrs.ACCEPT_RANGES: "bytes",
            hdrs.CONTENT_TYPE: "application/json",
            hdrs.ETAG: stored.etag,
        },
    )
    response.content_length = stop - start
    if part is not None:
        response.headers[hdrs.CONTENT_RANGE] = f"bytes {start}-{stop - 1}/{stored.size}"
    try:
        await response.prepare(request)
        if request.method == hdrs.METH_GET:
            for chunk in stored.chunks(start, stop, chunk_bytes=_CHUNK_BYTES):
                await response.write(chunk)
            await response.write_eof()
    except ConnectionError:
        # The client went away in the middle, which is its right and nobody's error here.
        return response
    return response


def requested_range(header: str, size: int) -> tuple[int, int] | None:
    """Give the bytes [start, stop) that a `Range` header asks for, within a body of `size`.

    None where the header is to be ignored, as RFC 9110 (2022), section 14.2 allows for what is
    malformed, and as S3 does for several ranges at once. Empty (start >= stop) where it cannot be
    satisfied.
    """
    found = _RANGE.fullmatch(header)
    if found is None or found.group(1, 2) == (None, None):
        return None
    first, last = found.group(1, 2)
    if first is None:
        return max(size - int(last), 0), size
    if last is None:
        return int(first), size
    if int(last) < int(first):
        return None
    return int(first), min(int(last) + 1, size)


def _matches(header: str | None, etag: str) -> bool:
    if header is None or header.strip() == "*":
        return True
    return etag in (tag.strip() for tag in header.split(","))


def _refusal(status: int, code: str, message: str) -> web.Response:
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{code}</Code><Message>{escape(message)}</Message>"
        "<RequestId>EMULATED</RequestId><HostId>emulated</HostId></Error>"
    )
    return web.Response(status=status, text=body, content_type="application/xml")
