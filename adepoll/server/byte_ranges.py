"""Parses range requests, and plans their responses (RFC 9110, 2022, sections 13.1.5 and 14).

No I/O. Imports nothing from adepoll.
"""

import re
from collections.abc import Mapping
from typing import Final, TypeAlias

from attrs import frozen

from adepoll.common.safe_repr import SafeRepr

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
_MAX_HEADER_LENGTH: Final = 1_000  # characters; a header with a single range is shorter
# The largest position in bytes. Larger positions are replaced by this one, which all storages can
# parse. No result is that large.
_MAX_POSITION: Final = 2**62
_ETAG: Final = re.compile(r'(?:W/)?"[\x21\x23-\x7e]*"')


@frozen
class ByteRange(SafeRepr):
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
class RequestedRange(SafeRepr):
    """A range as a client requests it, before the size of the body is known.

    Attributes:
        start: Position of the first byte. A negative number counts from the end of the body.
        stop: Position after the last byte; None for the end of the body; 0 for the header
            ``bytes=-0``, which requests no byte.
    """

    start: int
    stop: int | None = None

    def resolve(self, size: int) -> ByteRange | None:
        """Return the part of the range that lies within a body of `size` bytes; None if empty."""
        start = max(0, self.start + size) if self.start < 0 else self.start
        stop = size if self.stop is None else min(self.stop, size)
        return ByteRange(start, stop) if start < stop else None


@frozen
class Unsatisfiable(SafeRepr):
    """No byte of the requested range lies within the body, so the status is 416.

    Attributes:
        size: Size of the body in bytes.
    """

    size: int


Parsed: TypeAlias = ByteRange | Unsatisfiable | None
"""The result of `parse_range`."""


def read_range(header: str | None) -> RequestedRange | None:
    """Parse a Range header when the size of the body is not known yet.

    Args:
        header: Value of the header; None if the request has no such header.

    Returns:
        The requested range; None if the whole body must be sent. This is the case if the header is
        missing or invalid, has another unit than bytes, or names several ranges. A server may
        ignore all such headers (section 14.2).
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
        size: Size of the body in bytes.

    Returns:
        The range to send; `Unsatisfiable` if no byte of the range lies within the body; None if the
        whole body must be sent, see `read_range`.
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
    """Return True if a response must use the Range header, according to the If-Range header.

    Args:
        header: Value of If-Range; None if the request has no such header. A date never matches,
            because the modification time of a result is not known.
        etag: ETag of the body; None if it has none. Only a strong ETag matches.
    """
    if header is None:
        return True
    return etag is not None and _is_strong(etag) and header.strip(" \t") == etag


def _is_strong(etag: str) -> bool:
    return etag.startswith('"') and _ETAG.fullmatch(etag) is not None


@frozen(kw_only=True)
class ResponsePlan(SafeRepr):
    """Describes the response to a GET or HEAD request.

    Attributes:
        status: 200, 206 or 416.
        headers: The headers Content-Length, Content-Range, Accept-Ranges and ETag that apply.
        part: The range to send; None for the whole body, and for status 416.
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
        range_header: The header Range of the request; None if it has none.
        if_range: The header If-Range of the request; None if it has none.
        size: Size of the body in bytes. None if it is not known; then the range is ignored.
        etag: ETag of the body; None if it has none. The response omits an invalid ETag.
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
