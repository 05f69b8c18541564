"""Saves in the journal how long jobs have taken, so that the next run of the batch knows it.

The durations are stored in the journal's table `notes`, under the key "durations".
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from adepoll.api.job_kind import JobKind
from adepoll.common.threads import run_in_thread
from adepoll.errors import ConfigurationError
from adepoll.journal import Journal
from adepoll.scheduling.durations import Durations

_NOTE: Final = "durations"


async def read_durations(journal: Journal) -> dict[JobKind, Durations]:
    """Return the durations of each job kind that earlier runs have saved in the journal.

    A kind whose saved durations cannot be read is left out.
    """
    return await run_in_thread(_durations_in, await journal.note(_NOTE))


def _durations_in(saved: str | None) -> dict[JobKind, Durations]:
    """Return the durations of each job kind from the text that the journal has saved, if any.

    Call this in a thread: somebody else may have written the journal, and a long text takes time.
    """
    learnt = {}
    for name, text in _texts_in(saved).items():
        with suppress(ConfigurationError):  # written by another version; the run learns again
            learnt[JobKind(name)] = Durations.from_json(text)
    return learnt


async def write_durations(journal: Journal, learnt: Mapping[JobKind, Durations]) -> None:
    """Save in the journal the durations of each job kind that a run has learnt.

    Kinds of which no job has ended are left out. The journal keeps the durations of all kinds that
    are not in `learnt`.

    Raises:
        JournalError: The journal cannot be written.
    """
    texts = {kind.name: known.to_json() for kind, known in learnt.items() if known.ended}
    if texts:
        noted = await run_in_thread(_texts_in, await journal.note(_NOTE))
        await journal.set_note(_NOTE, json.dumps(noted | texts))


def _texts_in(saved: str | None) -> dict[str, str]:
    """Parse the text that the journal has saved: a JSON object from kind to durations.

    The key is the name of a job kind. The value is the JSON text of the `Durations` of this kind.
    Return an empty dict if nothing is saved, or if the text is invalid.
    """
    try:
        by_kind = json.loads(saved or "{}")
    except (ValueError, RecursionError):
        return {}
    texts = by_kind.items() if isinstance(by_kind, dict) else ()
    return {name: text for name, text in texts if isinstance(text, str)}
