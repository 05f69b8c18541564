"""Responses before they are sent, and S3's conditions, ranges and errors. Does no I/O."""

import re
from collections.abc import Iterator, Mapping
from email.utils import formatdate, parsedate_to_datetime
from typing import Final, Self
from xml.sax.saxutils import escape

from attrs import field, frozen

from adepoll.emulator.stored_objects import Chunked, StoredObject

_RANGE: Final = re.compile(r"bytes=(\d{1,18})?-(\d{1,18})?", re.ASCII)
_NOT_MODIFIED: Final = 304


@frozen(kw_only=True)
class ResponseData:
    """A response. Its body is `body`, or the part of a stored object from `start` to `stop`.

    Attributes:
        status: HTTP status.
        headers: Headers without `Date`, `Content-Length` and `Transfer-Encoding`.
        body: A small body.
        stored: The object of which the body is a part; None if the body is in `body`.
        start: Position in the object at which the body begins, in bytes.
        stop: Position in the object at which the body ends (excluded), in bytes.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes = field(default=b"", repr=False)
    stored: Chunked | None = None
    start: int = 0
    stop: int = 0

    @property
    def size(self) -> int:
        """Length of the body, in bytes."""
        return len(self.body) if self.stored is None else self.stop - self.start

    def read(self) -> bytes:
        """Return the whole body."""
        return b"".join(self.chunks(chunk_bytes=max(self.size, 1)))

    def chunks(self, *, chunk_bytes: int, stop: int | None = None) -> Iterator[bytes]:
        """Yield the body up to `stop`, in chunks of at most `chunk_bytes` bytes."""
        end = self.size if stop is None else min(stop, self.size)
        if self.stored is not None:
            yield from self.stored.chunks(
                self.start, self.start + max(end, 0), chunk_bytes=chunk_bytes
            )
            return
        for offset in range(0, end, chunk_bytes):
            yield self.body[offset : min(offset + chunk_bytes, end)]

    @classmethod
    def s3_error(
        cls, status: int, code: str, message: str, details: Mapping[str, str] | None = None
    ) -> Self:
        """Return an error in S3's XML ("Error Responses", Amazon S3 API reference).

        `details` are further XML elements: texts by the name of the element.
        """
        more = "".join(f"<{name}>{escape(text)}</{name}>" for name, text in (details or {}).items())
        text = (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            f"<Error><Code>{code}</Code><Message>{escape(message)}</Message>{more}"
            "<RequestId>EMULATED</RequestId><HostId>emulated</HostId></Error>"
        )
        return cls(
            status=status,
            headers={"Content-Type": "application/xml", "x-amz-request-id": "EMULATED"},
            body=text.encode("utf-8", "replace"),
        )


def object_response(stored: StoredObject, headers: Mapping[str, str]) -> ResponseData:
    """Return the response to a GET of an object: 200, 206, 304, 412 or 416.

    Conditions are evaluated in the order of RFC 9110 (2022), section 13.2.2, which S3 follows, too.

    Args:
        stored: The object.
        headers: Headers of the request, a case-insensitive mapping.
    """
    object_headers = {
        "ETag": stored.etag,
        "Last-Modified": formatdate(int(stored.modified), usegmt=True),
    }
    if (condition := _failed_condition(stored, headers)) is not None:
        message = "At least one of the pre-conditions you specified did not hold"
        return ResponseData.s3_error(412, "PreconditionFailed", message, {"Condition": condition})
    if _is_unchanged(stored, headers):
        return ResponseData(status=_NOT_MODIFIED, headers=object_headers)
    may_be_part = _matches_if_range(stored, headers.get("If-Range"))
    range_header = headers.get("Range", "") if may_be_part else ""
    part = requested_range(range_header, stored.size)
    start, stop = (0, stored.size) if part is None else part
    if part is not None and start >= stop:
        details = {"RangeRequested": range_header, "ActualObjectSize": str(stored.size)}
        message = "The requested range is not satisfiable"
        error = ResponseData.s3_error(416, "InvalidRange", message, details)
        content_range = {"Content-Range": f"bytes */{stored.size}"}
        return ResponseData(status=416, headers={**error.headers, **content_range}, body=error.body)
    object_headers |= {"Accept-Ranges": "bytes", "Content-Type": "application/json"}
    if part is not None:
        object_headers["Content-Range"] = f"bytes {start}-{stop - 1}/{stored.size}"
    status = 200 if part is None else 206
    return ResponseData(
        status=status, headers=object_headers, stored=stored, start=start, stop=stop
    )


def requested_range(header: str, size: int) -> tuple[int, int] | None:
    """Return the requested bytes [start, stop) of a body of `size` bytes.

    Return None if the header must be ignored, because it is malformed (RFC 9110, 2022, section
    14.2) or has several ranges (as in S3). Return an empty range (start >= stop) if the body does
    not have the requested bytes.
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


def _failed_condition(stored: StoredObject, headers: Mapping[str, str]) -> str | None:
    """Return the name of the request header whose condition the object does not meet.

    It is If-Match or If-Unmodified-Since. Return None if the object meets the condition.
    """
    if (tags := headers.get("If-Match")) is not None:
        return None if _is_among(stored.etag, tags, weakly=False) else "If-Match"
    since = _seconds(headers.get("If-Unmodified-Since"))
    return None if since is None or int(stored.modified) <= since else "If-Unmodified-Since"


def _is_unchanged(stored: StoredObject, headers: Mapping[str, str]) -> bool:
    """Return True if the client already has this version of the object (304)."""
    if (tags := headers.get("If-None-Match")) is not None:
        return _is_among(stored.etag, tags, weakly=True)
    since = _seconds(headers.get("If-Modified-Since"))
    return since is not None and int(stored.modified) <= since


def _matches_if_range(stored: StoredObject, validator: str | None) -> bool:
    """Return whether a range may be sent: `If-Range` is absent, or matches the object.

    `validator` is the value of `If-Range`, an ETag or a date; None if the header is absent.
    """
    if validator is None or validator == stored.etag:
        return True
    return _seconds(validator) == int(stored.modified)


def _is_among(etag: str, tags: str, *, weakly: bool) -> bool:
    candidates = [tag.strip() for tag in tags.split(",")]
    return "*" in candidates or etag in candidates or (weakly and f"W/{etag}" in candidates)


def _seconds(date: str | None) -> float | None:
    """Return the Unix time of a date in a header; None if it is not a date."""
    if date is None or date.startswith(('"', "W/")):
        return None
    try:
        return parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return None
