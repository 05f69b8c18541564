"""Corrupted bodies: the same seed gives the same bytes, and the codec detects them."""

import contextlib
import itertools
import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adepoll import JobKind
from adepoll.api.kinds.registry import RULES
from adepoll.api.models import JobStatus
from adepoll.emulator import KINDS, Corruption, JobPlan, ListDistortion, Outcome, World
from adepoll.emulator.corruption import content_type, corrupt, distort, shift
from adepoll.errors import MalformedAnswerError

DETECTED = {
    Corruption.HTML,
    Corruption.INVALID_JSON,
    Corruption.EMPTY_BODY,
    Corruption.NOT_AN_OBJECT,
    Corruption.MISSING_STATUS,
    Corruption.DEEP_NESTING,
}

world = World(clock=lambda: 1_750_000_000.0)
BODIES = {
    RULES[JobKind.named(name)]: [
        world.job_json(world.submit(JobPlan(outcome=outcome, processing_time=time), kind=name))[1]
        for outcome in Outcome
        if outcome in kind.outcomes
        for time in (0, 10)
    ]
    for name, kind in KINDS.items()
}
PAGES = {
    rules: json.dumps(world.page(kind=rules.kind), separators=(",", ":")).encode()
    for rules in BODIES
}
EMPTY_PAGE = b'{"jobs":[],"org_id":null,"has_more":false}'

bodies = st.sampled_from([(rules, body) for rules, found in BODIES.items() for body in found])
seeds = st.integers(0, 1_000)


def test_only_html_has_the_content_type_of_html():
    types = {kind: content_type(kind) for kind in Corruption}
    assert types.pop(Corruption.HTML) == "text/html"
    assert set(types.values()) == {"application/json"}


@pytest.mark.parametrize("kind", Corruption)
@given(body=bodies, seed=seeds)
def test_the_same_seed_gives_the_same_wrong_body(kind, body, seed):
    _, body = body
    corrupted = corrupt(kind, body, random.Random(seed))
    assert corrupted == corrupt(kind, body, random.Random(seed))
    if kind is not Corruption.BACKWARD_STATUS:
        assert corrupted != body


@pytest.mark.parametrize("kind", Corruption)
@given(body=bodies, seed=seeds)
def test_the_codec_reads_a_corrupted_job_or_raises_an_error(kind, body, seed):
    rules, body = body
    corrupted = corrupt(kind, body, random.Random(seed))
    if kind in DETECTED:
        with pytest.raises(MalformedAnswerError):
            rules.decode_job(corrupted, 200)
        return
    before, after = rules.decode_job(body, 200), rules.decode_job(corrupted, 200)
    assert (after.job_id == before.job_id) == (kind is not Corruption.WRONG_JOB_ID)
    assert (after.status is JobStatus.UNKNOWN) == (kind is Corruption.UNKNOWN_STATUS)
    if kind is Corruption.BACKWARD_STATUS:
        assert not after.is_terminal
    if kind in {Corruption.DUPLICATE_KEYS, Corruption.LONE_SURROGATE}:
        assert after.status is before.status


@pytest.mark.parametrize("kind", Corruption)
@given(seed=seeds)
def test_a_corrupted_page_is_read_or_raises_an_error(kind, seed):
    for rules, page in [*PAGES.items(), *((rules, EMPTY_PAGE) for rules in PAGES)]:
        # The first concerns single jobs only; the second needs a progress to replace.
        if kind is Corruption.BACKWARD_STATUS or (kind is Corruption.NAN and page is EMPTY_PAGE):
            assert corrupt(kind, page, random.Random(seed)) == page
        with contextlib.suppress(MalformedAnswerError):
            rules.decode_page(corrupt(kind, page, random.Random(seed)))


@given(seed=seeds)
def test_list_distortions_do_not_change_the_items(seed):
    for page, kind in itertools.product(map(json.loads, PAGES.values()), ListDistortion):
        distorted = distort(kind, page, random.Random(seed))
        assert distorted.keys() == page.keys()
        assert all(job in page["jobs"] for job in distorted["jobs"])
        moved = shift(kind, random.Random(seed))
        assert (moved != 0) == (kind is ListDistortion.SHIFTING_PAGES)


@given(body=bodies, kinds=st.lists(st.sampled_from(Corruption), max_size=6), seed=seeds)
def test_a_corrupted_body_can_be_corrupted_again(body, kinds, seed):
    rules, body = body
    for kind in kinds:
        body = corrupt(kind, body, random.Random(seed))
    with contextlib.suppress(MalformedAnswerError):
        rules.decode_job(body, 200)
