"""Saves in the journal what a batch has learnt about how long jobs take, for its next run.

The durations are stored in the journal's table `notes`, under the key "durations".
"""

import json
from collections.abc import Mapping
from typing import Final

from adepoll.api.job_kind import JobKind
from adepoll.common.threads import run_in_thread
from adepoll.errors import ConfigurationError
from adepoll.journal import Journal
from adepoll.scheduling.durations import Durations

_NOTE: Final = "durations"


async def read_durations(journal: Journal) -> dict[JobKind, Durations]:
    """Return what earlier runs have learnt about each kind; leave out what cannot be read."""
    return await run_in_thread(_durations_in, await journal.note(_NOTE))


def _durations_in(note: str | None) -> dict[JobKind, Durations]:
    """Return the durations in a note. Blocks: somebody else may have written a long note."""
    learnt = {}
    for name, text in _texts_in(note).items():
        try:
            learnt[JobKind(name)] = Durations.from_json(text)
        except ConfigurationError:  # written by another version of adepoll; the run learns again
            continue
    return learnt


async def write_durations(journal: Journal, learnt: Mapping[JobKind, Durations]) -> None:
    """Save what a run has learnt, by kind; keep what is saved about other kinds.

    Raises:
        JournalError: The journal cannot be written.
    """
    texts = {kind.name: known.to_json() for kind, known in learnt.items() if known.ended}
    if texts:
        noted = await run_in_thread(_texts_in, await journal.note(_NOTE))
        await journal.set_note(_NOTE, json.dumps(noted | texts))


def _texts_in(note: str | None) -> dict[str, str]:
    """Return the saved JSON text of each kind, by the name of the kind.

    The result is empty if the note is missing or invalid.
    """
    try:
        noted = json.loads(note or "{}")
    except (ValueError, RecursionError):
        return {}
    texts = noted.items() if isinstance(noted, dict) else ()
    return {name: text for name, text in texts if isinstance(text, str)}
