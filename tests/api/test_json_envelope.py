"""ObjectScanner finds what json.loads finds, whatever the chunks, and keeps short values only."""

import json
from copy import deepcopy
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adepoll.api.json_envelope import MemberLimit, ObjectScanner
from adepoll.api.value_scanner import ValueScanner
from adepoll.errors import MalformedAnswerError

_TEXT = st.text(st.sampled_from('"\\{}[],: \n/bué€😀'), max_size=12) | st.text(max_size=5)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | _TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=4),
    max_leaves=12,
)
_SPACE = st.sampled_from(["", "", " ", "\n\t ", "\r\n"])


@st.composite
def _members(draw):
    """Names with the JSON text of their values."""
    names = draw(st.lists(_TEXT, max_size=5, unique=True))
    return {
        name: json.dumps(
            draw(_VALUES), indent=draw(st.sampled_from([None, 1])), ensure_ascii=draw(st.booleans())
        )
        for name in names
    }


@st.composite
def _document(draw, members):
    """The JSON text of an object, with whitespace wherever it is allowed."""
    pairs = []
    for name, text in members.items():
        key = json.dumps(name, ensure_ascii=draw(st.booleans()))
        before, after, last = draw(_SPACE), draw(_SPACE), draw(_SPACE)
        pairs.append(f"{draw(_SPACE)}{key}{before}:{after}{text}{last}")
    begin = draw(st.sampled_from(["", " ", "\ufeff"]))
    return f"{begin}{{{','.join(pairs) or draw(_SPACE)}}}{draw(_SPACE)}".encode()


def _fed(scanner, text, cuts=()):
    """Feed the text in chunks that end at the offsets `cuts`; return the streamed value."""
    offsets = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    pieces = []
    for start, stop in pairwise(offsets):
        pieces += [bytes(piece) for piece in scanner.feed(text[start:stop])]
    return b"".join(pieces)


@given(st.data())
def test_scanner_agrees_with_json_loads(data):
    """It finds the same members as json.loads, and streams one byte for byte, for any chunks."""
    members = data.draw(_members())
    text = data.draw(_document(members))
    streamed = data.draw(st.sampled_from([*members, "absent"]))
    is_object = members.get(streamed, "null")[0] in "{n"
    within = ObjectScanner() if is_object and data.draw(st.booleans()) else None
    inner = {}

    def scanner_of(name):
        return inner.setdefault(name, ObjectScanner())

    scanner = ObjectScanner(
        streamed=streamed,
        streamed_scanner=within,
        scanner_of=data.draw(st.sampled_from([None, scanner_of])),
    )

    found = _fed(scanner, text, data.draw(st.lists(st.integers(0, len(text)))))

    assert scanner.is_complete
    assert found == members.get(streamed, "").encode()
    assert all(scanner.has(name) for name in members)
    assert not scanner.has("absent")
    expected = {name: json.loads(text) for name, text in members.items() if name != streamed}
    assert json.loads(scanner.short_members()) == expected
    for name, other in inner.items():
        assert other.is_complete
        assert json.loads(other.short_members()) == json.loads(members[name])
    if within is not None and found.startswith(b"{"):
        assert within.is_complete
        assert json.loads(within.short_members()) == json.loads(found)


@given(st.data())
def test_scanner_is_complete_at_the_last_brace_only(data):
    """A text that is cut anywhere is not complete."""
    text = data.draw(_document(data.draw(_members()))).rstrip()
    scanner = ObjectScanner()
    _fed(scanner, text[: data.draw(st.integers(0, len(text) - 1))])
    assert not scanner.is_complete


def test_scanner_reads_every_chunking_of_a_tricky_text():
    """Escapes and brackets in strings are read alike, whether they come byte by byte or not."""
    result = rb'{"a\\\"}": ["\\", "]", {"\\\\": "}"}, "\u007d{"], "": ""}'
    text = b'{"x": "\\\\", "\\u0072esult":' + result + b', "y": -1.5e3}'
    for size in range(1, 9):
        scanner = ObjectScanner(streamed="result")
        found = _fed(scanner, text, range(0, len(text), size))
        assert found == result, size
        assert scanner.members == {"x": b'"\\\\"', "y": b"-1.5e3"}
        assert scanner.is_complete


def test_a_malformed_value_ends_at_the_same_byte_in_all_chunks():
    """A backslash outside of a text escapes nothing, also as the last byte of a chunk."""
    text = rb'1,\{,2],"\"]",3}],4'
    found = set()
    for size in range(1, len(text) + 1):
        scanner, position = ValueScanner(), 0
        scanner.begin(is_string=False, depth=1)
        while scanner.is_open:
            chunk = text[position - position % size :][:size]
            position += scanner.read(chunk, position % size) - position % size
        found.add(position)
    assert found == {text.index(b"}],4") + 1}


def test_a_value_to_look_into_must_be_an_object():
    """Anything else is malformed, and null is no value."""
    with pytest.raises(MalformedAnswerError, match="expected an object @ byte 5"):
        ObjectScanner(streamed="z", streamed_scanner=ObjectScanner()).feed(b'{"z":[1]}')
    within = ObjectScanner()
    assert _fed(ObjectScanner(streamed="z", streamed_scanner=within), b'{"z":null}') == b"null"
    assert not within.is_complete


def test_a_member_is_found_when_its_name_was_read():
    """So that a check for names need not read a long value."""
    scanner = ObjectScanner()
    scanner.feed(b'{"a": {"b": [1, 2')
    assert scanner.has("a")
    assert not scanner.has("b")


def test_long_values_are_left_out():
    """Values over the limit are named, not kept; the last of two equal names counts."""
    text = b'{"a": "' + b"x" * 62 + b'", "b": "' + b"x" * 63 + b'", "c": 1, "c": {"d": []}}'
    scanner = ObjectScanner(max_value=64)
    _fed(scanner, text, range(0, len(text), 50))
    assert scanner.members == {"a": b'"' + b"x" * 62 + b'"', "c": b'{"d": []}'}
    assert scanner.long_members == {"b"}
    assert scanner.has("b")


def test_kept_bytes_are_limited_in_total():
    """Members beyond the total are ignored, and the object is still read to its end."""
    scanner = ObjectScanner(streamed="z", max_total=10)
    assert _fed(scanner, b'{"a": 12345, "b": 12345, "c": 1, "z": [1]}') == b"[1]"
    assert scanner.members == {"a": b"12345"}
    assert scanner.is_complete


def test_members_beyond_the_limit_are_ignored():
    """They take no time of their own, and the end of the object is still found."""
    within = ObjectScanner(limit=MemberLimit(2))
    scanner = ObjectScanner(streamed="z", streamed_scanner=within, limit=MemberLimit(2))
    text = b'{"a": 1, "z": {"b": 2, "c": "}", "d": ["}", 3], "\\"e": {}}, "f": {"g": [{}]}} '
    assert json.loads(_fed(scanner, text, range(len(text)))) == json.loads(text)["z"]
    assert (scanner.members, within.members) == ({"a": b"1"}, {"b": b"2", "c": b'"}"'})
    assert scanner.is_complete
    assert within.is_complete
    for limited in (scanner, within):
        with pytest.raises(MalformedAnswerError, match="expected nothing more"):
            limited.feed(b"x")


@pytest.mark.parametrize(
    "value",
    [
        b"[" * 20_000 + b"]" * 20_000,
        b"[" + b'{"a":' * 3_000 + b"[[],{}]" + b"}" * 3_000 + b"]",
        b"[[]," * 5_000 + b"0" + b"]" * 5_000,
        b"[" + b'[[],[[[["]"]]]],"\\"[",{}],' * 2_000 + b"0]",
        b'{"a":[' * 100 + b'"' + b"]}" * 500 + b'"' + b"]}" * 100,
    ],
)
@pytest.mark.parametrize("size", [1_000, 10_000_000])
def test_the_end_of_a_deeply_nested_value_is_found(value, size):
    """Wherever it is in a chunk."""
    text = b'{"a": %b, "z": %b, "b": 1}' % (value, value)
    scanner = ObjectScanner(streamed="z", max_value=10**6)
    assert _fed(scanner, text, range(0, len(text), size)) == value
    assert scanner.members == {"a": value, "b": b"1"}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"[1]", "not JSON: expected { @ byte 0"),
        (b"<html>", "not JSON: expected { @ byte 0"),
        (b'{"a" 1}', "not JSON: expected : @ byte 5"),
        (b'{"a": }', "not JSON: expected a value @ byte 6"),
        (b'{"a": 1 "b"', "not JSON: expected , or } @ byte 8"),
        (b'{"a": 1,}', 'not JSON: expected " @ byte 8'),
        (b'{"\\x": 1}', "not JSON: expected a key @ byte 5"),
        (b"{} {", "not JSON: expected nothing more @ byte 3"),
        (b'{"z": 1, "z": 2}', "not JSON: expected no second value of the same name @ byte 14"),
        (b"{%b}" % b",".join([b'"a":1'] * 5000), "too many members @ $"),
    ],
)
def test_text_that_is_no_object_is_malformed(text, problem):
    """The error says what was expected, and where."""
    with pytest.raises(MalformedAnswerError) as caught:
        _fed(ObjectScanner(streamed="z"), text)
    assert caught.value.problems == (problem,)


@pytest.mark.parametrize("size", [1, 7, 1_000])
@pytest.mark.parametrize(
    ("scanner", "text"),
    [
        (
            ObjectScanner(streamed="z", streamed_scanner=ObjectScanner()),
            b'{"first": 1, "z": {"y": 2, x: 3}}',
        ),
        (
            ObjectScanner(scanner_of=lambda _name: ObjectScanner()),
            b'{"first": 1, "a": {"y": 2, x: 3}}',
        ),
        (
            ObjectScanner(
                streamed="z",
                streamed_scanner=ObjectScanner(scanner_of=lambda _name: ObjectScanner()),
            ),
            b'{"first": 1, "z": {"y": {"w": 2, x: 3}}}',
        ),
    ],
    ids=["streamed", "other", "both"],
)
def test_an_error_in_a_nested_object_names_the_byte_of_the_whole_text(scanner, text, size):
    scanner = deepcopy(scanner)
    with pytest.raises(MalformedAnswerError) as caught:
        _fed(scanner, text, range(0, len(text), size))
    assert caught.value.problems == (f'not JSON: expected " @ byte {text.index(b"x:")}',)


@pytest.mark.parametrize(
    ("text", "members", "long"),
    [
        (b'{"a": "%b", "a": 1}' % bytes([120] * 99), {"a": b"1"}, set()),
        (b'{"a": 1, "a": "%b"}' % bytes([120] * 99), {}, {"a"}),
    ],
)
def test_of_two_values_of_the_same_name_the_last_counts(text, members, long):
    scanner = ObjectScanner(max_value=50)
    scanner.feed(text)
    assert (scanner.members, scanner.long_members) == (members, long)
    assert scanner.has("a")


def test_memory_stays_constant_for_a_long_value():
    """A chunk of reused memory is read like bytes, and nothing of a long value is kept."""
    scanner = ObjectScanner(streamed="z", max_value=100)
    scanner.feed(memoryview(b'{"a": "'))
    for _ in range(50):
        assert scanner.feed(memoryview(b"x" * 1000)) == []
    assert b"".join(scanner.feed(memoryview(b'", "z": {}}'))) == b"{}"
    assert scanner.short_members() == b"{}"


@pytest.mark.parametrize(
    ("second", "members", "long"),
    [
        (b'"short"', {"a": b'"short"'}, set()),
        (b'"' + b"x" * 99 + b'"', {}, {"a"}),  # the first value is not the one that counts
    ],
)
def test_the_last_of_two_equal_names_counts_even_if_it_is_long(second, members, long):
    scanner = ObjectScanner(max_value=64)
    _fed(scanner, b'{"a": 1, "a": ' + second + b"}")
    assert scanner.members == members
    assert scanner.long_members == long
