"""The rules of every kind of jobs of the service. Imports the modules of the kinds.

To add a kind:

1. `api/job_kind.py`: a constant, also in the lists at the end of the module.
2. `api/v1_results.py` or `api/v2_results.py`: the classes of its result and metadata, and their
   line in `_CLASSES` of `api/results.py`.
3. `api/kinds/`: a module with its `KindRules`, like `v1_parse.py`, and its name in `RULES` below.
4. `api/models.py`: `_V2` if it is a v2 kind, `_WITH_SCHEMA` if its results have a schema.
5. `emulator/kinds/`: its emulation, and `KIND_CHOICES` in `cli/options.py`: its name.

Watcher, fetcher, journal, report and tables need no change.
"""

from collections.abc import Mapping
from typing import Any, Final

from adepoll.api.job_kind import JobKind
from adepoll.api.json_text import loads
from adepoll.api.kinds.kind_rules import KindRules
from adepoll.api.kinds.v1_extract import V1_EXTRACT
from adepoll.api.kinds.v1_parse import V1_PARSE
from adepoll.api.kinds.v2_extract import V2_EXTRACT
from adepoll.api.kinds.v2_parse import V2_PARSE
from adepoll.api.kinds.v2_workflow import V2_WORKFLOW

RULES: Final[Mapping[JobKind, KindRules]] = {
    rules.kind: rules for rules in (V1_EXTRACT, V1_PARSE, V2_PARSE, V2_EXTRACT, V2_WORKFLOW)
}
"""The rules of the kinds of the service."""


def decode_result(kind: JobKind, body: bytes | str) -> Any:
    """Read a result of any kind; parsed JSON if the kind is not one of the service's.

    Raises:
        MalformedAnswerError: It is not a result of this kind.
    """
    rules = RULES.get(kind)
    return loads(body) if rules is None else rules.decode_result(body)
