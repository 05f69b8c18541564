"""JSON text: numbers, limits and depths at their bounds."""

import json
import math
from contextlib import suppress

import pytest
from fuzzing import counted_calls

from adepoll.api.json_text import (
    MAX_NESTING,
    NEVER_COSTLY,
    Limits,
    bounded,
    dumps,
    is_costly,
    load_object,
    loads,
    loads_number,
    with_bounded_values,
)
from adepoll.errors import MalformedAnswerError


def nested(depth, inner=0, *, make=lambda value: [value]):
    for _ in range(depth):
        inner = make(inner)
    return inner


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("12", 12), ("-12.5", -12.5), (" 7\n", 7), ("9" * 20, int("9" * 20)), ("9" * 21, None),
        ("1.", None), (".5", None), ("1e3", None), ("NaN", None), ("", None), ("1 2", None),
        ("1" + " " * 59, 1), ("1" + " " * 60, None), ("٣", None), (f"0.{'1' * 20}", 0.1111111111),
        (f"0.{'1' * 21}", None),
    ],
)  # fmt: skip
def test_a_text_can_be_a_number(text, number):
    found = loads_number(text)
    assert found == (number if number is None else pytest.approx(number))
    assert type(found) is type(number)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e999", "1e999"),
        ("[1.5, 1e999, -1e999]", [1.5, "1e999", "-1e999"]),
        ("[NaN, 2.5]", [None, 2.5]),
        ("[Infinity, 3]", [None, 3]),
        ("9" * 5_000, "9" * 5_000),
        (f"[{'9' * 5_000}, 17]", ["9" * 5_000, 17]),
    ],
)
def test_numbers_that_python_cannot_represent_stay_texts(text, value):
    assert loads(text) == value
    assert loads(text.encode()) == value


@pytest.mark.parametrize("end", ["", " ", "\n\t\r ", "\n" * 99])
def test_white_space_may_follow(end):
    assert loads('{"a": 1}' + end) == {"a": 1}


@pytest.mark.parametrize("end", ["NaN]", "1e999]", "1", "x]", "1] x", "[" * 5_000])
def test_a_text_is_parsed_only_once(end):
    """A second parser would call a function for each object."""
    with counted_calls() as count, suppress(MalformedAnswerError):
        assert len(loads(f"[{'{},' * 3_000}{end}")) == 3_001
    assert count() < 1_000


@pytest.mark.parametrize(
    "text", ["[1]", "1", '"a"', "{}", '{"a": "\u00fc"}', " [2]", "true", "-1.5"]
)
@pytest.mark.parametrize(
    "encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"]
)
def test_short_texts_are_read_in_any_encoding(text, encoding):
    assert loads(text.encode(encoding)) == json.loads(text)


@pytest.mark.parametrize("end", ["x", "\u00a0", "\x0c", "}", " 1"])
def test_nothing_else_may_follow(end):
    with pytest.raises(MalformedAnswerError, match="not JSON"):
        loads('{"a": 1}' + end)


@pytest.mark.parametrize(
    ("body", "costly"),
    [
        (b"[" * NEVER_COSTLY, False),
        (b"[" * (NEVER_COSTLY + 1), True),
        (b" " * (128 * 1024 - 1), False),
        (b" " * (128 * 1024), True),
        (b"[" * 250 + b" " * 5_000, False),
        (b"[" * 251 + b" " * 5_000, True),
        (b"{" * 251 + b" " * 5_000, True),
        (b"," * 501 + b" " * 5_000, False),
        (b"," * 502 + b" " * 5_000, True),
        (b"[" * 100 + b"{" * 100 + b"," * 101 + b" " * 5_000, False),
        (b"[" * 100 + b"{" * 100 + b"," * 102 + b" " * 5_000, True),
    ],
)
def test_a_text_is_costly_by_its_size_or_its_values(body, costly):
    assert is_costly(body) is costly


@pytest.mark.parametrize("as_text", [False, True])
@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("[" + "{}," * 2 + "[]]", None),
        ("[" + "{}," * 3 + "[]]", "more than 4 objects and arrays"),
        ("[" + "1," * 9 + "1]", None),
        ("[" + "1," * 10 + "1]", "more than 9 values"),
    ],
)
def test_the_values_of_a_text_are_limited(as_text, body, problem):
    limits = Limits(containers=4, values=9)
    body = body if as_text else body.encode()
    if problem is None:
        assert loads(body, limits) == json.loads(body)
    else:
        with pytest.raises(MalformedAnswerError, match=problem):
            loads(body, limits)


def test_a_short_text_exceeds_no_limit():
    assert loads("[[]]", Limits(containers=4, values=1)) == [[]]
    with pytest.raises(MalformedAnswerError, match="more than 1 objects"):
        loads("[[]]", Limits(containers=1, values=1))


@pytest.mark.parametrize(
    ("count", "padding", "fits"),
    [(10_000, 0, True), (10_001, 0, False), (10_001, 160_016, True), (10_001, 160_015, False)],
)
def test_arrays_that_begin_with_an_array_are_limited(count, padding, fits):
    text = ("[0" + ",[ [1]]" * (count - 1) + ",[[1]]]").ljust(padding)
    limits = Limits(containers=10**6, values=10**6)
    if fits:
        limits.check(text)
        limits.check(text.encode())
    else:
        for body in (text, text.encode()):
            with pytest.raises(MalformedAnswerError, match="arrays within arrays"):
                limits.check(body)


@pytest.mark.parametrize(("depth", "stays"), [(MAX_NESTING, True), (MAX_NESTING + 1, False)])
@pytest.mark.parametrize("make", [lambda value: [value], lambda value: {"a": value}])
def test_a_value_with_too_many_levels_becomes_text(depth, stays, make):
    value = nested(depth, make=make)
    assert bounded(value) == (value if stays else dumps(value))
    members = {"deep": value, "flat": [1]}
    found = with_bounded_values(members)
    assert (found is members) is stays
    assert found["flat"] == [1]
    assert type(found["deep"]) is (type(value) if stays else str)


def test_empty_values_add_no_level():
    value = nested(MAX_NESTING - 1, inner=[[], {}])
    assert bounded(value) is value


@pytest.mark.parametrize(
    "value",
    [
        {"a": [1, {"b": []}, []], "c": {}, "d": None},
        [[[1], 2], [3, [4]]],
        [],
        "text",
        {"a": {"b": {"c": [{"d": 1}]}}, "e": 2.5},
    ],
)
def test_any_value_is_written_like_by_json(value):
    for indent in (1, 2, 4):
        assert dumps(value, indent=indent) == json.dumps(value, indent=indent)
    compact = json.dumps(value, separators=(",", ":"))
    assert dumps(value) == compact

    deep = nested(20_000, inner=value)
    assert dumps(deep) == "[" * 20_000 + compact + "]" * 20_000


def test_infinity_is_not_written():
    with pytest.raises(ValueError, match="Out of range"):
        dumps([math.inf])


@pytest.mark.parametrize(("body", "kind"), [("[]", "array"), ("1", "number"), ("null", "null")])
def test_an_answer_must_be_an_object(body, kind):
    with pytest.raises(MalformedAnswerError, match=f"expected an object, got .*{kind}"):
        load_object(body)
    assert load_object("{}") == {}
