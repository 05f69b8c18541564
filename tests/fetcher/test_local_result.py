"""Ranges of a result that a poll has received, in memory or in a file."""

import pytest

from adepoll.api.received_result import KeptResult
from adepoll.errors import ResultRangeError, ResultTransferError
from adepoll.fetcher import local_result
from adepoll.fetcher.local_result import FileResult, InlineResult

BODY = b'{"a": 1}'


@pytest.fixture(params=["inline", "file"])
def opened(request, tmp_path):
    """Return a function that opens a range of `BODY`."""

    def open_range(start=0, stop=None, body=BODY):
        if request.param == "inline":
            return InlineResult(body, job_id="a", start=start, stop=stop)
        path = tmp_path / "kept"
        path.write_bytes(body)
        kept = KeptResult(path)
        kept.size = len(body)
        return FileResult(kept, job_id="a", start=start, stop=stop)

    return open_range


async def read_all(reader):
    chunks = []
    while chunk := await reader.read():
        chunks.append(chunk)
    assert await reader.read() == b""
    await reader.aclose()
    return b"".join(chunks)


@pytest.mark.parametrize(
    ("start", "stop"),
    [(0, None), (0, 3), (2, 5), (7, None), (7, 8), (5, 100), (-1, None), (-8, None), (-100, None)],
)
async def test_a_range_is_that_of_a_slice(opened, start, stop):
    reader = opened(start, stop)
    first, last, _ = slice(start, stop).indices(len(BODY))
    assert (reader.start, reader.stop, reader.version.size) == (first, last, len(BODY))
    assert await read_all(reader) == BODY[start:stop]
    assert (reader.received, reader.resumed) == (last - first, 0)


@pytest.mark.parametrize("start", [8, 9])
async def test_a_range_after_the_end_is_an_error(opened, start):
    with pytest.raises(ResultRangeError) as caught:
        opened(start)
    assert (caught.value.start, caught.value.size, caught.value.job_id) == (start, 8, "a")


async def test_an_empty_result_has_no_bytes(opened):
    assert await read_all(opened(body=b"")) == b""


async def test_a_file_is_read_in_parts(opened, monkeypatch):
    monkeypatch.setattr(local_result, "_READ_SIZE", 3)
    assert await read_all(opened(1, 8)) == BODY[1:8]


async def test_a_file_that_has_become_shorter_is_an_error(tmp_path):
    path = tmp_path / "kept"
    path.write_bytes(BODY[:5])
    kept = KeptResult(path)
    kept.size = len(BODY)
    reader = FileResult(kept, job_id="a", start=2)
    assert await reader.read() == BODY[2:5]
    with pytest.raises(ResultTransferError, match="has become shorter") as caught:
        await reader.read()
    assert (caught.value.received, caught.value.expected) == (3, 6)
    await reader.aclose()


async def test_a_file_that_cannot_be_opened_is_an_error(tmp_path):
    kept = KeptResult(tmp_path / "kept")  # it does not exist
    kept.size = len(BODY)
    with pytest.raises(ResultTransferError, match="No such file") as caught:
        FileResult(kept, job_id="a", start=2)
    assert (caught.value.received, caught.value.expected) == (0, len(BODY) - 2)


async def test_a_file_that_cannot_be_read_is_an_error(opened, tmp_path, monkeypatch):
    def fail(*_args):
        raise OSError(5, "the disk is broken")

    monkeypatch.setattr(local_result.file_system, "read_at", fail)
    (tmp_path / "kept").write_bytes(BODY)
    reader = FileResult(KeptResult(tmp_path / "kept"), job_id="a")
    with pytest.raises(ResultTransferError, match="the disk is broken"):
        await reader.read()
    await reader.aclose()
    assert opened  # a result in memory needs no file
