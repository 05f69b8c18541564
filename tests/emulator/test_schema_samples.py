"""Random values that conform to a JSON schema."""

from random import Random

import pytest

from adepoll.emulator.schema_samples import invoice, sample_of

ITSELF = {"$ref": "#/$defs/part"}


@pytest.mark.parametrize(
    "part",
    [{"type": "array", "items": ITSELF}, {"type": "object", "properties": {"a": ITSELF}}],
    ids=["array", "object"],
)
def test_values_of_a_schema_that_contains_itself_are_null_below_eight_levels(part):
    value, levels = sample_of(ITSELF | {"$defs": {"part": part}}, Random(0)), -1
    while value is not None:
        value = next(iter(value if isinstance(value, list) else value.values()))
        levels += 1
    assert levels == 8


def test_an_amount_of_money_has_two_decimals():
    for seed in range(20):
        total = invoice(Random(seed))["total"]
        assert total == round(total, 2) < 100_000


@pytest.mark.parametrize("kind", [{"a": 1}, 5, None, [], [["integer"]]])
def test_a_type_that_is_not_a_text_is_ignored(kind):
    assert isinstance(sample_of({"type": kind}, Random(0)), str)


def test_an_enum_that_is_not_an_array_is_ignored():
    assert isinstance(sample_of({"enum": "ab", "type": "integer"}, Random(0)), int)
