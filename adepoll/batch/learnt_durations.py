"""Saves in the journal what a batch has learnt about how long jobs take, for its next run.

It is the value of the key "durations" in the journal's table `notes`.
"""

import json
from collections.abc import Mapping
from typing import Final

from adepoll.api.job_kind import JobKind
from adepoll.errors import ConfigurationError
from adepoll.journal import Journal
from adepoll.scheduling.durations import Durations

_NOTE: Final = "durations"


async def read_durations(journal: Journal) -> dict[JobKind, Durations]:
    """Return what earlier runs have learnt about each kind; leave out what cannot be read."""
    learnt = {}
    for name, text in (await _read_note(journal)).items():
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
        await journal.set_note(_NOTE, json.dumps(await _read_note(journal) | texts))


async def _read_note(journal: Journal) -> dict[str, str]:
    """Return what is saved about each kind, as JSON text by the name of the kind."""
    try:
        noted = json.loads(await journal.note(_NOTE) or "{}")
    except (ValueError, RecursionError):
        return {}
    texts = noted.items() if isinstance(noted, dict) else ()
    return {name: text for name, text in texts if isinstance(text, str)}
