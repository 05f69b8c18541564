"""The journal of a batch: one SQLite file that records every job and its outcome."""

import importlib
import typing

from adepoll.journal.changes import (
    Acknowledged,
    Change,
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
    "Acknowledged",
    "Change",
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

# These modules are imported when one of their names is first used. They import asyncio and SQLite,
# which takes long, and `adepoll.Outcome` needs neither of them.
_MODULE_OF: typing.Final = {
    "Journal": "journal",
    "JournalReader": "reader",
    "RecordFilter": "queries",
}

# Type checkers must not see this function: they would accept any name of this module.
if not typing.TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Return a public name after importing its module."""
        if name not in _MODULE_OF:
            message = f"module {__name__!r} has no attribute {name!r}"
            raise AttributeError(message, name=name)
        value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
        globals()[name] = value
        return value
