"""Range requests and their responses (RFC 9110, 2022, sections 13.1.5 and 14), without I/O.

Imports nothing from adepoll.
"""

import re
from collections.abc import Mapping
from typing import Final, TypeAlias

from attrs import frozen

__all__ = [
    "ByteRange",
    "RequestedRange",
    "ResponsePlan",
    "Unsatisfiable",
    "content_range",
    "if_range_matches",
    "parse_range",
    "plan_response",
    "read_range",
]

_OK: Final = 200
_PARTIAL_CONTENT: Final = 206
_RANGE_NOT_SATISFIABLE: Final = 416
_RANGE_SPEC: Final = re.compile(r"([0-9]*)-([0-9]*)")
_MAX_HEADER_LENGTH: Final = 1_000  # characters; a single range is shorter
_MAX_POSITION: Final = 2**62  # bytes; larger than any result, and storages can still parse it
_ETAG: Final = re.compile(r'(?:W/)?"[\x21\x23-\x7e]*"')


@frozen
class ByteRange:
    """A range of at least one byte of a body whose size is known.

    Attributes:
        start: Position of the first byte.
        stop: Position after the last byte.
    """

    start: int
    stop: int

    @property
    def length(self) -> int:
        """Number of bytes."""
        return self.stop - self.start


@frozen
class RequestedRange:
    """A range that a client requests, before the size of the body is known.

    Attributes:
        start: Position of the first byte. A negative number counts from the end of the body.
        stop: Position after the last byte; None for the end of the body. If it is 0, no bytes are
            requested.
    """

    start: int
    stop: int | None = None

    def resolve(self, size: int) -> ByteRange | None:
        """Return the part of the range that a body of `size` bytes has; None if it has no part."""
        start = max(0, self.start + size) if self.start < 0 else self.start
        stop = size if self.stop is None else min(self.stop, size)
        return ByteRange(start, stop) if start < stop else None


@frozen
class Unsatisfiable:
    """The body has no byte of the requested range: status 416.

    Attributes:
        size: Bytes of the body.
    """

    size: int


Parsed: TypeAlias = ByteRange | Unsatisfiable | None


def read_range(header: str | None) -> RequestedRange | None:
    """Parse a Range header when the size of the body is not known yet.

    Args:
        header: Value of the header; None if the request has no such header.

    Returns:
        The requested range. None means that the whole body is to be sent: the header is missing or
        invalid, has another unit than bytes, or names several ranges, all of which a server may
        ignore (section 14.2).
    """
    if header is None or len(header) > _MAX_HEADER_LENGTH:
        return None
    unit, _, specs = header.strip(" \t").partition("=")
    # A list may have empty elements (section 5.6.1.2).
    ranges = [spec for spec in (spec.strip(" \t") for spec in specs.split(",")) if spec]
    match = (
        _RANGE_SPEC.fullmatch(ranges[0]) if unit.lower() == "bytes" and len(ranges) == 1 else None
    )
    if match is None:
        return None
    first, last = (min(int(digits), _MAX_POSITION) if digits else None for digits in match.groups())
    if first is None:
        if last is None:
            return None
        return RequestedRange(-last) if last else RequestedRange(0, 0)
    if last is not None and last < first:
        return None
    return RequestedRange(first, None if last is None else last + 1)


def parse_range(header: str | None, size: int) -> Parsed:
    """Parse a Range header.

    Args:
        header: Value of the header; None if the request has no such header.
        size: Bytes of the body.

    Returns:
        The range to send; `Unsatisfiable` if the body has no byte of it; None if the whole body is
        to be sent, as for `read_range`.
    """
    requested = read_range(header)
    if requested is None:
        return None
    part = requested.resolve(size)
    return Unsatisfiable(size) if part is None else part


def content_range(part: ByteRange | Unsatisfiable, size: int) -> str:
    """Return the Content-Range header of a response 206 or 416."""
    if isinstance(part, Unsatisfiable):
        return f"bytes */{size}"
    return f"bytes {part.start}-{part.stop - 1}/{size}"


def if_range_matches(header: str | None, etag: str | None) -> bool:
    """Return True if the Range header of a request applies, given its If-Range header.

    Args:
        header: Value of If-Range. If it is None, the range applies.
        etag: ETag of the body. Only a strong ETag matches. A date never matches, because the
            modification time of a result is not known.
    """
    if header is None:
        return True
    return etag is not None and _is_strong(etag) and header.strip(" \t") == etag


def _is_strong(etag: str) -> bool:
    return etag.startswith('"') and _ETAG.fullmatch(etag) is not None


@frozen(kw_only=True)
class ResponsePlan:
    """How to respond to a GET or HEAD request.

    Attributes:
        status: 200, 206 or 416.
        headers: Content-Length, Content-Range, Accept-Ranges and ETag, as far as they apply.
        part: The range to send; None for the whole body.
        has_body: True if the response has a body.
    """

    status: int
    headers: Mapping[str, str]
    part: ByteRange | None = None
    has_body: bool = True

    @property
    def start(self) -> int:
        """Position of the first byte to send."""
        return 0 if self.part is None else self.part.start

    @property
    def stop(self) -> int | None:
        """Position after the last byte to send; None for the end of the body."""
        return None if self.part is None else self.part.stop


def plan_response(
    method: str,
    *,
    range_header: str | None = None,
    if_range: str | None = None,
    size: int | None,
    etag: str | None,
) -> ResponsePlan:
    """Decide how to respond to a GET or HEAD request.

    Args:
        method: Method of the request. Ranges apply to GET only (section 14.2).
        range_header: Its Range header.
        if_range: Its If-Range header.
        size: Bytes of the body; None if not known: then ranges are ignored.
        etag: ETag of the body; an invalid ETag is left out.
    """
    is_get = method.upper() == "GET"
    headers = {} if etag is None or not _ETAG.fullmatch(etag) else {"ETag": etag}
    if size is None:
        return ResponsePlan(status=_OK, headers=headers, has_body=is_get)
    headers["Accept-Ranges"] = "bytes"
    part = parse_range(range_header if is_get and if_range_matches(if_range, etag) else None, size)
    if part is None:
        headers["Content-Length"] = str(size)
        return ResponsePlan(status=_OK, headers=headers, has_body=is_get)
    headers["Content-Range"] = content_range(part, size)
    if isinstance(part, Unsatisfiable):
        headers["Content-Length"] = "0"
        return ResponsePlan(status=_RANGE_NOT_SATISFIABLE, headers=headers, has_body=False)
    headers["Content-Length"] = str(part.length)
    return ResponsePlan(status=_PARTIAL_CONTENT, headers=headers, part=part)
