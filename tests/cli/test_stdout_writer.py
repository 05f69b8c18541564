"""Lines reach stdout completely, whatever it is, and without blocking the event loop."""

import asyncio
import errno
import io
import os
import threading
from contextlib import contextmanager, redirect_stdout

import pytest

from adepoll.cli.stdout_writer import naming_stdout, write_line, write_line_async

LONG = "x" * 300_000  # more than a pipe holds


@contextmanager
def stdout_at(fd, encoding="utf-8"):
    """Make a descriptor the stdout, and close it after the block."""
    with open(fd, "w", encoding=encoding) as stream, redirect_stdout(stream):  # noqa: PTH123 - a descriptor
        yield stream


@contextmanager
def piped_stdout():
    """Make a pipe the stdout; yield the descriptors for reading and writing."""
    reading, writing = os.pipe()
    try:
        with stdout_at(writing):
            yield reading, writing
    finally:
        os.close(reading)


async def read(reading, count):
    """Return the next `count` bytes."""
    data = b""
    while len(data) < count:
        data += await asyncio.to_thread(os.read, reading, 65_536)
    return data


async def test_lines_that_do_not_block_are_written_by_this_thread(tmp_path, monkeypatch):
    monkeypatch.setattr(threading, "Thread", None)
    fd = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT)
    with stdout_at(fd, "latin-1") as stream:
        stream.write("earlier ")
        for text in ("ä", "\u20ac", LONG):
            await write_line_async(text)
    assert (tmp_path / "out").read_bytes() == b"earlier \xe4\n\\u20ac\n" + LONG.encode() + b"\n"


async def test_a_short_line_that_fits_into_a_pipe_is_written_by_this_thread(monkeypatch):
    monkeypatch.setattr(threading, "Thread", None)
    with piped_stdout() as (reading, _):
        await write_line_async("job-1")
        assert os.read(reading, 100) == b"job-1\n"


@pytest.mark.parametrize("blocking", [True, False])
async def test_a_slow_reader_does_not_block_the_loop_and_gets_every_line(blocking):
    lines = [LONG, "short", LONG]
    expected = "".join(f"{line}\n" for line in lines).encode()

    async def write():
        for line in lines:
            await write_line_async(line)

    with piped_stdout() as (reading, writing):
        os.set_blocking(writing, blocking)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(write())
            assert await read(reading, len(expected)) == expected


async def test_a_cancelled_line_is_finished_without_an_error_in_the_loop():
    loop, errors, ended = asyncio.get_running_loop(), [], asyncio.Event()
    loop.set_exception_handler(lambda _, context: errors.append(context))
    with piped_stdout() as (reading, _):
        line = asyncio.create_task(write_line_async(LONG))
        begun = await read(reading, 1)
        line.cancel()
        await asyncio.wait([line])
        (writing,) = [thread for thread in threading.enumerate() if thread.name == "adepoll-stdout"]
        await read(reading, len(LONG) + 1 - len(begun))
        await asyncio.to_thread(writing.join)
        loop.call_soon(ended.set)  # after the callback of the thread
        await ended.wait()
    assert (line.cancelled(), errors) == (True, [])


async def test_a_stdout_that_is_no_file_gets_text():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", newline="")
    with redirect_stdout(stream):
        await write_line_async("ä")
        write_line("b")
    assert stream.buffer.getvalue() == b"\\xe4\nb\n"


@pytest.mark.parametrize("text", ["job-1", LONG])
async def test_the_error_of_a_closed_pipe_names_stdout(text):
    reading, writing = os.pipe()
    os.close(reading)
    with stdout_at(writing):
        with pytest.raises(BrokenPipeError) as caught:
            await write_line_async(text)
        assert caught.value.filename == "stdout"


def test_an_error_keeps_the_name_of_its_file():
    for name, shown in (("file", "file"), (None, "stdout")):
        with pytest.raises(OSError, match="full") as caught, naming_stdout():
            raise OSError(errno.ENOSPC, "full", name)
        assert caught.value.filename == shown
