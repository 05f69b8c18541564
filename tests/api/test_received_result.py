"""ReceivedResult: the bytes of a result as the service has sent them."""

import copy
import pickle

import pytest

from adepoll import JobKind
from adepoll.api.kinds.registry import RULES
from adepoll.api.protocol import read_job
from adepoll.api.received_result import ReceivedResult

RESULT = b'{ "markdown" : "\\u00e9\xc3\xa9 sig=abc", "x":1.50, "output":{}, "extraction" : [ ]}'


def received(body, kind=JobKind.V2_PARSE):
    return read_job(RULES[kind], "j", 200, {}, body).received_result


@pytest.mark.parametrize("kind", JobKind.all())
def test_the_result_of_every_kind_is_cut_out_byte_for_byte(kind):
    name = RULES[kind].result_field.encode()
    body = b'{"job_id":"j","progress":1, "%b" :%b,"status":"completed"}' % (name, RESULT)
    assert received(body, kind).read() == RESULT


def test_a_result_under_its_old_name_is_found():
    body = b'{"job_id":"j","status":"completed","result":null,"data":%b}' % RESULT
    assert received(body).read() == RESULT


@pytest.mark.parametrize(
    "body",
    [
        b'{"job_id":"j","status":"completed","result":1,"result":%b}' % RESULT,
        '{"job_id":"j","status":"completed","result":{"markdown":""}}'.encode("utf-16"),
        b'{"job_id":"j","status":"completed",%b"result":%b}' % (b'"a":1,' * 300, RESULT),
    ],
)
def test_a_result_that_cannot_be_cut_out_has_no_bytes(body):
    assert received(body).read() is None


def test_an_answer_without_a_result_has_no_bytes():
    assert received(b'{"job_id":"j","status":"pending"}') is None


def test_copies_that_may_be_saved_have_no_bytes():
    body = b'{"job_id":"j","status":"completed","result":%b}' % RESULT
    job = read_job(RULES[JobKind.V2_PARSE], "j", 200, {}, body)
    assert job.redacted().received_result is None
    assert job.without_data().received_result is None
    assert "abc" not in repr(job)
    for twin in (copy.deepcopy(job), pickle.loads(pickle.dumps(job))):
        assert twin.received_result == ReceivedResult(body, ("result", "data"))
