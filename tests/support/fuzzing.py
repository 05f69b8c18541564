"""Inputs for decoders of foreign data, made from seeds, and how much work a decoder does.

A seed is a file in ``tests/fuzz/seeds/NAME``. An input is a seed with a few edits: bytes, or values
of its JSON, are replaced, removed, moved or repeated.
"""

import json
import os
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import strategies as st

SEEDS = Path(__file__).parents[1] / "fuzz" / "seeds"

# What parsers often treat differently from other bytes.
TOKENS = [
    *(
        b'"',
        b"'",
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b";",
        b"=",
        b"-",
        b"/",
        b"\\",
        b"*",
        b"%",
        b"<",
    ),
    *(b"\x00", b"\n", b"\r\n", b"\x1b[31m", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\xc2\xa0"),
    *(b"null", b"true", b"NaN", b"-Infinity", b"1e999", b"-0", b"1.5", b"9" * 25, b"9" * 5_000),
    *(
        b'""',
        b"{}",
        b"[]",
        b'"\\ud800"',
        b'"\\u0000"',
        b"\\u202e",
        b"https://h/p?sig=x",
        b"Bearer x",
    ),
    *("\u0661".encode(), "\u2028".encode(), b"bytes=0-", b"W/", b"Thu, 01 Jan 1970 00:00:00 GMT"),
]


def _slices(size):
    return st.tuples(st.integers(0, size), st.integers(0, size)).map(sorted)


def _nested(depth):
    return json.loads("[" * depth + "]" * depth)


json_values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 2),
    st.sampled_from([0.5, 1e300, 10**400, 2**53, 1_780_000_000_000, -1_780_000_000]),
    st.sampled_from(["", "0", "COMPLETED", "canceled", "\ud800", "\x1b[0m", "x" * 5_000]),
    st.text(max_size=5),
    st.integers(1, 200).map(_nested),
    st.sampled_from([{}, {"message": "m"}, {"code": "c", "message": "m"}, {"a": {"b": {}}}]),
    st.integers(0, 300).map(lambda count: [{}] * count),
    st.integers(0, 300).map(lambda count: [{"msg": "m"}] * count),
)


@st.composite
def _with_edited_bytes(draw, body):
    start, stop = draw(_slices(len(body)))
    piece = body[start:stop]
    edit = draw(st.sampled_from(["replace", "insert", "remove", "repeat", "move", "cut"]))
    if edit in {"replace", "insert"}:
        token = draw(st.sampled_from(TOKENS) | st.binary(max_size=4))
        return body[:start] + token + body[stop if edit == "replace" else start :]
    if edit == "remove":
        return body[:start] + body[stop:]
    if edit == "repeat":
        times = draw(st.integers(2, max(2, min(200, 20_000 // max(1, len(piece))))))
        return body[:start] + piece * times + body[stop:]
    if edit == "move":
        rest = body[:start] + body[stop:]
        place = draw(st.integers(0, len(rest)))
        return rest[:place] + piece + rest[place:]
    return body[:stop]


def _places(raw):
    """Return the containers and keys of all values within parsed JSON."""
    places, containers = [], [raw]
    while containers:
        container = containers.pop()
        keys = list(container) if isinstance(container, dict) else range(len(container))
        for key in keys:
            places.append((container, key))
            if isinstance(container[key], dict | list):
                containers.append(container[key])
    return places


@st.composite
def _with_edited_values(draw, body):
    try:
        raw = json.loads(body)
    except (ValueError, RecursionError):
        return body
    if not isinstance(raw, dict | list) or not (places := _places(raw)):
        return body
    container, key = draw(st.sampled_from(places))
    edit = draw(st.sampled_from(["replace", "remove", "add", "repeat"]))
    if edit == "remove":
        del container[key]
    elif edit == "repeat":
        container[key] = [container[key]] * draw(st.integers(1, 300))
    elif edit == "add" and isinstance(container, dict):
        container[draw(st.text(max_size=5))] = draw(json_values)
    else:
        container[key] = draw(json_values)
    return json.dumps(raw, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")


@st.composite
def _edited(draw, seeds):
    body = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(0, 2))):
        body = draw(_with_edited_values(body))
    for _ in range(draw(st.integers(0, 2))):
        body = draw(_with_edited_bytes(body))
    return body


def seeds_of(name):
    """Return the seeds of a decoder, in the order of their file names."""
    return [path.read_bytes() for path in sorted((SEEDS / name).iterdir())]


def inputs_of(name):
    """Return a strategy for the inputs of a decoder."""
    return _edited(seeds_of(name)) | st.binary(max_size=40)


@contextmanager
def counted_calls():
    """Count the calls of functions, also of those written in C: `count()` returns the number."""
    if "MUTANT_UNDER_TEST" in os.environ:
        pytest.skip("mutmut adds calls of its own")
    calls = 0

    def profile(_frame, event, _argument):
        nonlocal calls
        if event in {"call", "c_call"}:
            calls += 1

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        yield lambda: calls
    finally:
        sys.setprofile(before)
