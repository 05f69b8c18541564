"""Declarations of the fields of models."""

import json

import pytest
from attrs import field, frozen

from adepoll.api.json_fields import Model, fields_of
from adepoll.api.kinds.v1_parse import V1_PARSE


@frozen
class Odd(Model):
    """A model whose objects would share one list."""

    items: tuple[int, ...] = field(factory=tuple)


def test_a_field_needs_a_constant_default():
    with pytest.raises(TypeError, match="items needs a constant default"):
        fields_of(Odd)


@pytest.mark.parametrize(
    ("pages", "read"),
    [
        ([1, 2**53], (1, 2**53)),
        ([-(2**53), 1], (-(2**53), 1)),
        ([1, 10**400], (1,)),  # longer than any number of pages
        ([-(10**400), 1], (1,)),
        ([1, 10**400, 2], (1, 2)),
        ([True, 1], (1,)),
        ([1.0, 2], (1, 2)),
    ],
)
def test_huge_numbers_are_left_out_of_an_array_and_kept_as_json(pages, read):
    job = {"job_id": "j", "status": "completed", "received_at": 1, "output_url": "https://s/x"}
    body = json.dumps({**job, "metadata": {"filename": "a", "failed_pages": pages}})
    metadata = V1_PARSE.decode_job(body, 200).metadata
    assert metadata.failed_pages == read
    assert metadata.extra == ({} if len(read) == len(pages) else {"failed_pages": pages})


@pytest.mark.parametrize(
    ("seconds", "year"),
    [(1, 1970), (2 * 10**10, 2603), (10**11 - 1, 5138), (10**11, 1973), (0, None)],
)
def test_larger_timestamps_are_milliseconds(seconds, year):
    job = {"job_id": "j", "status": "processing", "received_at": seconds, "progress": 0.0}
    received_at = V1_PARSE.decode_job(json.dumps(job), 200).received_at
    assert (received_at and received_at.year) == year
