"""Which columns values give, and that a block of them gives the same as one after the other."""

from decimal import Decimal

import pytest
from fuzzing import counted_calls
from hypothesis import given, settings
from hypothesis import strategies as st

from adepoll.tables import inference
from adepoll.tables.column_types import (
    DecimalType,
    ListType,
    Scalar,
    StructType,
    converter,
    name_of,
)
from adepoll.tables.inference import columns_of
from adepoll.tables.observation import Observer

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.decimals(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", "x", "2026-02-28", "2026-02-28T10:00:00Z"])
)
KEYS = st.sampled_from("abc")
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (Scalar.INTEGER, "integer"),
        (Scalar.MIXED, "text"),
        (DecimalType(20, 2), "decimal(20, 2)"),
        (ListType(ListType(Scalar.DATE)), "list of list of date"),
        (ListType(StructType({"a": Scalar.TEXT})), "list of object"),
    ],
)
def test_messages_name_the_types_of_columns(kind, name):
    assert name_of(kind) == name


def observed(blocks, explode=()):
    observer = Observer(explode=explode, dates=True)
    for block in blocks:
        observer.observe(block, [f"j{id(value)}" for value in block])
    columns, conflicts = columns_of(observer, root="root", reserved=(), get=list)
    return [(column.name, column.type) for column in columns], conflicts


@given(st.lists(VALUES, max_size=5), st.sampled_from([(), [("a",)], [("a", "b")]]))
@settings(max_examples=30, deadline=None)
def test_blocks_of_any_size_give_the_same_columns_and_conflicts(values, explode):
    assert observed([values], explode) == observed([[value] for value in values], explode)


@pytest.mark.parametrize("text", ["2026-02-28", "2026-02-28T10:00:00Z"])
def test_a_text_in_an_earlier_block_prevents_a_column_of_dates(text):
    assert observed([["x"], [text]])[0] == [("root", Scalar.TEXT)]


def test_a_conflict_names_the_first_job_of_each_kind_within_a_block():
    observer = Observer()
    values = [{"a": [{"b": None}]}, {"a": [{}, {"b": 1}]}, {"a": None}, {"a": [{"b": "x"}]}]
    observer.observe(values, ["j0", "j1", "j2", "j3"])
    _, (conflict,) = columns_of(observer, root="root", reserved=(), get=list)
    assert conflict.path == "a[].b"
    assert conflict.found == {"integer": (1, "j1"), "text": (1, "j3")}


BIG = 2**53 + 1  # the smallest integer that no float is equal to


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([None], None),
        ([1, -1], Scalar.INTEGER),
        ([2**63 - 1], Scalar.INTEGER),
        ([2**63], DecimalType(19, 0)),
        ([1 - 2**63], Scalar.INTEGER),
        ([-(2**63) - 1], DecimalType(19, 0)),
        ([1, 1.5], Scalar.DOUBLE),
        ([BIG - 1, 0.5], Scalar.DOUBLE),
        ([BIG, 0.5], DecimalType(17, 1)),
        ([BIG, 0.0], DecimalType(17, 1)),
        ([BIG, 0.0001], DecimalType(20, 4)),
        ([BIG, 0.00001], DecimalType(21, 5)),
        ([BIG, 0.5, 0.00001], DecimalType(21, 5)),
        ([BIG, 0.5, 1e16], DecimalType(18, 1)),
        ([BIG, 9e15], DecimalType(17, 1)),
        ([BIG, 1e16], DecimalType(17, 0)),
        ([10**38 - 1], DecimalType(38, 0)),
        ([10**38], Scalar.MIXED),
        ([Decimal("0.1")], DecimalType(2, 1)),
        ([Decimal("0.10"), 1], DecimalType(3, 2)),
        ([Decimal("0.123456789012345678"), 1.5, 123.25], DecimalType(21, 18)),
        ([Decimal("1e-37")], DecimalType(38, 37)),
        ([Decimal("1e-38")], Scalar.MIXED),
        (["2026-02-28"], Scalar.DATE),
        (["2026-02-30"], Scalar.TEXT),
        (["2026-W09-6"], Scalar.TEXT),
        (["20260228"], Scalar.TEXT),
        (["2026-02-28T10:00:00Z"], Scalar.TIME),
        (["2026-02-28", "2026-02-28T10:00:00Z"], Scalar.TEXT),
        (["2026-02-28", "x"], Scalar.TEXT),
        ([True, False], Scalar.BOOLEAN),
        ([True, 1], Scalar.MIXED),
        ([1, "x"], Scalar.MIXED),
        ([[1], 1], Scalar.JSON),
        ([{}], Scalar.JSON),
        ([[], [1]], ListType(Scalar.INTEGER)),
        ([[]], ListType(Scalar.TEXT)),
        ([[{"a": 1}, None]], ListType(StructType({"a": Scalar.INTEGER}, frozenset()))),
    ],
    ids=repr,
)
def test_the_type_of_a_column_is_the_smallest_that_keeps_each_value(values, kind):
    columns, conflicts = observed([values])
    assert columns == ([] if kind is None else [("root", kind)])
    assert bool(conflicts) == (kind is Scalar.MIXED or values == [[1], 1])


def test_dates_are_texts_unless_they_are_requested():
    observer = Observer()
    observer.observe(["2026-02-28"], ["j0"])
    columns, _ = columns_of(observer, root="root", reserved=(), get=list)
    assert [column.type for column in columns] == [Scalar.TEXT]


def nested(levels, wrap):
    value = 1
    for _ in range(levels):
        value = wrap(value)
    return value


@pytest.mark.parametrize("wrap", [lambda value: [value], lambda value: {"a": value}])
def test_more_than_30_levels_become_json_text(wrap):
    assert observed([[nested(30, wrap)]])[1] == []
    _, (conflict,) = observed([[nested(31, wrap)]])
    assert (conflict.reason, conflict.type) == ("too many keys or levels", "JSON text")


def test_more_than_1000_keys_of_an_object_become_json_text():
    columns, conflicts = observed([[{"o": {f"k{n}": n for n in range(1_000)}}]])
    assert (len(columns), conflicts) == (1_000, [])
    columns, (conflict,) = observed([[{"o": {f"k{n}": n for n in range(1_001)}}]])
    assert columns == [("o", Scalar.JSON)]
    assert conflict.path == "o"


def test_the_keys_of_all_objects_are_limited_too():
    def groups(last):
        keys = [999] * 9 + [last]
        return {f"g{g}": {f"k{n}": 1 for n in range(count)} for g, count in enumerate(keys)}

    # With the keys of the groups, these are 10,000 keys.
    columns, conflicts = observed([[groups(999)]])
    assert (len(columns), conflicts) == (9_990, [])
    columns, (conflict,) = observed([[groups(1_000)]])
    assert (len(columns), conflict.path) == (8_992, "g9")


def sparse(elements, keys):
    return [{f"k{number}": 1 for number in range(keys)}, *[None, {}] * ((elements - 1) // 2)]


def test_lists_whose_cells_would_fill_the_memory_become_json_text():
    """In Parquet, each element has a cell for each key that any element has."""
    full = StructType({f"k{number}": Scalar.INTEGER for number in range(1_000)})
    most = [*sparse(9_999, 1_000), {}]
    assert observed([[{"a": most}]]) == ([("a", ListType(full))], [])
    # The keys and the elements can be in different blocks, the keys also in an object within each
    # element, and the cells in several lists.
    wrapped = [{"o": row} if row else row for row in sparse(10_001, 1_000)]
    inner = [[row] for row in sparse(10_001, 1_000)]
    for blocks in (
        [[{"a": sparse(10_001, 1_000)}]],
        [[{"a": sparse(1, 1_000)}], [{"a": [{}] * 10_001}]],
        [[{"a": wrapped}]],
        [[{"a": inner}]],
    ):
        (column, *others), (conflict,) = observed(blocks)
        assert column[1] in {Scalar.JSON, ListType(Scalar.JSON)}
        assert not others
        assert (conflict.reason, conflict.type) == ("too many elements and keys", "JSON text")
    two = {"a": sparse(6_001, 1_000), "b": sparse(6_001, 1_000), "c": sparse(3_001, 1_000)}
    columns, (conflict,) = observed([[two]])
    assert columns == [("a", ListType(full)), ("b", Scalar.JSON), ("c", ListType(full))]
    assert conflict.path == "b"


def test_a_table_with_too_many_empty_cells_becomes_one_column_of_json_text(monkeypatch):
    """A result of a megabyte could otherwise become a table of a gigabyte."""
    monkeypatch.setattr(inference, "_MAX_SPARSE_CELLS", 1_000)
    rows = [{f"k{number}": 1} for number in range(20)]
    assert len(observed([rows * 5])[0]) == 20  # 2,000 cells, one of 20 has a value
    columns, (conflict,) = observed([[*rows * 5, {}]])
    assert columns == [("root", Scalar.JSON)]
    assert (conflict.reason, conflict.type) == ("too many empty cells", "JSON text")
    assert (conflict.path, conflict.found["object"][0]) == ("root", 101)
    assert len(observed([[*rows * 2, *[{}] * 10]])[0]) == 20  # a small table may be empty
    deep = [{"a": {"b": row}} for row in [*rows * 5, {}]]
    assert observed([[*deep, "x"]])[0] == [("root", Scalar.JSON)]


def test_a_list_without_objects_stays_a_list_of_any_length(monkeypatch):
    monkeypatch.setattr(inference, "_MAX_LIST_CELLS", 10)
    assert observed([[{"a": [1] * 100}]]) == ([("a", ListType(Scalar.INTEGER))], [])


def test_the_work_grows_with_the_size_and_not_with_its_square():
    """A document of a stranger can have a long table, and many keys in its last row."""
    calls = []
    for size in (200, 400):
        rows = [{"a": 1}] * size + [{f"k{number}": number for number in range(size)}]
        observer = Observer()
        with counted_calls() as count:
            observer.observe([{"rows": rows}], ["job-1"])
        calls.append(count())
    assert calls[1] <= 2.1 * calls[0] + 100


def test_an_object_is_converted_in_the_time_of_its_own_keys():
    """The objects of a list can have a thousand different keys, and each of them only one."""
    convert = converter(ListType(StructType({f"k{n}": Scalar.MIXED for n in range(1_000)})))
    with counted_calls() as count:
        assert convert([{"k7": 1}] * 100) == [{"k7": "1"}] * 100
    assert count() < 5_000


def test_the_first_job_of_each_kind_of_value_is_named():
    observer = Observer()
    observer.observe([None, {"a": [1, None]}, {"a": [{"b": "x"}]}], ["j1", "j2", "j3"])
    observer.observe([{"a": [{"b": 2}, {"b": "y"}]}, {"a": 3}], ["j4", "j5"])
    a = observer.root.children["a"]
    assert observer.root.kinds == {"object": [4, "j2"]}
    assert a.kinds == {"array": [3, "j2"], "integer": [1, "j5"]}
    assert a.items.kinds == {"integer": [1, "j2"], "object": [3, "j3"]}
    assert a.items.children["b"].kinds == {"text": [2, "j3"], "integer": [1, "j4"]}
