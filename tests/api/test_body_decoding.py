"""Decoding of compressed bodies is limited in size, not in ratio."""

import asyncio
import gzip
import random
import zlib
from codecs import BOM_UTF8

import pytest

from adepoll.api import body_decoding
from adepoll.api.body_decoding import Decoder
from adepoll.errors import ResultMalformedError, ResultTransferError


async def decoded(*chunks):
    left = [*chunks, b""]

    async def read():
        return left.pop(0)

    decoder = Decoder(read, job_id="job-1")
    result = b""
    while chunk := await decoder.read():
        result += chunk
    return result


@pytest.mark.parametrize(("size", "allowed"), [(1_000, True), (1_001, False)])
async def test_a_text_may_grow_by_any_factor_up_to_a_limit(monkeypatch, size, allowed):
    monkeypatch.setattr(body_decoding, "_MAX_DECODED", 1_000)
    encoded = zlib.compress(b"0" * size)
    if allowed:
        assert await decoded(encoded) == b"0" * size
    else:
        with pytest.raises(ResultMalformedError, match="more than 1000 bytes"):
            await decoded(encoded)


async def test_equal_rows_are_not_a_bomb():
    text = b'{"rows":[' + b'{"a": 1},' * 2_000_000 + b"{}]}"
    assert len(text) > 343 * len(gzip.compress(text))
    assert await decoded(gzip.compress(text)) == text


async def test_a_chunk_may_be_of_any_size():
    text = b"{" + random.Random(1).randbytes(4_000_000)
    assert await decoded(gzip.compress(text)) == text


async def test_endless_members_without_text_are_malformed(monkeypatch):
    monkeypatch.setattr(body_decoding, "_MAX_WITHOUT_TEXT", 10_000)
    with pytest.raises(ResultMalformedError, match="hardly any"):
        await decoded(*[gzip.compress(b"")] * 1_000)


@pytest.mark.parametrize(
    "encoded",
    [gzip.compress(b"{" + b"0" * 99) * 1_000, zlib.compress(b"{" + b"0" * 250_000_000)],
    ids=["many members", "much text"],
)
async def test_other_tasks_run_while_one_chunk_is_decoded(encoded):
    turns = 0

    async def take_turns():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def read():
        return left.pop()

    left = [b"", encoded]
    decoder = Decoder(read, job_id="job-1")
    task = asyncio.create_task(take_turns())
    while await decoder.read():
        pass
    task.cancel()
    assert turns > 50


PADDINGS = [b"\0" * 600, b"\r\n", b"\x1f", b"\x1f\x8b", b"\x1f\x8bjunk" * 9, b"{}", b"xx", b"x\x9c"]


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("wbits", [31, 15, -15])
async def test_bytes_after_the_compressed_data_are_ignored(padding, wbits):
    """gzip(1), curl and urllib3 ignore them, too."""
    text = b'{"rows": [' + b'{"a": 1}, ' * 50 + b"{}]}"
    encoded = zlib.compress(text, wbits=wbits) + padding
    assert await decoded(encoded) == text
    assert await decoded(*(bytes([byte]) for byte in encoded)) == text


async def test_padding_is_not_read_to_its_end():
    async def read():
        return next(chunks, b"\0")

    chunks = iter([gzip.compress(b"{}")])
    decoder = Decoder(read, job_id="job-1")
    assert [await decoder.read() for _ in range(3)] == [b"{}", b"", b""]


@pytest.mark.parametrize("cut", [1, 9, 60])
async def test_a_cut_member_is_a_failed_transfer(cut):
    text = bytes(range(256)) * 8
    member = gzip.compress(text)
    with pytest.raises(ResultTransferError, match="ended within their encoding") as caught:
        await decoded(member, member[:-cut])
    assert caught.value.is_object_at_fault


@pytest.mark.parametrize("text", [b"{}", b'\r\n {"a": 1}', b"\t{}" + b" " * 100, BOM_UTF8 + b"{}"])
async def test_a_text_that_is_not_encoded_is_left_unchanged(text):
    assert await decoded(text) == text
    assert await decoded(*(bytes([byte]) for byte in text)) == text


@pytest.mark.parametrize("level", [0, 1, 9])
async def test_deflate_without_a_header_is_decoded(level):
    """Some servers send it as deflate, and browsers, curl and aiohttp decode it (RFC 9110, 8.4)."""
    text = b'{"rows": [' + b'{"a": 1}, ' * 5_000 + b"{}]}"
    encoded = zlib.compress(text, level, wbits=-15)
    assert await decoded(encoded) == text
    assert await decoded(encoded[:1], encoded[1:2], encoded[2:]) == text


@pytest.mark.parametrize("wbits", [31, 15, -15])
async def test_text_that_zlib_holds_after_the_last_byte_is_not_lost(wbits):
    """A step returns at most 256 KiB, and a few bits can stand for hundreds of characters."""
    for size in range(2**18 + 200, 2**18 + 800, 19):
        text = b"{" + b"0" * size
        assert await decoded(zlib.compress(text, 9, wbits=wbits)) == text


@pytest.mark.parametrize("size", [10, 1_000, 30_000])
async def test_the_work_for_a_member_does_not_depend_on_the_bytes_after_it(monkeypatch, size):
    """zlib copies the bytes after the end of a member."""
    given, real = [], zlib.decompressobj

    class Decompressor:
        def __init__(self, wbits):
            self._real = real(wbits)

        def decompress(self, piece, most):
            given.append(len(piece))
            return self._real.decompress(piece, most)

        def __getattr__(self, name):
            return getattr(self._real, name)

    monkeypatch.setattr(zlib, "decompressobj", Decompressor)
    member = gzip.compress(b"{" + bytes(random.Random(1).choices(b"0123456789", k=size)))
    count = 400_000 // len(member)
    text = await decoded(member * count)
    assert len(text) == count * (size + 1)
    assert sum(given) <= 2**20 + 4 * count * max(512, len(member))
