"""File names of results."""

import hashlib

import pytest

from adepoll.api.file_names import result_name


@pytest.mark.parametrize("job_id", ["a", "a" * 200, "é" * 100])
def test_the_file_name_of_a_short_id_is_the_id(job_id):
    assert result_name(job_id) == f"{job_id}.json"


@pytest.mark.parametrize(
    ("job_id", "head"),
    [("a" * 201, "a" * 100), ("é" * 100 + "a", "é" * 50), ("a" + "é" * 100, "a" + "é" * 49)],
)
def test_the_file_name_of_a_long_id_is_its_first_100_bytes_and_a_hash(job_id, head):
    digest = hashlib.sha256(job_id.encode()).hexdigest()
    assert result_name(job_id) == f"{head}-{digest[:32]}.json"
