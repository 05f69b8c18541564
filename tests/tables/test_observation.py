"""Observer: a block of values gives the same columns as the same values one by one."""

from hypothesis import given, settings
from hypothesis import strategies as st

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


def test_a_conflict_names_the_first_job_of_each_kind_within_a_block():
    observer = Observer()
    values = [{"a": [{"b": None}]}, {"a": [{}, {"b": 1}]}, {"a": None}, {"a": [{"b": "x"}]}]
    observer.observe(values, ["j0", "j1", "j2", "j3"])
    _, (conflict,) = columns_of(observer, root="root", reserved=(), get=list)
    assert conflict.path == "a[].b"
    assert conflict.found == {"integer": (1, "j1"), "text": (1, "j3")}
