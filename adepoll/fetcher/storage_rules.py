"""Rules for the storages of different vendors, such as S3, Google and Azure. No I/O.

All rules that differ between vendors are here, except the names of secret parameters of URLs. The
rules of RFC 9110, which all storages follow, are in `fetcher/responses.py`: statuses and headers of
responses. To add a rule for one vendor, change:

- `request_headers` and `DEFAULT_HEADERS`, if requests to the vendor need other headers; `CODINGS`
  in `api/body_decoding.py`, for compressions that the vendor uses.
- `_MAY_MEAN_EXPIRED` and `_TRANSIENT`, for the statuses of errors.
- `_EXPIRED` and `_TOO_EARLY`, for texts of errors in lower case; `_SAID`, for the XML elements and
  JSON members that contain these texts; `_MESSAGE`, for the element that an error of adepoll
  quotes. A text that needs more than a search, such as Azure's times (`_AZURE_TIMES`), is read at
  the start of `timing_of`.
- `_SIGNED_AT` or `validity_of`, for the parameters of a presigned URL that say when it is valid.
  These times decide only if the text of the error does not name the reason.
- `common/redaction.py`, for the parameters of a presigned URL that are secret.
- The list of vendors in `docs/transfers.md`; `tests/fetcher/test_storage_rules.py`: an error of
  each kind, and a presigned URL.

For example, Google has no branch of its own in the code. Its rules are the status 400 in
`_MAY_MEAN_EXPIRED`, the pair ``x-goog-date``, ``x-goog-expires`` in `_SIGNED_AT`, the older
parameter ``Expires`` in `validity_of`, and ``X-Goog-Signature`` and ``X-Goog-Credential`` in
`common/redaction.py`. The texts of its errors are like those of S3.
"""

import json
import re
from base64 import b64decode
from datetime import UTC, datetime, timedelta
from enum import Enum
from html import unescape
from typing import Final
from urllib.parse import parse_qsl, unquote, unquote_to_bytes, urlsplit

from attrs import field, frozen

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
# No request asks for a compressed result, but some storages compress it.
DEFAULT_HEADERS: Final = {"Accept": "*/*", "Accept-Encoding": "identity"}
# Statuses that storages use for an expired URL and for other errors. The body shows the reason.
_MAY_MEAN_EXPIRED: Final = frozenset({400, 401, 403})
# Texts in lower case from the error bodies of S3, compatible storages, Google and Azure. After a
# text of `_EXPIRED`, the URL must be renewed. After one of `_TOO_EARLY`, the request is repeated.
_EXPIRED: Final = (b"expired", b"tokenrefreshrequired")
_TOO_EARLY: Final = (
    *(b"requesttimetooskewed", b"not yet valid", b"not valid yet", b"requestnotreadyyet"),
    b"<code>requesttimeout</code>",  # comes with status 400 if the connection was idle for too long
)
_AZURE_TIMES: Final = re.compile(
    rb"not valid in the specified (?:key )?time frame(?::\s*(?:Key )?start \[([^\]]*)\] - "
    rb"(?:Key )?expiry \[([^\]]*)\] - Current \[([^\]]*)\])?",
    re.IGNORECASE,
)
# Pairs of query parameters, in lower case: the first has the time at which the URL was signed, the
# second the number of seconds for which it is valid.
_SIGNED_AT: Final = (
    ("x-amz-date", "x-amz-expires"),
    ("x-goog-date", "x-goog-expires"),
    ("x-oss-date", "x-oss-expires"),
)
_TRANSIENT: Final = frozenset({408, 429})  # statuses below 500 that allow a retry
# The elements of an XML error body, and the members of a JSON error body, that the storage wrote
# itself. Others quote the request, and the name of an object can contain a word such as "expired".
_SAID: Final = re.compile(
    rb"<(Code|Message|Details|AuthenticationErrorDetail)>[^<]*</\1>"
    rb'|"(?:code|message|details?|error|error_description|reason|status|title)"\s*:\s*'
    rb'"(?:[^"\\]|\\.)*"',
    re.IGNORECASE | re.DOTALL,
)
_MESSAGE: Final = re.compile(rb"<Message>([^<]*)</Message>")  # S3, Google, and Azure
_MAX_SEGMENTS: Final = 50  # segments of a path that are looked for in a message
# Number of characters. Shorter values in a query are dates, numbers and names, and not secret.
_SHORTEST_SECRET: Final = 20


def _usable(etag: str | None) -> str | None:
    """Return an ETag; None if it has an unprintable character.

    aiohttp sends no header with a control character, and no byte that is not UTF-8.
    """
    return etag if etag is None or etag.isprintable() else None


@frozen
class ObjectVersion:
    """The version of the object that a storage serves.

    Attributes:
        size: Size in bytes; None if the storage does not send the size, or compresses the bytes.
        etag: ETag; None if the storage does not send an ETag, sends one that cannot be sent back,
            or compresses the bytes.
    """

    size: int | None = None
    etag: str | None = field(default=None, converter=_usable)

    @property
    def is_strong(self) -> bool:
        """True if two responses with this ETag certainly contain the same bytes.

        Equal weak ETags only say that two objects have the same meaning (RFC 9110, section 8.8.3).
        """
        return self.etag is not None and self.etag[:2] not in {"", "W/"}

    def differs(self, other: "ObjectVersion") -> bool:
        """Return whether the sizes or the ETags differ; an unknown size or ETag never differs."""
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
        """Return the value of the header `Range`, in which the last offset is `stop - 1`."""
        return f"bytes={self.start}-{'' if self.stop is None else self.stop - 1}"


def request_headers(requested: Range | None, version: ObjectVersion | None) -> dict[str, str]:
    """Return the headers that request a range; an empty dict for the whole object.

    If `version` has a strong ETag, the headers also demand that the object has this ETag.
    """
    if requested is None:
        return {}
    headers = {"Range": str(requested)}
    if version is not None and version.etag and version.is_strong:
        # Weak ETags never match in these headers (RFC 9110, sections 13.1.1 and 13.1.5). Both
        # headers are sent, because some storages support only one. The others evaluate If-Match
        # first.
        headers["If-Match"] = headers["If-Range"] = version.etag
    return headers


def may_succeed_without_range(error: ResultError) -> bool:
    """Return True if the whole object may be available, although a range request has failed.

    Some storages refuse a range with any error status, even with 404. So the request may succeed
    without its range and without If-Match. The result is False for an outage and for an expired
    URL: in these cases, the range is not the reason.
    """
    if isinstance(error, ResultServerError):
        return error.status in _NOT_SUPPORTED
    return isinstance(error, ResultRefusedError) and not isinstance(error, ResultExpiredError)


class Timing(Enum):
    """The reason why a storage refused a URL: it has expired, is not valid yet, or another one."""

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
    """Return the error for a response with an error status.

    Args:
        job_id: The job.
        url: The requested URL.
        status: HTTP status.
        body: Beginning of the body, which contains the message of the storage.
        now: Present time by the clock of the storage.
        retry_after: Seconds that the storage asked to wait; None if it did not ask.
    """
    found = _MESSAGE.search(body)
    message = unescape((found[1] if found else b"").decode("utf-8", "replace"))
    detail = showable(_without_query_values(message, url), 200)
    cls: type[ResultRefusedError] = ResultRefusedError
    timing = timing_of(url, body, now) if status in _MAY_MEAN_EXPIRED else Timing.OTHER
    if timing is Timing.EXPIRED:
        cls = ResultExpiredError
    elif timing is Timing.TOO_EARLY or status in _TRANSIENT or _is_5xx(status):
        return ResultServerError(
            job_id=job_id, status=status, detail=detail, url=url, retry_after=retry_after
        )
    elif status in _MAY_MEAN_EXPIRED:
        cls = ResultForbiddenError
    return cls(job_id=job_id, status=status, detail=detail, url=url)


def _is_5xx(status: int) -> bool:
    # An invalid status, such as 600 or 099, means 5xx (RFC 9110, section 15).
    return not 100 <= status < 500  # noqa: PLR2004 - classes of HTTP statuses


def timing_of(url: str, body: bytes, now: datetime) -> Timing:
    """Return why a storage refused a URL: expired, not valid yet, or another reason.

    The body of the response decides. If the body does not name the reason, as with CloudFront and
    Ceph, which only say "access denied", the times in the URL decide.
    """
    said = b" ".join(found[0] for found in _SAID.finditer(body)).lower() or body.lower()
    for name in _names_in(url):
        said = said.replace(name, b"")
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


def _names_in(url: str) -> list[bytes]:
    """Return those parts of a URL's path that contain a word such as "expired".

    If an error message quotes such a part, the word does not mean that the URL has expired. The
    parts are segments of the path, and the rest of the path from each segment on. They are in lower
    case, the longest first.
    """
    segments = unquote_to_bytes(urlsplit(url).path).lower().split(b"/")[:_MAX_SEGMENTS]
    names = {*segments, *(b"/".join(segments[start:]) for start in range(len(segments)))}
    found = [name for name in names if any(text in name and text != name for text in _EXPIRED)]
    return sorted(found, key=len, reverse=True)


def validity_of(url: str) -> tuple[datetime | None, datetime | None]:
    """Return the times (start, end) between which a presigned URL is valid.

    A time that the URL does not contain is None.
    """
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
        pass  # a malformed time counts as missing
    return None, None


def _validity_of_policy(text: str) -> tuple[datetime | None, datetime | None]:
    """Return the times (start, end) between which a CloudFront policy is valid.

    A time that the policy does not contain is None.
    """
    # CloudFront replaces three characters of base64, because they have a meaning in URLs.
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
    """Replace the long values of the URL's query in a text, because they can be secret.

    If percent-encoding hides such a value in the text, decode the text first.
    """
    decoded = unquote(unquote(text))
    for pair in urlsplit(url).query.split("&"):
        value = pair.partition("=")[2]
        for quoted in (value, unquote(value)):
            if len(quoted) >= _SHORTEST_SECRET:
                text, decoded = (each.replace(quoted, REDACTED) for each in (text, decoded))
    return decoded if decoded.count(REDACTED) > text.count(REDACTED) else text
