"""The processes of pytest-xdist share the work of compiling the tests in a new checkout.

All processes collect all tests. If they did so in the same order, each process would compile each
file, because the others finish it at the same time.
"""

import zlib

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


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    """Give a process of pytest-xdist the seed of all processes; a conftest registers this hook."""
    node.workerinput["order_seed"] = node.config.option.order_seed


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Sort the tests by file, and put those of a file into an order that `--order-seed` draws.

    pytest-xdist requires the same order in each process. Neighbouring files use the same browser
    and the same fork server, so they should run in the same process. A part of the tests has the
    same order as in a run of all tests. A conftest that imports this function registers it.
    """
    seed = getattr(config, "workerinput", vars(config.option))["order_seed"]
    items.sort(key=lambda item: (item.path, zlib.crc32(f"{seed} {item.nodeid}".encode())))
