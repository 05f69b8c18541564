"""The journal of a batch: one SQLite file that records every job and its outcome."""

import importlib
import typing

from adepoll.journal.changes import (
    Change,
    Delivered,
    Fetched,
    FileLost,
    GivenUp,
    Settled,
    StatusChanged,
)
from adepoll.journal.outcomes import Failure

if typing.TYPE_CHECKING:
    from adepoll.journal.journal import Journal
    from adepoll.journal.queries import RecordFilter
    from adepoll.journal.reader import JournalReader

__all__ = [
    "Change",
    "Delivered",
    "Failure",
    "Fetched",
    "FileLost",
    "GivenUp",
    "Journal",
    "JournalReader",
    "RecordFilter",
    "Settled",
    "StatusChanged",
]

# Imported when first used, because asyncio and SQLite take long to import, and `adepoll.Outcome`
# needs neither.
_MODULE_OF: typing.Final = {
    "Journal": "journal",
    "JournalReader": "reader",
    "RecordFilter": "queries",
}

if not typing.TYPE_CHECKING:  # a module with `__getattr__` has any name for a type checker

    def __getattr__(name: str) -> object:
        """Return a public name after importing its module."""
        if name not in _MODULE_OF:
            message = f"module {__name__!r} has no attribute {name!r}"
            raise AttributeError(message, name=name)
        value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
        globals()[name] = value
        return value
