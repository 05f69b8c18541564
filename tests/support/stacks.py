"""The stacks of all threads and asyncio tasks, in the report of a test that exceeds its limit.

pytest-timeout prints the threads to a terminal, which a worker of pytest-xdist does not have.
"""

import asyncio
import gc
import io
import sys
import threading
import traceback

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Add the stacks to the report; a conftest that imports this function registers it."""
    report = yield
    if call.excinfo is not None and "from pytest-timeout" in str(call.excinfo.value):
        report.sections.append(("Stacks of all threads and asyncio tasks", stacks()))
    return report


def stacks():
    """Return the stacks as text; a task that is done has none."""
    out = io.StringIO()
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():
        out.write(f"Thread {names.get(ident, ident)}:\n")
        traceback.print_stack(frame, file=out)
    for task in gc.get_objects():
        if isinstance(task, asyncio.Task) and not task.done():
            task.print_stack(file=out)
    return out.getvalue()
