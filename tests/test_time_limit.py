"""A test that hangs fails when its time limit is over, and shows where it hangs."""

from pathlib import Path

pytest_plugins = ["pytester"]

PROJECT = Path(__file__).parents[1] / "pyproject.toml"
SUPPORT = Path(__file__).with_name("support")
HANGING = """
    import asyncio
    import threading

    def wait_in_a_thread():
        threading.Event().wait()

    async def wait_in_a_task():
        threading.Thread(target=wait_in_a_thread, daemon=True).start()
        await asyncio.get_running_loop().create_future()

    async def test_hanging():
        await asyncio.create_task(wait_in_a_task())

    def test_next():
        pass
"""


def test_every_test_has_a_limit(request):
    assert 0 < float(request.config.getini("timeout")) <= 300


def test_a_hanging_test_fails_and_shows_the_stacks_of_threads_and_tasks(pytester):
    """With the options of this project, in a worker of pytest-xdist; the next test still runs."""
    pytester.makepyfile(HANGING)
    pytester.makeconftest("from stacks import pytest_runtest_makereport")
    options = [
        *("-c", PROJECT),
        *("--rootdir", pytester.path),
        *("-o", f"pythonpath={SUPPORT}"),
    ]
    result = pytester.runpytest_subprocess(
        *options, "-o", "timeout=2", "-n", "1", pytester.path, timeout=120
    )
    result.assert_outcomes(passed=1, failed=1)
    before, _, after = result.stdout.str().partition("Stacks of all threads and asyncio tasks")
    assert "Failed: Timeout (>2.0s) from pytest-timeout." in before
    assert ", in wait_in_a_thread\n" in after
    assert ", in wait_in_a_task\n" in after
