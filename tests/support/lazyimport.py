"""Modules that are imported when a test uses them, not by each process that collects the tests."""

import importlib
import importlib.util

import pytest

ASKED_BY_COLLECTION = {"hypothesis", "is_hypothesis_test", "pytestmark"}


class _Lazy:
    """Stands for a module; the first of its attributes imports it."""

    def __init__(self, name):
        self._name = name

    def __getattr__(self, attribute):
        if attribute.startswith("_") or attribute in ASKED_BY_COLLECTION:
            raise AttributeError(attribute)
        return getattr(importlib.import_module(self._name), attribute)


def lazy_import(name):
    """Return what has the attributes of the module; skip the test file if it is not installed."""
    if importlib.util.find_spec(name.partition(".")[0]) is None:
        pytest.skip(f"{name} is not installed", allow_module_level=True)
    return _Lazy(name)
