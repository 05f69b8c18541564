"""The kinds of jobs of the emulated service: the shapes of requests, answers and results.

Each kind is an `EmulatedKind` object in a module of its own. The shapes follow the description of
the service, and share no code with the decoders of `adepoll.api`. So a test with both detects a
mistake in either of them.
"""

from collections.abc import Mapping
from typing import Final

from adepoll.api.job_kind import JobKind
from adepoll.emulator.kinds.emulated_kind import EmulatedKind
from adepoll.emulator.kinds.v1_extract import V1_EXTRACT
from adepoll.emulator.kinds.v1_parse import V1_PARSE
from adepoll.emulator.kinds.v2_extract import V2_EXTRACT
from adepoll.emulator.kinds.v2_parse import V2_PARSE
from adepoll.emulator.kinds.v2_workflow import V2_WORKFLOW

KINDS: Final[Mapping[str, EmulatedKind]] = {
    rules.name: rules for rules in (V1_EXTRACT, V1_PARSE, V2_PARSE, V2_EXTRACT, V2_WORKFLOW)
}
"""The rules of all kinds, by the name of the kind."""

DEFAULT_KIND: Final = V1_EXTRACT.name
"""Name of the kind that a job has if no kind is given."""


def rules_of(kind: str | JobKind) -> EmulatedKind:
    """Return the rules of a kind, which is given by name or as `adepoll.JobKind`.

    Raises:
        ValueError: There is no such kind.
    """
    name = kind if isinstance(kind, str) else kind.name
    if name not in KINDS:
        raise ValueError(f"no kind of job is named {name!r}; kinds: {', '.join(KINDS)}")
    return KINDS[name]
