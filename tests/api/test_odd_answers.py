"""What is logged about answers that adepoll cannot read completely, and how often."""

import json
import logging

import pytest

from adepoll.api.kinds.v1_extract import V1_EXTRACT
from adepoll.api.odd_answers import OddAnswers, is_error, unread_fields

JOB = {"job_id": "j-1", "status": "processing", "received_at": 1, "progress": 0.0}


def job(**fields):
    return V1_EXTRACT.decode_job(json.dumps({**JOB, **fields}), 200)


def page(*jobs):
    return V1_EXTRACT.decode_page(json.dumps({"jobs": [{**JOB, **fields} for fields in jobs]}))


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.WARNING, logger="adepoll.api")
    return lambda: [record.getMessage() for record in caplog.records]


def test_an_unknown_status_is_logged_once(lines):
    odd = OddAnswers()
    for status in ("frozen", "frozen", "processing", "melting\n", "frozen"):
        answer = job(status=status)
        assert odd.checked(answer) is answer
    assert [line.split(", ")[1] for line in lines()] == [
        "'frozen'; jobs with it count as active",
        "'melting\\\\n'; jobs with it count as active",
    ]


def test_at_most_twenty_unknown_statuses_are_logged(lines):
    odd = OddAnswers()
    for number in range(30):
        odd.checked(job(status=f"s{number}"))
    assert len(lines()) == 20


def test_a_field_that_cannot_be_read_is_logged_once_with_its_path(lines):
    odd = OddAnswers()
    for _ in range(2):
        odd.checked(job(progress="much", received_at=1))
        odd.checked(job(received_at=1, data={"extraction": {}, "metadata": {"credit_usage": []}}))
    paths = [line.split("a value for ")[1].split(" that")[0] for line in lines()]
    assert paths[0] == "$.progress"
    assert len(paths) == len(set(paths)) == 2
    assert paths[1].startswith("$.data")


def test_unknown_fields_are_not_logged(lines):
    odd = OddAnswers()
    for answer in (job(new_field=1), page({}, {"new_field": 2}), job()):
        assert odd.checked(answer) is answer
    assert lines() == []


@pytest.mark.parametrize(
    ("fields", "paths"),
    [
        ({}, []),
        ({"progress": "much"}, ["$.progress"]),
        ({"output_url": 7, "data": 8}, ["$.data", "$.output_url"]),
        ({"new": 7}, []),
    ],
)
def test_the_paths_of_unread_fields_are_sorted(fields, paths):
    assert unread_fields(job(**fields)) == paths


@pytest.mark.parametrize(
    ("value", "result"),
    [
        ({"code": "c", "message": "m"}, True),
        ({"code": "c"}, True),
        ({}, True),
        ({"code": "c", "other": 1}, False),
        ("code", False),
        (None, False),
    ],
)
def test_an_error_object_has_a_code_and_a_message_only(value, result):
    assert is_error(value) is result
