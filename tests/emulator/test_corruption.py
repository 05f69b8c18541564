"""Bytes made bad: the same seed spoils in the same way, and the codec never lets it through."""

import contextlib
import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adepoll.api.kinds import v1_extract
from adepoll.api.models import JobStatus
from adepoll.emulator import Corruption, Distortion, JobPlan, Outcome, World
from adepoll.emulator.corruption import content_type, corrupt, distort, shift
from adepoll.errors import MalformedAnswerError

REFUSED = {
    Corruption.HTML,
    Corruption.INVALID_JSON,
    Corruption.EMPTY_BODY,
    Corruption.NOT_AN_OBJECT,
    Corruption.MISSING_STATUS,
    Corruption.NAN,
    Corruption.HUGE_INTEGER,
    Corruption.DEEP_NESTING,
}

world = World(clock=lambda: 1_750_000_000.0)
BODIES = [
    world.job_json(world.submit(JobPlan(outcome=outcome, processing_time=time)))[1]
    for outcome in Outcome
    for time in (0, 10)
]
PAGE = json.dumps(world.page(), separators=(",", ":")).encode()

bodies = st.sampled_from(BODIES)
seeds = st.integers(0, 1_000)


def test_only_a_page_of_html_says_that_it_is_one():
    types = {kind: content_type(kind) for kind in Corruption}
    assert types.pop(Corruption.HTML) == "text/html"
    assert set(types.values()) == {"application/json"}


@pytest.mark.parametrize("kind", Corruption)
@given(body=bodies, seed=seeds)
def test_the_same_seed_spoils_in_the_same_way_and_something_is_wrong(kind, body, seed):
    spoilt = corrupt(kind, body, random.Random(seed))
    assert spoilt == corrupt(kind, body, random.Random(seed))
    if kind is not Corruption.BACKWARD_STATUS:
        assert spoilt != body


@pytest.mark.parametrize("kind", Corruption)
@given(body=bodies, seed=seeds)
def test_the_codec_reads_it_or_says_that_it_is_malformed(kind, body, seed):
    spoilt = corrupt(kind, body, random.Random(seed))
    if kind in REFUSED:
        with pytest.raises(MalformedAnswerError):
            v1_extract.decode_job(spoilt)
        return
    before, after = v1_extract.decode_job(body), v1_extract.decode_job(spoilt)
    assert (after.job_id == before.job_id) == (kind is not Corruption.WRONG_JOB_ID)
    assert (after.status is JobStatus.UNKNOWN) == (kind is Corruption.UNKNOWN_STATUS)
    if kind is Corruption.BACKWARD_STATUS:
        assert not after.is_terminal
    if kind in {Corruption.DUPLICATE_KEYS, Corruption.LONE_SURROGATE}:
        assert after.status is before.status


@pytest.mark.parametrize("kind", Corruption)
@given(seed=seeds)
def test_pages_are_spoilt_without_a_crash(kind, seed):
    for page in (PAGE, b'{"jobs":[],"org_id":null,"has_more":false}'):
        if kind is Corruption.BACKWARD_STATUS:  # is of single jobs
            assert corrupt(kind, page, random.Random(seed)) == page
        with contextlib.suppress(MalformedAnswerError):
            v1_extract.decode_page(corrupt(kind, page, random.Random(seed)))


@given(seed=seeds)
def test_distortions_keep_every_item_as_it_is(seed):
    page = json.loads(PAGE)
    for kind in Distortion:
        distorted = distort(kind, page, random.Random(seed))
        assert distorted.keys() == page.keys()
        assert all(job in page["jobs"] for job in distorted["jobs"])
        moved = shift(kind, random.Random(seed))
        assert (moved != 0) == (kind is Distortion.SHIFTING_PAGES)


@given(body=bodies, kinds=st.lists(st.sampled_from(Corruption), max_size=6), seed=seeds)
def test_what_is_spoilt_already_can_be_spoilt_again(body, kinds, seed):
    for kind in kinds:
        body = corrupt(kind, body, random.Random(seed))
    with contextlib.suppress(MalformedAnswerError):
        v1_extract.decode_job(body)
