"""An answer as data, before anything is sent: status, headers, and a body that is cut into chunks.

What S3 says in XML, and what it makes of conditions and ranges, is worked out here without I/O.
"""

import re
from collections.abc import Iterator, Mapping
from email.utils import formatdate, parsedate_to_datetime
from typing import Final, Protocol, Self
from xml.sax.saxutils import escape

from attrs import field, frozen

_RANGE: Final = re.compile(r"bytes=(\d{1,18})?-(\d{1,18})?", re.ASCII)
_NOT_MODIFIED: Final = 304


class Stored(Protocol):
    """What lies behind a URL."""

    @property
    def size(self) -> int:
        """Length, in bytes."""

    @property
    def etag(self) -> str:
        """A strong entity tag, quotes included."""

    @property
    def modified(self) -> float:
        """When it was stored, in Unix seconds."""

    def chunks(self, start: int, stop: int, *, chunk_bytes: int) -> Iterator[bytes]:
        """Give the bytes from `start` up to `stop` in pieces of `chunk_bytes` at most."""


@frozen(kw_only=True)
class Reply:
    """An answer: its body is `body`, or a piece of what is stored.

    Attributes:
        status: HTTP status.
        headers: Without those of the framing and the date.
        body: The body, where it is small.
        stored: What the body is a piece of, where it may be large.
        start: Where that piece begins.
        stop: Where it ends.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes = field(default=b"", repr=False)
    stored: Stored | None = None
    start: int = 0
    stop: int = 0

    @property
    def size(self) -> int:
        """Length of the body, in bytes."""
        return len(self.body) if self.stored is None else self.stop - self.start

    def chunks(self, *, chunk_bytes: int, stop: int | None = None) -> Iterator[bytes]:
        """Give the body up to `stop` in pieces of `chunk_bytes` at most."""
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
        """Make an error as S3 writes it ("Error Responses", Amazon S3 API reference)."""
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


def reply_with(stored: Stored, headers: Mapping[str, str]) -> Reply:
    """Answer a GET of what is stored: 200, 206, 304, 412 or 416.

    Conditions are taken in the order of RFC 9110 (2022), section 13.2.2, which is S3's, too.

    Args:
        stored: What lies there.
        headers: Of the request; a case-insensitive mapping.
    """
    about = {"ETag": stored.etag, "Last-Modified": formatdate(int(stored.modified), usegmt=True)}
    if (condition := _failed_condition(stored, headers)) is not None:
        message = "At least one of the pre-conditions you specified did not hold"
        return Reply.s3_error(412, "PreconditionFailed", message, {"Condition": condition})
    if _is_unchanged(stored, headers):
        return Reply(status=_NOT_MODIFIED, headers=about)
    wanted = headers.get("Range")
    if wanted is not None and not _same_as_before(stored, headers.get("If-Range")):
        wanted = None
    part = None if wanted is None else requested_range(wanted, stored.size)
    start, stop = (0, stored.size) if part is None else part
    if part is not None and start >= stop:
        details = {"RangeRequested": wanted or "", "ActualObjectSize": str(stored.size)}
        message = "The requested range is not satisfiable"
        refusal = Reply.s3_error(416, "InvalidRange", message, details)
        content_range = {"Content-Range": f"bytes */{stored.size}"}
        return Reply(status=416, headers={**refusal.headers, **content_range}, body=refusal.body)
    about |= {"Accept-Ranges": "bytes", "Content-Type": "application/json"}
    if part is not None:
        about["Content-Range"] = f"bytes {start}-{stop - 1}/{stored.size}"
    status = 200 if part is None else 206
    return Reply(status=status, headers=about, stored=stored, start=start, stop=stop)


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


def _failed_condition(stored: Stored, headers: Mapping[str, str]) -> str | None:
    if (tags := headers.get("If-Match")) is not None:
        return None if _is_among(stored.etag, tags, weakly=False) else "If-Match"
    since = _seconds(headers.get("If-Unmodified-Since"))
    return None if since is None or int(stored.modified) <= since else "If-Unmodified-Since"


def _is_unchanged(stored: Stored, headers: Mapping[str, str]) -> bool:
    if (tags := headers.get("If-None-Match")) is not None:
        return _is_among(stored.etag, tags, weakly=True)
    since = _seconds(headers.get("If-Modified-Since"))
    return since is not None and int(stored.modified) <= since


def _same_as_before(stored: Stored, validator: str | None) -> bool:
    """Judge `If-Range`: a strong tag, or the very date."""
    if validator is None or validator == stored.etag:
        return True
    since = _seconds(validator)
    return since is not None and since == int(stored.modified)


def _is_among(etag: str, tags: str, *, weakly: bool) -> bool:
    given = [tag.strip() for tag in tags.split(",")]
    return "*" in given or etag in given or (weakly and f"W/{etag}" in given)


def _seconds(date: str | None) -> float | None:
    if date is None or date.startswith(('"', "W/")):
        return None
    try:
        return parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return None
