"""The log of requests: counts, leaked secrets, and requests that came too early. Does no I/O."""

import math
from collections import Counter
from typing import Final

from attrs import define, field, frozen

from adepoll.common.safe_repr import SafeRepr
from adepoll.emulator.endpoints import Endpoint

_LARGEST_LOG: Final = 1_000


@define(kw_only=True)
class Traffic(SafeRepr):
    """Numbers of requests by endpoint, with or without an answer.

    Attributes:
        create: Submissions over HTTP.
        get: Polls, that is GETs of one job.
        list: Requests for a page of the list.
        unauthorized: Requests to the API with a wrong key; they are counted only here.
        result: Requests to the storage of large results.
        leaks: Requests to the storage with an `Authorization` or `Cookie` header.
    """

    create: int = 0
    get: int = 0
    list: int = 0
    unauthorized: int = 0
    result: int = 0
    leaks: int = 0


@frozen(kw_only=True)
class Leak(SafeRepr):
    """A header that a client sent to the storage, although it belongs only to the API.

    Attributes:
        at: Unix time of the request, in seconds.
        header: `Authorization` or `Cookie`; the value is not kept.
        path: Percent-encoded path of the request, without the query.
    """

    at: float
    header: str
    path: str


@frozen(kw_only=True)
class EarlyRequest(SafeRepr):
    """A request to the API before the end of a `Retry-After`.

    Attributes:
        at: Unix time of the request, in seconds.
        endpoint: Endpoint of the request.
        job_id: The job that the request is about; None for the list and a submission.
        remaining: Seconds until the end of the `Retry-After`.
    """

    at: float
    endpoint: Endpoint
    job_id: str | None
    remaining: float


@define(kw_only=True, eq=False)
class RequestLog:
    """The requests so far, with details of the first 1,000 leaks and 1,000 early requests.

    Attributes:
        traffic: Numbers of requests by endpoint.
        statuses: For each HTTP status, the number of requests that a fault refused with it.
        early: Number of requests before the end of a `Retry-After`.
        first_early: The first 1,000 of the requests that `early` counts.
        first_leaks: The first 1,000 leaked headers; `traffic` counts all requests with leaks.
    """

    traffic: Traffic = field(factory=Traffic)
    statuses: Counter[int] = field(factory=Counter)
    early: int = 0
    first_early: list[EarlyRequest] = field(factory=list)
    first_leaks: list[Leak] = field(factory=list)
    _wait_from: float = math.inf
    _wait_until: float = -math.inf

    def record(self, endpoint: Endpoint, job_id: str | None, now: float) -> None:
        """Count a request, and record it as early if a `Retry-After` has not ended."""
        name = endpoint.value
        setattr(self.traffic, name, getattr(self.traffic, name) + 1)
        if self._wait_from < now < self._wait_until and endpoint is not Endpoint.RESULT:
            self.early += 1
            if len(self.first_early) < _LARGEST_LOG:
                remaining = self._wait_until - now
                self.first_early.append(
                    EarlyRequest(at=now, endpoint=endpoint, job_id=job_id, remaining=remaining)
                )

    def record_retry_after(self, *, known_at: float, until: float) -> None:
        """Record that a `Retry-After` was sent.

        Args:
            known_at: Unix time after which arriving requests count as early. The client may have
                sent an earlier request before it received the header.
            until: End of the wait, in Unix seconds.
        """
        # If an earlier wait is not over at `known_at`, both waits together count as one wait.
        overlaps = known_at <= self._wait_until
        self._wait_from = min(self._wait_from, known_at) if overlaps else known_at
        self._wait_until = max(self._wait_until, until)

    def record_leak(self, header: str, path: str, now: float) -> None:
        """Record that a request to the storage carried a header that only the API may receive."""
        if len(self.first_leaks) < _LARGEST_LOG:
            self.first_leaks.append(Leak(at=now, header=header, path=path))
