"""The rules of v2 workflow jobs."""

from typing import Final

from adepoll.api.job_kind import JobKind
from adepoll.api.kinds.v2_envelope import rules
from adepoll.api.results import WorkflowResult

V2_WORKFLOW: Final = rules(
    JobKind.V2_WORKFLOW, WorkflowResult, path="/v2/workflow/jobs", required="output"
)
