"""What a batch has seen and done, in one SQLite file. journal.py is its face, reading.py another.

changes: what can be written; database, rows, schema: how it lies there; opening, lock, failing:
what a file must be to be used, by whom, and what can go wrong.
"""

from adepoll.journal.changes import (
    Change,
    Delivered,
    Fetched,
    GivenUp,
    Lost,
    Seen,
    Settled,
    Which,
)
from adepoll.journal.journal import Journal
from adepoll.journal.reading import JournalReader
from adepoll.journal.rows import Failure

__all__ = [
    "Change",
    "Delivered",
    "Failure",
    "Fetched",
    "GivenUp",
    "Journal",
    "JournalReader",
    "Lost",
    "Seen",
    "Settled",
    "Which",
]
