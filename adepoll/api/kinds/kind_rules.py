"""KindRules: what differs between the kinds of jobs. Imports models only."""

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Final, TypeAlias

from attrs import field, frozen

from adepoll.api.job_kind import JobKind
from adepoll.api.models import JobPage, JobSnapshot, JobStatus

ListQuery: TypeAlias = Callable[[int, int, JobStatus | None], Mapping[str, str | int]]
DecodeJob: TypeAlias = Callable[[bytes, int], JobSnapshot]
DecodePage: TypeAlias = Callable[[bytes], JobPage]
DecodeResult: TypeAlias = Callable[[bytes | str], Any]


SOME_FAILED: Final = 206
"""HTTP status of a completed job whose result is partial."""

SUCCESS: Final = frozenset({200, 201, 202, 203, SOME_FAILED})
"""HTTP statuses of a response that contains a job.

Only 200 and 206 are documented. A job that is not complete is often answered with 202, and a proxy
makes 203 of 200 (RFC 9110, section 15.3.4).
"""


class Api(Enum):
    """The two generations of the service, each with its own hosts."""

    V1 = 1
    V2 = 2


@frozen(kw_only=True)
class KindRules:
    """How the jobs of one kind are polled, listed and read.

    The functions that decode a body raise `MalformedAnswerError` if it is not as documented.

    Attributes:
        kind: The kind.
        api: Generation of the service, which decides the host.
        path: Path of the job list. The path of a job is this path, a slash and the job's id.
        success: HTTP statuses of a response that contains a job.
        list_query: Returns the query of a page of the list, from the number of the page (from 0),
            its size and the wanted status (None for all).
        can_be_cancelled: True if jobs can have the status `JobStatus.CANCELLED`. If not, a list of
            such jobs is empty without a request.
        newest_first: True if the list is documented to show the newest jobs first.
        result_field: Name of the result in the response to a poll.
        result_names: Names that the result can have in that response: this one and `data`.
        result_keys: Keys that the JSON object of a result must contain.
        decode_job: Reads a response about one job, from its body and its status.
        decode_page: Reads a page of the list.
        decode_result: Reads a result that was downloaded.
        can_be_large: True if a response contains its result at any size.
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
    result_names: tuple[str, ...] = field(init=False)

    @result_names.default
    def _names_of_result(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.result_field, "data")))
