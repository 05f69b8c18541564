"""The rules of every kind of jobs of the service.

To add a kind:

1. `api/job_kind.py`: its line in `_KINDS`, and its class variable in `JobKind`. The line says
   whether its jobs have a schema, and for a v2 kind the prefix of its ids.
2. `api/v2_results.py`, or `v1_results.py`: the class of its result, and the class of its metadata
   unless an existing one fits. In `api/results.py`, add both to `_CLASSES`, to the types and to the
   public names; also to the public names in `adepoll/__init__.py`.
3. `api/kinds/`: a module with its `KindRules`, like `v2_workflow.py`. Add the rules to `RULES`
   below, and the key of its result to `_LOOKS` in `envelope.py`.
4. `emulator/kinds/`: a module with its `EmulatedKind`, like `v2_workflow.py`. Add it to `KINDS` in
   `emulator/kinds/__init__.py`.
5. `cli/options.py`: its name in `KIND_CHOICES`. `cli/demo_emulator.py`: in `_form`, the fields of
   the request that creates such a job, if it needs more than a document.
6. Only if the result has none of the keys "extraction", "markdown" and "output": `RESULTS` in
   `api/table_row.py`, and `tables/job_rows.py`.
7. Only if the result consists of the results of several steps, as for a workflow:
   `LargeAnswer._scan_output` in `api/large_answer.py` and `JobSnapshot.failed_pages` in
   `api/models.py`. Both find out whether pages have failed in a step.
8. `docs/kinds.md`, `docs/emulator.md` and `docs/journal.md`: the tables that list the kinds.
9. `tests/api/test_kinds.py`, `tests/emulator/` and `tests/benchmarks/kinds.py`: sample data of the
   kind, for the tests that run with every kind.

Watcher, fetcher, journal and report need no change.
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
    """Read the JSON text of a result. For a kind of your own, return parsed JSON.

    Raises:
        MalformedAnswerError: The text is not a result of this kind.
    """
    rules = RULES.get(kind)
    return loads(body) if rules is None else rules.decode_result(body)
