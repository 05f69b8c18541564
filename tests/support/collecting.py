"""The processes of pytest-xdist share the work of compiling the tests in a new checkout.

All processes collect all tests. If they did so in the same order, each process would compile each
file, because the others finish it at the same time.
"""

import pytest


def start_elsewhere(config):
    """Let each process start at another test file; it finds the others compiled."""
    worker = getattr(config, "workerinput", None)  # only the processes of pytest-xdist have it
    if worker is None or config.args_source is not config.ArgsSource.TESTPATHS:
        return
    files = sorted(str(path) for path in (config.rootpath / "tests").rglob("test_*.py"))
    number = int(worker["workerid"].removeprefix("gw"))
    first = len(files) * number // worker["workercount"]
    config.args[:] = files[first:] + files[:first]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(items):
    """Put the tests into the same order in each process, as pytest-xdist requires.

    pytest-random-order shuffles them with a seed that all processes share. The tests of a file are
    then in random order. The files are not: neighbours use the same browser and the same fork
    server, so they should run in the same process. A conftest that imports this function registers
    it as a hook.
    """
    _sort_by_file(items)
    result = yield
    _sort_by_file(items)
    return result


def _sort_by_file(items):
    items.sort(key=lambda item: item.path)  # the order within a file stays as it is
