"""The journal of a batch: one SQLite file that records every job and its outcome."""

from adepoll.journal.changes import (
    Change,
    Delivered,
    Fetched,
    FileLost,
    GivenUp,
    Settled,
    StatusChanged,
)
from adepoll.journal.journal import Journal
from adepoll.journal.outcomes import Failure
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
