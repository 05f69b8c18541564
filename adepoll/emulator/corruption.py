"""Good answers made bad: pure functions from bytes to bytes, what is wrong drawn from a seed."""

import json
import random
import re
from collections.abc import Callable, Mapping
from typing import Final

from adepoll.api.models import Json
from adepoll.emulator.effects import Corruption, Distortion

DEPTH: Final = 100_000
"""How deep `Corruption.DEEP_NESTING` goes."""

DIGITS: Final = 400
"""How long the integer of `Corruption.HUGE_INTEGER` is."""

HTML_PAGE: Final = (
    b"<!DOCTYPE html>\n<html><head><title>Please wait</title></head>"
    b"<body><h1>We will be right back</h1></body></html>\n"
)

_JOB_ID: Final = re.compile(rb'"job_id":"(?:[^"\\]|\\.)*"')
_STATUS: Final = re.compile(rb'"status":"([^"]*)"')
_RECEIVED_AT: Final = re.compile(rb'"received_at":\d+')
_PROGRESS: Final = re.compile(rb'"progress":[\d.]+')
_STRANGE: Final = (b"archived", b"COMPLETED", b"", b"completed ", b"\\u0000", b"queued")
_EARLIER: Final = {"processing": "pending"}  # anything later goes back to processing


def corrupt(kind: Corruption, body: bytes, rng: random.Random) -> bytes:
    """Spoil the body of an answer: one job, or a page of the list, as compact JSON.

    On a page it is the first job that is wrong; where there is none, some kinds change nothing.
    """
    return _WAYS[kind](body, rng)


def content_type(kind: Corruption) -> str:
    """Give the type that such a body comes with."""
    return "text/html" if kind is Corruption.HTML else "application/json"


def _half(body: bytes, rng: random.Random) -> bytes:
    return body[: rng.randrange(1, max(len(body), 2))]


def _no_object(_body: bytes, rng: random.Random) -> bytes:
    return rng.choice((b"null", b"[]", b'"completed"', b"200", b"[{}]"))


def _other_job(body: bytes, rng: random.Random) -> bytes:
    return _JOB_ID.sub(b'"job_id":"another-%08x"' % rng.getrandbits(32), body, count=1)


def _strange_status(body: bytes, rng: random.Random) -> bytes:
    status = rng.choice(_STRANGE)
    return _STATUS.sub(lambda _: b'"status":"%s"' % status, body, count=1)


def _no_status(body: bytes, _rng: random.Random) -> bytes:
    return re.sub(rb'"status":"[^"]*",?', b"", body, count=1)


def _status_before(body: bytes, _rng: random.Random) -> bytes:
    try:
        raw = json.loads(body)
    except (ValueError, RecursionError):  # another fault has been here before
        return body
    if not isinstance(raw, dict) or raw.get("status") in {None, "pending"}:
        return body
    raw["status"] = _EARLIER.get(raw["status"], "processing")
    raw["progress"] = 0.0
    for name in ("data", "metadata", "output_url", "failure_reason", "version"):
        raw[name] = None
    return json.dumps(raw, separators=(",", ":")).encode()


def _nan(body: bytes, rng: random.Random) -> bytes:
    number = rng.choice((b"NaN", b"Infinity", b"-Infinity"))
    return _PROGRESS.sub(b'"progress":' + number, body, count=1)


def _huge(body: bytes, rng: random.Random) -> bytes:
    digits = b"".join(b"%d" % rng.randrange(1, 10) for _ in range(DIGITS))
    return _RECEIVED_AT.sub(b'"received_at":' + digits, body, count=1)


def _deep(body: bytes, _rng: random.Random) -> bytes:
    return _with_member(body, b'"nested":' + b"[" * DEPTH + b"]" * DEPTH)


def _surrogate(body: bytes, _rng: random.Random) -> bytes:
    # The last member wins in most parsers, so that the field is really read.
    return body.removesuffix(b"}") + rb',"org_id":"lone \ud800 surrogate"}'


def _twice(body: bytes, _rng: random.Random) -> bytes:
    twin = b'"status":"pending"' if b'"jobs":' not in body else b'"jobs":[]'
    return _with_member(body, twin)


def _with_member(body: bytes, member: bytes) -> bytes:
    return b"{" + member + b"," + body[1:]


_WAYS: Final[Mapping[Corruption, Callable[[bytes, random.Random], bytes]]] = {
    Corruption.HTML: lambda _body, _rng: HTML_PAGE,
    Corruption.INVALID_JSON: _half,
    Corruption.EMPTY_BODY: lambda _body, _rng: b"",
    Corruption.NOT_AN_OBJECT: _no_object,
    Corruption.WRONG_JOB_ID: _other_job,
    Corruption.UNKNOWN_STATUS: _strange_status,
    Corruption.MISSING_STATUS: _no_status,
    Corruption.BACKWARD_STATUS: _status_before,
    Corruption.NAN: _nan,
    Corruption.HUGE_INTEGER: _huge,
    Corruption.DEEP_NESTING: _deep,
    Corruption.LONE_SURROGATE: _surrogate,
    Corruption.DUPLICATE_KEYS: _twice,
}

_MOST_SHIFTED: Final = 10


def shift(kind: Distortion, rng: random.Random) -> int:
    """Give by how many places the list has moved under the reader's pages."""
    if kind is not Distortion.SHIFTING_PAGES:
        return 0
    return rng.choice((-1, 1)) * rng.randrange(1, _MOST_SHIFTED + 1)


def distort(kind: Distortion, body: Json, rng: random.Random) -> Json:
    """Give a page of the list as parsed JSON with what is wrong with it."""
    jobs, has_more = body["jobs"], body["has_more"]
    if kind is Distortion.MISSING_ITEMS:
        jobs = [job for job in jobs if rng.random() < 0.5]  # noqa: PLR2004 - every other one
    elif kind is Distortion.MISSING_PAGE:
        jobs = []
    elif kind is Distortion.ENDLESS_LIST:
        has_more = True
    return {**body, "jobs": jobs, "has_more": has_more}
