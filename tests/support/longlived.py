"""Keep the garbage collector away from what lives until the end: collected tests, and modules.

Hundreds of tests call `gc.collect`. Each call would visit the objects of all tests and modules. A
conftest that imports these functions registers them as hooks.
"""

import gc
import sys

import pytest

MANY = 20  # imported modules since the last time; fewer cost less than finding them


class _Frozen:
    modules = 0  # number of modules that were imported when objects were frozen


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Collect no garbage during the collection of tests, which creates hardly any."""
    gc.disable()
    try:
        return (yield)
    finally:
        freeze()  # first: as soon as it is enabled, the collector would visit all new objects
        gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol():
    """Freeze the objects of the modules that a test has imported, after its teardown."""
    result = yield
    if len(sys.modules) >= _Frozen.modules + MANY:
        gc.collect()
        freeze()
    return result


def freeze():
    """Exclude all present objects from future collections."""
    gc.freeze()
    _Frozen.modules = len(sys.modules)
