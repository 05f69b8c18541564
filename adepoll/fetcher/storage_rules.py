"""What storages of different vendors have in common and where they differ (RFC 9110). Pure.

A rule for one vendor belongs here: the request headers, the meaning of an error response, ETags.
"""

import re
from html import unescape
from typing import Final
from urllib.parse import unquote, urlsplit

from attrs import frozen

from adepoll.errors import (
    ResultExpiredError,
    ResultForbiddenError,
    ResultRefusedError,
    ResultServerError,
)
from adepoll.redaction import REDACTED, showable

RANGE_NOT_SATISFIABLE: Final = 416
_NOT_IMPLEMENTED: Final = 501
_REFUSE_RANGES: Final = frozenset({400, 403, 405, RANGE_NOT_SATISFIABLE, _NOT_IMPLEMENTED})
CODINGS: Final = frozenset({"gzip", "x-gzip", "deflate"})
"""Content codings that are decoded, although `Accept-Encoding` forbids all of them."""

UNSUPPORTED_CODINGS: Final = frozenset({"br", "zstd", "compress", "x-compress", "dcb", "dcz"})
"""Other registered codings. Any other value, such as ``aws-chunked``, encodes nothing."""

DEFAULT_HEADERS: Final = {"Accept": "*/*", "Accept-Encoding": "identity"}
_MAY_MEAN_EXPIRED: Final = frozenset({400, 401, 403})  # the body says whether the URL has expired
# S3, Google and CloudFront say "expired"; Azure only says that the time is outside the time frame.
_EXPIRED: Final = (b"expired", b"not valid in the specified time frame")
_TOO_EARLY: Final = (b"requesttimetooskewed", b"not yet valid")  # a clock is wrong: try again
_TRANSIENT: Final = frozenset({408, 429})  # besides 5xx
_MESSAGE: Final = re.compile(rb"<Message>([^<]*)</Message>")  # S3, Google, and Azure
_SHORTEST_SECRET: Final = 20  # shorter values are dates, numbers and names of algorithms
_CONTENT_RANGE: Final = re.compile(r"bytes (?:(\d{1,19})-(\d{1,19})|\*)/(\d{1,19})", re.ASCII)


@frozen
class ObjectVersion:
    """The version of the object that a storage serves.

    Attributes:
        size: Size in bytes; None if the storage does not send it, or sends that of encoded bytes.
        etag: ETag; None if the storage sends none.
    """

    size: int | None = None
    etag: str | None = None

    @property
    def is_strong(self) -> bool:
        """True if bytes of two responses with this ETag belong together.

        Equal weak tags only say that two objects have the same meaning (RFC 9110, section 8.8.3).
        """
        return self.etag is not None and self.etag[:2] not in {"", "W/"}

    def differs(self, other: "ObjectVersion") -> bool:
        """Return whether the other version is certainly another object."""
        return (None not in {self.size, other.size} and self.size != other.size) or (
            None not in {self.etag, other.etag} and self.etag != other.etag
        )


@frozen
class Range:
    """A requested byte range.

    Attributes:
        start: Offset of the first byte.
        stop: Offset after the last byte; None for a range to the end.
    """

    start: int
    stop: int | None = None

    def __str__(self) -> str:
        """Return the value of the header `Range`, which includes the last byte."""
        return f"bytes={self.start}-{'' if self.stop is None else self.stop - 1}"


def request_headers(requested: Range | None, version: ObjectVersion | None) -> dict[str, str]:
    """Return the additional headers that request a range; none for the whole object.

    If `version` has a strong `ETag`, the headers also require that version.
    """
    if requested is None:
        return {}
    headers = {"Range": str(requested)}
    if version is not None and version.etag and version.is_strong:
        # Weak tags never match in these (RFC 9110, sections 13.1.1 and 13.1.5). Some storages
        # support only one of the two headers; those that support both evaluate If-Match first.
        headers["If-Match"] = headers["If-Range"] = version.etag
    return headers


def parse_content_range(header: str) -> tuple[int, int, int | None]:
    """Return start, stop and size of a ``Content-Range``; (0, 0, None) if it is malformed."""
    found = _CONTENT_RANGE.fullmatch(header.strip())
    if found is None:
        return 0, 0, None
    first, last, size = found.groups()
    return (0, 0, int(size)) if first is None else (int(first), int(last) + 1, int(size))


def may_refuse_range(error: ResultRefusedError) -> bool:
    """Return whether a storage may answer the same request without a range or condition."""
    is_permanent = not isinstance(error, ResultExpiredError | ResultServerError)
    return error.status in _REFUSE_RANGES and (is_permanent or error.status == _NOT_IMPLEMENTED)


def error_for(
    job_id: str, url: str, status: int, body: bytes, *, retry_after: float | None = None
) -> ResultRefusedError:
    """Return the error for a response without success, with the message in its body."""
    found = _MESSAGE.search(body)
    message = unescape((found[1] if found else b"").decode("utf-8", "replace"))
    detail = showable(_without_query_values(message, url), 200)
    cls: type[ResultRefusedError] = ResultRefusedError
    said = body.lower()
    is_refused = status in _MAY_MEAN_EXPIRED
    if is_refused and any(text in said for text in _EXPIRED):
        cls = ResultExpiredError
    elif is_refused and not any(text in said for text in _TOO_EARLY):
        cls = ResultForbiddenError
    elif is_refused or status in _TRANSIENT or status >= 500:  # noqa: PLR2004 - a class of HTTP statuses
        return ResultServerError(
            job_id=job_id, status=status, detail=detail, url=url, retry_after=retry_after
        )
    return cls(job_id=job_id, status=status, detail=detail, url=url)


def _without_query_values(text: str, url: str) -> str:
    """Redact what the text quotes from the query of the URL, which contains the secrets."""
    for pair in urlsplit(url).query.split("&"):
        value = pair.partition("=")[2]
        for quoted in (value, unquote(value)):
            if len(quoted) >= _SHORTEST_SECRET:
                text = text.replace(quoted, REDACTED)
    return text
