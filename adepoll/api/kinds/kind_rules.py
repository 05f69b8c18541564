"""KindRules: how jobs of one kind are requested and decoded."""

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Final, TypeAlias

from attrs import field, frozen

from adepoll.api.job_kind import JobKind
from adepoll.api.models import JobPage, JobSnapshot, JobStatus
from adepoll.common.safe_repr import SafeRepr

ListQuery: TypeAlias = Callable[[int, int, JobStatus | None], Mapping[str, str | int]]
DecodeJob: TypeAlias = Callable[[bytes, int], JobSnapshot]
DecodePage: TypeAlias = Callable[[bytes], JobPage]
DecodeResult: TypeAlias = Callable[[bytes | str], Any]


SOME_FAILED: Final = 206
"""HTTP status of the answer about a completed job whose result is partial."""

SUCCESS: Final = frozenset({200, 201, 202, 203, SOME_FAILED})
"""HTTP statuses of a response that contains a job.

Only 200 and 206 are documented. Services often answer with 202 about a job that is not complete,
and a proxy can change 200 to 203 (RFC 9110, section 15.3.4).
"""


class Api(Enum):
    """The two generations of the service. Each can have its own host."""

    V1 = 1
    V2 = 2

    __hash__ = object.__hash__  # faster than the hash of Enum; a member equals only itself


@frozen(kw_only=True)
class KindRules(SafeRepr):
    """How jobs of one kind are polled and listed, and how their results are read.

    The functions that decode a body raise `MalformedAnswerError` if the body cannot be read.

    Attributes:
        kind: The kind.
        api: Generation of the service, v1 or v2. Each generation can have its own host.
        path: Path of the job list. The path of a job is this path, a slash and the job's id.
        success: HTTP statuses of a response that contains a job.
        list_query: Returns the parameters of the query for one page of the list. Its arguments: the
            number of the page (from 0), the size of the page, and the status of the wanted jobs
            (None for all).
        can_be_cancelled: True if jobs can have the status `JobStatus.CANCELLED`. If False, listing
            cancelled jobs sends no request and returns an empty page.
        newest_first: True if the service documents that the list begins with the newest jobs.
        result_field: Name of the result in the response to a poll. ``data`` is accepted as well.
        result_keys: Keys that the JSON object of a result must contain.
        decode_job: Reads a response about one job, from its body and HTTP status.
        decode_page: Reads a page of the list from its body.
        decode_result: Reads the JSON text of a downloaded result.
        can_be_large: True if the response to a poll contains the result, however large it is. Then
            adepoll does not keep a large response in memory.
    """

    kind: JobKind
    api: Api = Api.V1
    path: str
    success: frozenset[int] = frozenset({200})
    list_query: ListQuery = field(repr=False)
    can_be_cancelled: bool = True
    newest_first: bool = False
    result_field: str = "data"
    result_keys: frozenset[str] = frozenset()
    decode_job: DecodeJob = field(repr=False)
    decode_page: DecodePage = field(repr=False)
    decode_result: DecodeResult = field(repr=False)
    can_be_large: bool = False
