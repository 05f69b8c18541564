"""Inputs for decoders of foreign data, made from seeds, and how much work a decoder does.

A seed is a file in ``tests/fuzz/seeds/NAME``. An input is a seed with a few edits: bytes, or values
of its JSON, are replaced, removed, moved or repeated. An input that makes adepoll run a line that
no earlier input has run is edited further (only from Python 3.12 on, which can tell).
"""

import gc
import json
import os
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

import adepoll

SEEDS = Path(__file__).parents[1] / "fuzz" / "seeds"
PACKAGE = str(Path(adepoll.__file__).parent)
LONGEST = 20_000  # bytes of an input that is made by repeating a part of another
MOST_KEPT = 300  # inputs that reached new lines

# What parsers often treat differently from other bytes.
TOKENS = [
    *(b'"', b"'", b"{", b"}", b"[", b"]", b",", b":", b";", b"=", b"-", b"/", b"\\", b"*", b"%"),
    *(b"<", b">", b"&", b"#", b"?", b"@", b"+", b"(", b")", b"|", b"\t", b" ", b".", b"..", b"../"),
    *(b"\x00", b"\n", b"\r\n", b"\x1b[31m", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\xc2\xa0"),
    *(b"null", b"true", b"NaN", b"-Infinity", b"1e999", b"-0", b"1.5", b"9" * 25, b"9" * 5_000),
    *(b'""', b"{}", b"[]", b'"\\ud800"', b'"\\u0000"', b"\\u202e", b"\\ud83d", b"\\ude00"),
    *(b"https://h/p?sig=x", b"Bearer x", b"%2F", b"%0d%0a", b"&#61;", b"<Message>", b"<!--"),
    *("\u0661".encode(), "\u2028".encode(), "\u202e".encode(), "\U0001f600".encode(), b"\xc2\x85"),
    *(b"bytes=0-", b"W/", b"Thu, 01 Jan 1970 00:00:00 GMT", b"\xff\xfe", b"\x1f\x8b", b"e9", b"_"),
]
NUMBERS = [0.5, 1e300, 10**400, 2**53, 2**63, 1_780_000_000_000, -1_780_000_000, 0, 1, -1, 2, -0.0]
TEXTS = ["", "0", "COMPLETED", "canceled", "\ud800", "\ud83d\ude00", "\x1b[0m", "x" * 5_000, "\x85"]
OBJECTS = ["{}", '{"message":"m"}', '{"code":"c","message":"m"}', '{"a":{"b":{}}}', '{"":""}']


def _text(rng):
    """Return up to five characters from all over Unicode."""
    return "".join(chr(rng.randrange(1 << rng.randint(4, 20))) for _ in range(rng.randint(0, 5)))


def _nested(rng):
    depth = rng.randint(1, 200)
    return json.loads("[" * depth + "]" * depth)


VALUES = [
    lambda rng: rng.choice([None, True, False]),
    lambda rng: rng.choice(NUMBERS),
    lambda rng: rng.choice(TEXTS),
    lambda rng: json.loads(rng.choice(OBJECTS)),
    lambda rng: [rng.choice([{}, {"msg": "m"}, [], 0, ""])] * rng.randint(0, 300),
    _text,
    _nested,
]


def _value(rng):
    """Return a JSON value."""
    return rng.choice(VALUES)(rng)


def _with_edited_bytes(rng, body, others):
    """Return an input in which bytes are changed."""
    start, stop = sorted((rng.randint(0, len(body)), rng.randint(0, len(body))))
    if rng.random() < 0.5:
        stop = min(stop, start + rng.randint(0, 8))
    piece, before, after = body[start:stop], body[:start], body[stop:]
    other, rest = rng.choice(others), before + after
    cut, place = rng.randint(0, len(other)), rng.randint(0, len(rest))
    times = rng.randint(2, _most_times(piece))
    return rng.choice(
        [
            before + rng.choice(TOKENS) + after,
            before + rng.choice(TOKENS) + piece + after,
            before + rng.randbytes(rng.randint(1, 4)) + after,
            rest,
            before + piece * times + after,
            rest[:place] + piece + rest[place:],
            before + other[cut:],
            before,
        ]
    )


def _most_times(part):
    """Return how often a part of an input may be repeated."""
    return max(2, min(300, LONGEST // max(1, len(part))))


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


def _with_edited_values(rng, body):
    """Return an input in which a value of its JSON is changed; the same if it is not JSON."""
    try:
        raw = json.loads(body)
    except (ValueError, RecursionError):
        return body
    if not isinstance(raw, dict | list) or not (places := _places(raw)):
        return body
    container, key = rng.choice(places)
    edit = rng.randrange(5)
    if edit == 0:
        del container[key]
    elif edit == 1:
        container[key] = [container[key]] * rng.randint(1, _most_times(body))
    elif edit == 2 and isinstance(container, dict):
        container[_text(rng)] = _value(rng)
    else:
        container[key] = _value(rng)
    try:
        text = json.dumps(raw, ensure_ascii=rng.random() < 0.5)
    except RecursionError:
        return body
    return text.encode("utf-8", "surrogatepass")


def seeds_of(name):
    """Return the seeds of a decoder, in the order of their file names."""
    return [path.read_bytes() for path in sorted((SEEDS / name).iterdir())]


def inputs_of(seeds, rng, count):
    """Yield inputs made from seeds; the same number draws the same inputs.

    Args:
        seeds: The seeds.
        rng: A `random.Random`.
        count: Number of inputs.
    """
    pool = [*seeds]
    with lines_run() as has_new_line:
        for number in range(count):
            has_new_line()
            body = rng.choice(pool)
            for _ in range(rng.randint(0, 2)):
                body = _with_edited_values(rng, body)
            for _ in range(rng.randint(0, 2)):
                body = _with_edited_bytes(rng, body, pool)
            if number % 50 == 0:
                body = rng.randbytes(rng.randint(0, 40))
            yield body
            if has_new_line() and len(body) <= LONGEST and len(pool) < MOST_KEPT:
                pool.append(body)


@contextmanager
def lines_run():
    """Watch which lines of adepoll run; the function says whether there are new ones since."""
    if sys.version_info < (3, 12):
        yield lambda: False
        return
    monitoring = sys.monitoring
    tool = next(each for each in range(6) if monitoring.get_tool(each) is None)
    is_new = False

    def note_line(code, _line):
        nonlocal is_new
        is_new = is_new or code.co_filename.startswith(PACKAGE)
        return monitoring.DISABLE  # for this line, so that watching costs nearly nothing

    def has_new_line():
        nonlocal is_new
        was_new, is_new = is_new, False
        return was_new

    monitoring.use_tool_id(tool, "adepoll fuzzing")
    monitoring.register_callback(tool, monitoring.events.LINE, note_line)
    monitoring.set_events(tool, monitoring.events.LINE)
    monitoring.restart_events()  # lines that the inputs of another decoder have run are new, too
    try:
        yield has_new_line
    finally:
        monitoring.set_events(tool, 0)
        monitoring.free_tool_id(tool)


def smallest(body, fails):
    """Return the shortest input found that still fails, by removing parts of it."""
    size = len(body) // 2
    while size:
        start = 0
        while start < len(body):
            shorter = body[:start] + body[start + size :]
            if fails(shorter):
                body = shorter
            else:
                start += size
        size //= 2
    return body


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
    gc.disable()  # otherwise, finalizers of objects of earlier tests could be counted
    sys.setprofile(profile)
    try:
        yield lambda: calls
    finally:
        sys.setprofile(before)
        gc.enable()
