"""Results: bytes of an exact size that can be read in parts and never change."""

import hashlib
import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adepoll.emulator.kinds.emulated_kind import JobAnswer
from adepoll.emulator.kinds.v1_extract import extraction_parts

METADATA = {"filename": "a.md", "job_id": "j"}

sizes = st.one_of(st.integers(0, 8_000), st.integers(0, 60_000))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
schemas = st.recursive(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["string", "integer", "number", "boolean", "null", "odd"])}
    ),
    lambda inner: (
        st.fixed_dictionaries(
            {
                "type": st.just("object"),
                "properties": st.dictionaries(st.text(max_size=5), inner, max_size=3),
            }
        )
        | st.fixed_dictionaries({"type": st.just("array"), "items": inner})
    ),
    max_leaves=6,
)


def build(size, *, schema=None, seed=0, job_id="j"):
    parts = extraction_parts(schema, METADATA, random.Random(f"{seed}/{job_id}"))
    return parts.fit(size, modified=0.0)


SMALLEST = build(0).size


@given(size=sizes)
def test_a_result_has_exactly_the_requested_size_or_the_smallest_possible_one(size):
    body = build(size)
    assert body.size == len(body.read())
    if size >= 1_000:
        assert body.size == size
    assert SMALLEST < 1_000


@given(size=sizes)
def test_a_result_is_compact_json_with_the_documented_fields(size):
    text = build(size).read()
    data = json.loads(text)
    assert data.keys() == {"extraction", "extraction_metadata", "metadata"}
    assert data["metadata"] == METADATA
    assert isinstance(data["extraction"], dict)
    assert isinstance(data["extraction_metadata"], dict)
    assert json.dumps(data, separators=(",", ":")).encode() == text


@given(size=sizes, bounds=st.tuples(st.integers(-5, 70_000), st.integers(-5, 70_000)))
def test_a_part_equals_the_slice_of_all_bytes(size, bounds):
    body = build(size)
    start, stop = bounds
    assert body.read(start, stop) == body.read()[max(start, 0) : max(stop, 0)]


@given(size=sizes, chunk_bytes=st.integers(1, 5_000), start=st.integers(0, 2_000))
def test_chunks_add_up_to_the_requested_part(size, chunk_bytes, start):
    body = build(size)
    stop = body.size - 7
    chunks = [*body.chunks(start, stop, chunk_bytes=chunk_bytes)]
    assert b"".join(chunks) == body.read()[start:stop]
    assert all(0 < len(chunk) <= chunk_bytes for chunk in chunks)


def test_a_part_of_a_terabyte_is_read_without_building_all_of_it():
    body = build(10**12)
    assert body.size == 10**12
    assert body.read(10**12 - 2) == b"}}"
    middle = body.read(5 * 10**11, 5 * 10**11 + 3_000)
    assert len(middle) == 3_000
    assert body.read(5 * 10**11 + 1_000, 5 * 10**11 + 2_000) == middle[1_000:2_000]


def test_all_rows_differ_so_that_a_misplaced_part_is_noticed():
    rows = json.loads(build(50_000).read())["extraction"]["line_items"]
    assert len({row["row"] for row in rows}) == len(rows) > 40


def test_prices_have_two_decimals():
    for seed in range(20):
        _, row, *_ = json.loads(build(10_000, seed=seed).read())["extraction"]["line_items"]
        assert 1 <= row["price"] == round(row["price"], 2) < 10_000


def test_the_digest_covers_all_bytes():
    body = build(3_000_000)
    assert body.sha256() == hashlib.sha256(body.read()).hexdigest()


def test_bytes_and_tag_depend_on_job_size_and_seed():
    one, again = build(5_000), build(5_000)
    assert one.read() == again.read()
    assert one.etag == again.etag
    for other in (build(5_001), build(5_000, seed=1), build(5_000, job_id="k")):
        assert other.read() != one.read()
        assert other.etag != one.etag


def test_the_entity_tag_is_strong():
    etag = build(5_000).etag
    assert etag.startswith('"')
    assert etag.endswith('"')


TYPES = {"integer": int, "number": float, "boolean": bool, "null": type(None)}


def conforms(value, schema):
    if schema["type"] == "object":
        fields = schema["properties"]
        return value.keys() == fields.keys() and all(
            conforms(value[name], part) for name, part in fields.items()
        )
    if schema["type"] == "array":
        return all(conforms(item, schema["items"]) for item in value)
    return type(value) is TYPES.get(schema["type"], str)


@given(fields=st.dictionaries(st.text(max_size=5), schemas, max_size=4), size=sizes)
def test_an_extraction_conforms_to_the_schema_and_has_the_exact_size(fields, size):
    schema = {"type": "object", "properties": fields}
    body = build(size, schema=schema)
    assert body.size == max(size, build(0, schema=schema).size) == len(body.read())
    data = json.loads(body.read())
    assert conforms(data["extraction"], schema)
    assert fields.keys() <= data["extraction_metadata"].keys()


@given(schema=json_values)
def test_any_json_as_schema_gives_a_result(schema):
    data = json.loads(build(3_000, schema=schema).read())
    assert isinstance(data["extraction"], dict)
    assert data.keys() == {"extraction", "extraction_metadata", "metadata"}


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ({"const": 7}, {7}),
        ({"enum": ["a", "b"]}, {"a", "b"}),
        ({"anyOf": [{"const": 1}, {"type": "null"}]}, {1}),
        ({"$ref": "#/$defs/Deep"}, {"deep"}),
        ({"type": ["null", "string"]}, {None}),
        ({"$ref": "#/properties/field"}, None),
    ],
)
def test_a_field_follows_its_schema(field, expected):
    schema = {"properties": {"field": field}, "$defs": {"Deep": {"const": "deep"}}}
    value = json.loads(build(0, schema=schema).read())["extraction"]["field"]
    assert expected is None or value in expected


@pytest.mark.parametrize("first", [True, False, None])
def test_any_part_of_an_answer_is_that_of_a_slice(first):
    """The result is the first or the last field, or there is none."""
    if first is None:
        answer = JobAnswer(status=200, head=b'{"job_id":"j"}')
    else:
        others = {"job_id": "j", "status": "completed"}
        answer = JobAnswer.of(others, "result", build(0), status=200, first=first)
    whole = answer.read()
    assert answer.size == len(whole)
    assert next(iter(json.loads(whole))) == ("result" if first else "job_id")
    edges = {0, len(answer.head), len(whole) - len(answer.tail), len(whole)}
    offsets = sorted({max(edge + off, 0) for edge in edges for off in (-2, -1, 0, 1, 2)})
    for start in offsets:
        for stop in [*offsets, None]:
            assert answer.read(start, stop) == whole[start:stop]
