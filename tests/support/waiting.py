"""Waits that end: with what was waited for, or with a failure that names it."""

import asyncio
import os
import signal
import threading
from contextlib import asynccontextmanager, suppress

LONGEST = 240  # seconds that a test may take with one process, on a busy machine


@asynccontextmanager
async def bounded(what, longest=60):
    """Fail if the block takes longer than `longest` seconds; `what` is a text or a function."""
    try:
        async with asyncio.timeout(longest) as limit:
            yield
    except TimeoutError:
        if not limit.expired():
            raise
        text = what if isinstance(what, str) else what()
        raise AssertionError(f"after {longest} s the test still waits: {text}") from None


async def until(condition, *, pause=0.002, longest=60):
    """Wait until the condition is true."""
    code = getattr(condition, "__code__", None)
    name = f"{code.co_filename}:{code.co_firstlineno}" if code else condition
    async with bounded(f"for {name} to be true", longest):
        while not condition():  # noqa: ASYNC110 - nothing tells when it becomes true
            await asyncio.sleep(pause)


@asynccontextmanager
async def supervised(process, longest=LONGEST, *, group=False):
    """Kill the process after the block, or when the block takes longer than `longest` seconds.

    In the second case, the test fails, and shows the output of the process that it has not read.
    With `group`, kill also the processes that it has started; it needs ``process_group=0``.
    """
    try:
        async with asyncio.timeout(longest) as limit:
            yield process
    except TimeoutError:
        if not limit.expired():
            raise
        state = "runs" if process.returncode is None else f"has ended with {process.returncode}"
        unread = await _killed(process, group=group)
        raise AssertionError(
            f"after {longest} s the test still waits: process {process.pid} {state}, "
            f"and the test has not read {unread}"
        ) from None
    finally:
        if group or process.returncode is None:
            await _killed(process, group=group)


def first_lines(process, count, longest=60):
    """Return the first `count` lines of the stdout of a `subprocess.Popen`.

    Kill the process and fail if this takes longer than `longest` seconds, or the process ends
    before.
    """
    limit = threading.Timer(longest, process.kill)
    limit.start()
    try:
        lines = [process.stdout.readline().decode() for _ in range(count)]
    finally:
        limit.cancel()
    if not all(lines):
        process.kill()
        raise AssertionError(f"within {longest} s the process has written only {lines}")
    return lines


async def _killed(process, *, group):
    """Kill the process or its group; return what is left of its stdout and stderr."""
    with suppress(ProcessLookupError):
        if group:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    with suppress(TimeoutError):
        async with asyncio.timeout(10):  # a process that it has started may hold its pipes
            try:
                return await process.communicate()
            except RuntimeError:  # another task of the test reads from it
                await process.wait()
    return "anything: something else has its pipes"
