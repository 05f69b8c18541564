"""What batches have learnt of how long jobs take, by kind: a note of their journal."""

import json
from collections.abc import Mapping
from typing import Final

from adepoll.api.job_kind import JobKind
from adepoll.errors import ConfigurationError
from adepoll.journal import Journal
from adepoll.scheduling.durations import Durations

_NOTE: Final = "durations"


async def read_durations(journal: Journal) -> dict[JobKind, Durations]:
    """Return what earlier runs have learnt; nothing of a kind that cannot be read."""
    learnt = {}
    for name, text in (await _read_note(journal)).items():
        try:
            learnt[JobKind(name)] = Durations.from_json(text)
        except ConfigurationError:  # another version of adepoll wrote it; the run learns it again
            continue
    return learnt


async def write_durations(journal: Journal, learnt: Mapping[JobKind, Durations]) -> None:
    """Record what a run has learnt, beside what is recorded of other kinds.

    Raises:
        JournalError: It cannot be written.
    """
    texts = {kind.name: known.to_json() for kind, known in learnt.items() if known.ended}
    if texts:
        await journal.set_note(_NOTE, json.dumps(await _read_note(journal) | texts))


async def _read_note(journal: Journal) -> dict[str, str]:
    """Return the texts of `Durations` by the name of their kind."""
    try:
        noted = json.loads(await journal.note(_NOTE) or "{}")
    except (ValueError, RecursionError):
        return {}
    texts = noted.items() if isinstance(noted, dict) else ()
    return {name: text for name, text in texts if isinstance(text, str)}
