"""Requests for a range of bytes, and how to answer them (RFC 9110, sections 13.1.5 and 14). Pure.

Knows no web framework, no result and no storage: imports nothing of adepoll.
"""

import re
from collections.abc import Mapping
from typing import Final, TypeAlias

from attrs import frozen

_OK: Final = 200
_PARTIAL: Final = 206
_OUT_OF_RANGE: Final = 416
_SPEC: Final = re.compile(r"([0-9]*)-([0-9]*)")
_LONGEST: Final = 1_000  # characters; more is no range, but a list of them
_MOST: Final = 2**62  # bytes: more than any size, and what every storage can read
_TAG: Final = re.compile(r'(?:W/)?"[\x21\x23-\x7e]*"')


@frozen
class ByteRange:
    """Some of the bytes of something whose size is known; at least one.

    Attributes:
        start: The first.
        stop: The one after the last.
    """

    start: int
    stop: int

    @property
    def length(self) -> int:
        """How many they are."""
        return self.stop - self.start


@frozen
class AskedRange:
    """The bytes that are asked for, of something whose size is not known yet.

    Attributes:
        start: The first. If negative, the last so many; they may be none, which is told by a stop
            of 0.
        stop: The one after the last; None for all to the end.
    """

    start: int
    stop: int | None = None

    def within(self, size: int) -> ByteRange | None:
        """Give those that there are of so many bytes; None where there are none."""
        start = max(0, self.start + size) if self.start < 0 else self.start
        stop = size if self.stop is None else min(self.stop, size)
        return ByteRange(start, stop) if start < stop else None


@frozen
class Unsatisfiable:
    """None of the bytes that were asked for are there: status 416.

    Attributes:
        size: How many there are.
    """

    size: int


Parsed: TypeAlias = ByteRange | Unsatisfiable | None


def read_range(header: str | None) -> AskedRange | None:
    """Read a Range header whose size is to be found out.

    Args:
        header: Its value; None where there is none.

    Returns:
        What is asked for; None for the whole: where it is of another unit than bytes, or of several
        ranges, or makes no sense, all of which a server may ignore (section 14.2).
    """
    if header is None or len(header) > _LONGEST:
        return None
    unit, _, specs = header.strip(" \t").partition("=")
    # Elements of a list may be empty (section 5.6.1.2).
    listed = [spec for spec in (spec.strip(" \t") for spec in specs.split(",")) if spec]
    found = _SPEC.fullmatch(listed[0]) if unit.lower() == "bytes" and len(listed) == 1 else None
    if found is None:
        return None
    first, last = (min(int(digits), _MOST) if digits else None for digits in found.groups())
    if first is None:
        if last is None:
            return None
        return AskedRange(-last) if last else AskedRange(0, 0)
    if last is not None and last < first:
        return None
    return AskedRange(first, None if last is None else last + 1)


def parse_range(header: str | None, size: int) -> Parsed:
    """Read a Range header.

    Args:
        header: Its value; None where there is none.
        size: How many bytes there are.

    Returns:
        The range; None for the whole, as for `read_range`; `Unsatisfiable` where nothing of it is
        there.
    """
    asked = read_range(header)
    if asked is None:
        return None
    part = asked.within(size)
    return Unsatisfiable(size) if part is None else part


def content_range(part: ByteRange | Unsatisfiable, size: int) -> str:
    """Give the value of the Content-Range header of an answer 206 or 416."""
    if isinstance(part, Unsatisfiable):
        return f"bytes */{size}"
    return f"bytes {part.start}-{part.stop - 1}/{size}"


def if_range_holds(header: str | None, etag: str | None) -> bool:
    """Tell whether a Range header counts, by the If-Range header that may be beside it.

    Args:
        header: The value of If-Range; None where there is none, and the range counts.
        etag: Of what is there. Only a strong one matches; dates never do, as none is known.
    """
    if header is None:
        return True
    return etag is not None and _is_strong(etag) and header.strip(" \t") == etag


def _is_strong(etag: str) -> bool:
    return etag.startswith('"') and _TAG.fullmatch(etag) is not None


@frozen(kw_only=True)
class ReplyPlan:
    """How to answer a request for something.

    Attributes:
        status: 200, 206 or 416.
        headers: Of the answer: length, range and tag.
        part: What to send, if it is a part.
        has_body: Whether there is anything to send.
    """

    status: int
    headers: Mapping[str, str]
    part: ByteRange | None = None
    has_body: bool = True

    @property
    def start(self) -> int:
        """The first byte to send."""
        return 0 if self.part is None else self.part.start

    @property
    def stop(self) -> int | None:
        """The one after the last; None for all to the end."""
        return None if self.part is None else self.part.stop


def plan_reply(
    method: str,
    *,
    range_header: str | None = None,
    if_range: str | None = None,
    size: int | None,
    etag: str | None,
) -> ReplyPlan:
    """Say how to answer a GET or HEAD.

    Args:
        method: Of the request; only GET has ranges (section 14.2).
        range_header: Its Range header.
        if_range: Its If-Range header.
        size: How many bytes there are; None where that is not known, and ranges are ignored.
        etag: What their version is called.
    """
    is_get = method.upper() == "GET"
    headers = {} if etag is None or not _TAG.fullmatch(etag) else {"ETag": etag}
    if size is None:
        return ReplyPlan(status=_OK, headers=headers, has_body=is_get)
    headers["Accept-Ranges"] = "bytes"
    part = parse_range(range_header if is_get and if_range_holds(if_range, etag) else None, size)
    if part is None:
        headers["Content-Length"] = str(size)
        return ReplyPlan(status=_OK, headers=headers, has_body=is_get)
    headers["Content-Range"] = content_range(part, size)
    if isinstance(part, Unsatisfiable):
        headers["Content-Length"] = "0"
        return ReplyPlan(status=_OUT_OF_RANGE, headers=headers, has_body=False)
    headers["Content-Length"] = str(part.length)
    return ReplyPlan(status=_PARTIAL, headers=headers, part=part)
