"""JobKind: what the client needs to know about one kind of jobs. Imports models only."""

from collections.abc import Callable, Mapping
from typing import TypeAlias

from attrs import field, frozen

from adepoll.api.models import JobPage, JobSnapshot, JobStatus

ListQuery: TypeAlias = Callable[[int, int, JobStatus | None], Mapping[str, str | int]]
DecodeJob: TypeAlias = Callable[[bytes, int], JobSnapshot]
DecodePage: TypeAlias = Callable[[bytes], JobPage]
DecodeResult: TypeAlias = Callable[[bytes], object]


@frozen(kw_only=True)
class JobKind:
    """One kind of jobs of the service: its paths, parameters and payloads.

    The functions that decode a body raise `MalformedAnswerError` if it is not as documented.

    Attributes:
        name: Short name, such as ``v1-extract``.
        path: Path of the job list. The path of a job is this path, a slash and the job's id.
        success: HTTP statuses of a response that contains a job.
        list_query: Returns the query of a page of the list, from the number of the page (from 0),
            its size and the wanted status (None for all).
        decode_job: Reads a response about one job, from its body and its status.
        decode_page: Reads a page of the list.
        decode_result: Reads a result that was downloaded.
    """

    name: str
    path: str
    success: frozenset[int] = frozenset({200})
    list_query: ListQuery = field(repr=False)
    decode_job: DecodeJob = field(repr=False)
    decode_page: DecodePage = field(repr=False)
    decode_result: DecodeResult = field(repr=False)
