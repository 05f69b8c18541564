"""What storages of different vendors have in common and where they differ (RFC 9110). No I/O.

A rule for one vendor belongs here: the request headers, the meaning of an error response, ETags.
"""

import json
import re
from base64 import b64decode
from datetime import UTC, datetime, timedelta
from enum import Enum
from html import unescape
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

from attrs import frozen

from adepoll.api.service_clock import parse_http_date
from adepoll.common.redaction import REDACTED, showable
from adepoll.errors import (
    ResultError,
    ResultExpiredError,
    ResultForbiddenError,
    ResultRefusedError,
    ResultServerError,
)

RANGE_NOT_SATISFIABLE: Final = 416
_NOT_SUPPORTED: Final = frozenset({501, 505})
CODINGS: Final = frozenset({"gzip", "x-gzip", "deflate"})
"""Content codings that are decoded, although `Accept-Encoding` forbids all of them."""

UNSUPPORTED_CODINGS: Final = frozenset({"br", "zstd", "compress", "x-compress", "dcb", "dcz"})
"""Other registered codings. Any other value, such as ``aws-chunked``, encodes nothing."""

DEFAULT_HEADERS: Final = {"Accept": "*/*", "Accept-Encoding": "identity"}
_MAY_MEAN_EXPIRED: Final = frozenset({400, 401, 403})  # the body says whether the URL has expired
# What S3 and its relatives, Google and Azure say; the documentation has the table.
_EXPIRED: Final = (b"expired", b"tokenrefreshrequired")
_TOO_EARLY: Final = (
    *(b"requesttimetooskewed", b"not yet valid", b"not valid yet", b"requestnotreadyyet"),
    b"<code>requesttimeout</code>",  # with 400: the connection was idle for too long
)
_AZURE_TIMES: Final = re.compile(
    rb"not valid in the specified (?:key )?time frame(?::\s*(?:Key )?start \[([^\]]*)\] - "
    rb"(?:Key )?expiry \[([^\]]*)\] - Current \[([^\]]*)\])?",
    re.IGNORECASE,
)
# Names of query parameters, in lower case: time of signing, and seconds of validity.
_SIGNED_AT: Final = (
    ("x-amz-date", "x-amz-expires"),
    ("x-goog-date", "x-goog-expires"),
    ("x-oss-date", "x-oss-expires"),
)
_TRANSIENT: Final = frozenset({408, 429})  # besides 5xx
# What else the XML contains is the request: the name of an object may contain any word.
_SAID: Final = re.compile(
    rb"<(Code|Message|Details|AuthenticationErrorDetail)>[^<]*</\1>", re.IGNORECASE
)
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


def may_refuse_range(error: ResultError) -> bool:
    """Return whether a storage may answer the same request without a range or condition.

    Even a missing object can be the answer to a range only. False for an outage, and for what the
    caller retries in any case.
    """
    if isinstance(error, ResultServerError):
        return error.status in _NOT_SUPPORTED
    return isinstance(error, ResultRefusedError) and not isinstance(error, ResultExpiredError)


class Timing(Enum):
    """Whether a refused URL was too old, too new, or neither."""

    EXPIRED = 1
    TOO_EARLY = 2
    OTHER = 3


def error_for(
    job_id: str,
    url: str,
    status: int,
    body: bytes,
    *,
    now: datetime,
    retry_after: float | None = None,
) -> ResultRefusedError:
    """Return the error for a response without success.

    Args:
        job_id: The job.
        url: The requested URL.
        status: HTTP status.
        body: Beginning of the body, which contains the message.
        now: Time of the storage.
        retry_after: Seconds that the storage asked to wait.
    """
    found = _MESSAGE.search(body)
    message = unescape((found[1] if found else b"").decode("utf-8", "replace"))
    detail = showable(_without_query_values(message, url), 200)
    cls: type[ResultRefusedError] = ResultRefusedError
    timing = timing_of(url, body, now) if status in _MAY_MEAN_EXPIRED else Timing.OTHER
    if timing is Timing.EXPIRED:
        cls = ResultExpiredError
    elif timing is Timing.TOO_EARLY or status in _TRANSIENT or status >= 500:  # noqa: PLR2004 - a class of HTTP statuses
        return ResultServerError(
            job_id=job_id, status=status, detail=detail, url=url, retry_after=retry_after
        )
    elif status in _MAY_MEAN_EXPIRED:
        cls = ResultForbiddenError
    return cls(job_id=job_id, status=status, detail=detail, url=url)


def timing_of(url: str, body: bytes, now: datetime) -> Timing:
    """Return why a storage refused a URL: by what it says, or else by the times in the URL.

    CloudFront and Ceph do not say more than "access denied".
    """
    said = b"".join(found[0] for found in _SAID.finditer(body)).lower() or body.lower()
    if (azure := _AZURE_TIMES.search(body)) is not None:
        start, _, current = [
            parse_http_date((text or b"").decode("latin-1")) for text in azure.groups()
        ]
        is_early = start is not None and current is not None and current < start
        return Timing.TOO_EARLY if is_early else Timing.EXPIRED
    if any(text in said for text in _TOO_EARLY):
        return Timing.TOO_EARLY
    if any(text in said for text in _EXPIRED):
        return Timing.EXPIRED
    start, end = validity_of(url)
    if end is not None and now >= end:
        return Timing.EXPIRED
    return Timing.TOO_EARLY if start is not None and now < start else Timing.OTHER


def validity_of(url: str) -> tuple[datetime | None, datetime | None]:
    """Return the times between which a presigned URL is valid; None for a time that it lacks."""
    query = {name.lower(): value for name, value in parse_qsl(urlsplit(url).query)}
    try:
        for date, seconds in _SIGNED_AT:
            if date in query:
                start = datetime.strptime(query[date], "%Y%m%dT%H%M%S%z")
                return start, start + timedelta(seconds=int(query[seconds]))
        if "se" in query and "sig" in query:  # Azure
            start_text = query.get("st")
            return (
                None if start_text is None else _aware(datetime.fromisoformat(start_text)),
                _aware(datetime.fromisoformat(query["se"])),
            )
        if "policy" in query:  # CloudFront
            return _validity_of_policy(query["policy"])
        if "expires" in query:  # Signature Version 2 of S3, Google and OSS; CloudFront
            return None, datetime.fromtimestamp(int(query["expires"]), UTC)
    except (
        LookupError,
        ValueError,
        OverflowError,
        OSError,
        TypeError,
        AttributeError,
        RecursionError,
    ):
        pass  # not what the vendors write
    return None, None


def _validity_of_policy(text: str) -> tuple[datetime | None, datetime | None]:
    policy = json.loads(b64decode(text.translate(str.maketrans("-_~", "+=/"))))
    condition = policy["Statement"][0]["Condition"]
    start, end = (
        condition.get(name, {}).get("AWS:EpochTime") for name in ("DateGreaterThan", "DateLessThan")
    )
    return (
        None if start is None else datetime.fromtimestamp(start, UTC),
        None if end is None else datetime.fromtimestamp(end, UTC),
    )


def _aware(time: datetime) -> datetime:
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _without_query_values(text: str, url: str) -> str:
    """Redact what the text quotes from the query of the URL, which contains the secrets."""
    for pair in urlsplit(url).query.split("&"):
        value = pair.partition("=")[2]
        for quoted in (value, unquote(value)):
            if len(quoted) >= _SHORTEST_SECRET:
                text = text.replace(quoted, REDACTED)
    return text
