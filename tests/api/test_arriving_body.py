"""ArrivingBody: what it does with the chunks of a body, in virtual time."""

import asyncio
from types import SimpleNamespace

import pytest

from adepoll.api.arriving_body import ArrivingBody
from adepoll.api.received_result import ReadAnswer
from adepoll.emulator import run
from adepoll.throttling.hosts import Sent

ANSWER = ReadAnswer(body=b"{}", is_partial=False, result=None)


class Content:
    """The chunks of a body, which arrive one second apart."""

    read = None  # only a real reader of large answers uses it

    def __init__(self, chunks):
        self.chunks = [*chunks]

    async def readany(self):
        await asyncio.sleep(1.0)
        return self.chunks.pop(0) if self.chunks else b""


class Large:
    """A reader of large answers, which keeps the chunks that it gets from ArrivingBody."""

    chunks = None

    async def read(self, chunks, read, received, *, job_id):
        self.chunks = [*chunks]
        return ANSWER


def read(*chunks, declared=None):
    """Read a body with a limit of 10 bytes; return its bytes, its record, and the reader."""

    async def main():
        response = SimpleNamespace(content_length=declared, content=Content(chunks))
        sent = Sent(0.0, 0, None, is_probe=False)
        large = Large()
        body, answer = await ArrivingBody(response, sent, restart=None).read(
            10, lambda: large, job_id="j-1"
        )
        assert answer is (None if large.chunks is None else ANSWER)
        return body, sent, large

    return run(main())


def test_every_chunk_counts_as_a_sign_of_life():
    body, sent, _ = read(b"abcd", b"efgh")
    assert body == b"abcdefgh"
    assert sent.heard_at == 2.0


@pytest.mark.parametrize(("declared", "chunks"), [(11, []), (None, [b"abcdef", b"ghijk"])])
def test_a_body_is_not_collected_if_it_is_declared_as_large(declared, chunks):
    body, _, large = read(b"abcdef", b"ghijk", b"lmn", declared=declared)
    assert (body, large.chunks) == (b"{}", chunks)


def test_a_body_of_the_largest_size_is_not_large():
    body, _, large = read(b"abcdef", b"ghij", declared=10)
    assert (body, large.chunks) == (b"abcdefghij", None)


def test_the_time_limit_starts_again_after_each_64_kib_of_a_large_answer():
    restarts, heard = [], []

    async def main():
        sent = Sent(0.0, 0, None, is_probe=False)
        arriving = ArrivingBody(
            SimpleNamespace(content_length=99, content=Content([])),
            sent,
            restart=restarts.append,
        )

        class Reader:
            async def read(self, _chunks, _read, received, *, job_id):
                for size in (2**16 - 1, 1, 2**16, 2**16 - 1, 2**16, 5):
                    await asyncio.sleep(1.0)
                    received(size)
                    heard.append(sent.heard_at)
                return ANSWER

        assert await arriving.read(10, Reader, job_id="j-1") == (b"{}", ANSWER)
        return arriving.size

    assert run(main()) == 4 * 2**16 + 4
    assert restarts == [2.0, 3.0, 5.0]
    assert heard == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]


def test_a_response_counts_as_heard_before_its_body():
    """A body that is declared as large is not read here."""
    _, sent, large = read(declared=11)
    assert (sent.heard_at, large.chunks) == (0.0, [])
