"""Wrong versions of correct answers, reproducible from a seed. Does no I/O."""

import json
import random
import re
from collections.abc import Callable, Mapping
from typing import Final

from adepoll.api.models import Json
from adepoll.emulator.effects import Corruption, ListDistortion

DEPTH: Final = 100_000
"""Number of nested arrays in the answer of `Corruption.DEEP_NESTING`."""

DIGITS: Final = 400
"""Number of digits of the integer in the answer of `Corruption.HUGE_INTEGER`."""

HTML_PAGE: Final = (
    b"<!DOCTYPE html>\n<html><head><title>Please wait</title></head>"
    b"<body><h1>We will be right back</h1></body></html>\n"
)

_JOB_ID: Final = re.compile(rb'"job_id":"(?:[^"\\]|\\.)*"')
_STATUS: Final = re.compile(rb'"status":"([^"]*)"')
_TIME: Final = re.compile(rb'"(received_at|created_at)":(\d+|"[^"]*")')
_PROGRESS: Final = re.compile(rb'"progress":[\d.]+')
_STRANGE_STATUSES: Final = (b"archived", b"complete", b"", b"done", b"\\u0000", b"queued")
_FIELDS_OF_ENDED_JOBS: Final = frozenset(
    {
        *("data", "metadata", "output_url", "failure_reason", "version"),
        *("result", "error", "completed_at"),
    }
)
# The status that comes before a status. Before all other statuses, it is "processing".
_EARLIER: Final = {"processing": "pending"}


def corrupt(kind: Corruption, body: bytes, rng: random.Random) -> bytes:
    """Return a wrong version of the body of an answer, which is a job or a page of the list.

    The body must be compact JSON. If `kind` changes a single job, and the body is a page of the
    list, the first job of the page is changed. An empty page then stays as it is.
    """
    return _CORRUPTIONS[kind](body, rng)


def content_type(kind: Corruption) -> str:
    """Return the `Content-Type` of a body that `corrupt` returns."""
    return "text/html" if kind is Corruption.HTML else "application/json"


def _truncated(body: bytes, rng: random.Random) -> bytes:
    return body[: rng.randrange(1, max(len(body), 2))]


def _not_an_object(_body: bytes, rng: random.Random) -> bytes:
    return rng.choice((b"null", b"[]", b'"completed"', b"200", b"[{}]"))


def _other_job(body: bytes, rng: random.Random) -> bytes:
    return _JOB_ID.sub(b'"job_id":"another-%08x"' % rng.getrandbits(32), body, count=1)


def _unknown_status(body: bytes, rng: random.Random) -> bytes:
    status = rng.choice(_STRANGE_STATUSES)
    return _STATUS.sub(lambda _: b'"status":"%s"' % status, body, count=1)


def _missing_status(body: bytes, _rng: random.Random) -> bytes:
    return re.sub(rb'"status":"[^"]*",?', b"", body, count=1)


def _backward_status(body: bytes, _rng: random.Random) -> bytes:
    """Return the answer with an earlier status than the job has."""
    try:
        raw = json.loads(body)
    except (ValueError, RecursionError):  # another fault has already corrupted the body
        return body
    if not isinstance(raw, dict) or raw.get("status") in {None, "pending"}:
        return body
    raw["status"] = _EARLIER.get(raw["status"], "processing")
    raw["progress"] = 0.0
    for name in _FIELDS_OF_ENDED_JOBS & raw.keys():
        # v1, whose answers have `received_at`, sends null; v2 omits the field.
        if "received_at" in raw:
            raw[name] = None
        else:
            del raw[name]
    return json.dumps(raw, separators=(",", ":")).encode()


def _not_a_number(body: bytes, rng: random.Random) -> bytes:
    """Replace the progress by a number that JSON does not allow, or add such a progress."""
    number = rng.choice((b"NaN", b"Infinity", b"-Infinity"))
    progress = b'"progress":' + number
    if _PROGRESS.search(body) is None and b'"jobs":' not in body:
        return _with_member(body, progress)
    return _PROGRESS.sub(progress, body, count=1)


def _huge_integer(body: bytes, rng: random.Random) -> bytes:
    digits = b"".join(b"%d" % rng.randrange(1, 10) for _ in range(DIGITS))
    return _TIME.sub(lambda found: b'"%b":%b' % (found[1], digits), body, count=1)


def _deep_nesting(body: bytes, _rng: random.Random) -> bytes:
    return _with_member(body, b'"nested":' + b"[" * DEPTH + b"]" * DEPTH)


def _lone_surrogate(body: bytes, _rng: random.Random) -> bytes:
    # If a name occurs twice, most parsers use the last value, so clients read this value.
    return body.removesuffix(b"}") + rb',"org_id":"lone \ud800 surrogate"}'


def _duplicate_keys(body: bytes, _rng: random.Random) -> bytes:
    member = b'"status":"pending"' if b'"jobs":' not in body else b'"jobs":[]'
    return _with_member(body, member)


def _with_member(body: bytes, member: bytes) -> bytes:
    return b"{" + member + b"," + body[1:]


_CORRUPTIONS: Final[Mapping[Corruption, Callable[[bytes, random.Random], bytes]]] = {
    Corruption.HTML: lambda _body, _rng: HTML_PAGE,
    Corruption.INVALID_JSON: _truncated,
    Corruption.EMPTY_BODY: lambda _body, _rng: b"",
    Corruption.NOT_AN_OBJECT: _not_an_object,
    Corruption.WRONG_JOB_ID: _other_job,
    Corruption.UNKNOWN_STATUS: _unknown_status,
    Corruption.MISSING_STATUS: _missing_status,
    Corruption.BACKWARD_STATUS: _backward_status,
    Corruption.NAN: _not_a_number,
    Corruption.HUGE_INTEGER: _huge_integer,
    Corruption.DEEP_NESTING: _deep_nesting,
    Corruption.LONE_SURROGATE: _lone_surrogate,
    Corruption.DUPLICATE_KEYS: _duplicate_keys,
}

_LARGEST_SHIFT: Final = 10


def shift(kind: ListDistortion, rng: random.Random) -> int:
    """Draw the number of jobs by which a page of the list begins too late (negative: too early)."""
    if kind is not ListDistortion.SHIFTING_PAGES:
        return 0
    return rng.choice((-1, 1)) * rng.randrange(1, _LARGEST_SHIFT + 1)


def distort(kind: ListDistortion, body: Json, rng: random.Random) -> Json:
    """Return a wrong version of a page of the list, given as parsed JSON."""
    jobs, has_more = body["jobs"], body["has_more"]
    if kind is ListDistortion.MISSING_ITEMS:
        jobs = [job for job in jobs if rng.random() < 0.5]  # noqa: PLR2004 - half of the jobs
    elif kind is ListDistortion.MISSING_PAGE:
        jobs = []
    elif kind is ListDistortion.ENDLESS_LIST:
        has_more = True
    return {**body, "jobs": jobs, "has_more": has_more}
