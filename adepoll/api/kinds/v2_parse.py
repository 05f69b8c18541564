"""The rules of v2 parse jobs."""

from typing import Final

from adepoll.api.job_kind import JobKind
from adepoll.api.kinds.v2_envelope import rules
from adepoll.api.results import V2ParseResult

V2_PARSE: Final = rules(JobKind.V2_PARSE, V2ParseResult, path="/v2/parse/jobs", required="markdown")
