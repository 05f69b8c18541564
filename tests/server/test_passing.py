"""What browsers need beside the bytes of a result; the rest is in tests/contrib/test_servers.py."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from adepoll import AdeClient, ResultFetcher
from adepoll.emulator import JobPlan
from adepoll.server.passing import _attachment, _names, passage


@given(st.text(max_size=400))
def test_any_file_name_makes_a_header_of_one_line(name):
    header = _attachment(name)
    assert re.fullmatch(r'attachment; filename="[\w.-]*"(; filename\*=UTF-8\'\'[\w.%~-]*)?', header)
    assert header.isascii()


@pytest.mark.parametrize(
    ("header", "etag", "named"),
    [
        ('"a"', '"a"', True),
        ('W/"a"', '"a"', True),
        ('"b", "a"', 'W/"a"', True),
        ("*", '"a"', True),
        ('"b"', '"a"', False),
        ("*", None, False),
        (None, '"a"', False),
    ],
)
def test_weak_names_are_good_enough_for_what_is_not_sent_again(header, etag, named):
    assert _names(header, etag) == named


@pytest.mark.parametrize(("method", "has_body"), [("GET", True), ("HEAD", False)])
async def test_head_has_the_headers_and_no_body(ade, method, has_body):
    job_id = ade.submit(JobPlan())
    async with (
        AdeClient(ade.api_key, base_url=ade.base_url) as client,
        ResultFetcher(client) as fetcher,
        passage(fetcher, job_id, method=method, headers=CIMultiDict()) as answer,
    ):
        assert answer.status == 200
        assert int(answer.headers["Content-Length"]) > 0
        assert (answer.chunks is not None) == has_body
