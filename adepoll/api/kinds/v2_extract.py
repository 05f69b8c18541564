"""The rules of v2 extract jobs."""

from typing import Final

from adepoll.api.job_kind import JobKind
from adepoll.api.kinds.v2_envelope import rules
from adepoll.api.results import V2ExtractResult

V2_EXTRACT: Final = rules(
    JobKind.V2_EXTRACT, V2ExtractResult, path="/v2/extract/jobs", required="extraction"
)
