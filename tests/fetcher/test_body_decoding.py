"""Decoding of compressed bodies is limited in its growth."""

import zlib

import pytest

from adepoll.errors import ResultMalformedError
from adepoll.fetcher import body_decoding
from adepoll.fetcher.body_decoding import Decoder


@pytest.mark.parametrize(("size", "allowed"), [(1_000, True), (1_001, False)])
async def test_a_small_text_may_grow_by_any_factor_up_to_a_limit(monkeypatch, size, allowed):
    monkeypatch.setattr(body_decoding, "_GROWTH_CHECKED_FROM", 1_000)
    monkeypatch.setattr(body_decoding, "_MAX_GROWTH", 2)
    encoded = [zlib.compress(b"0" * size)]

    async def read():
        return encoded.pop()

    decoder = Decoder(read, job_id="job-1")
    if allowed:
        assert await decoder.read() == b"0" * size
    else:
        with pytest.raises(ResultMalformedError, match="more than 2 times its size"):
            await decoder.read()
