"""What really happened, as it is written down: requests, leaks, who came too early. Pure."""

import math
from collections import Counter
from typing import Final

from attrs import define, field, frozen

from adepoll.emulator.effects import Endpoint
from adepoll.emulator.jobs import Outcome

_MOST_KEPT: Final = 1_000


@frozen(kw_only=True)
class Truth:
    """What is really the case with a job, to be compared with what a client found out.

    Attributes:
        job_id: The job.
        received_at: When it arrived, in Unix seconds, with the fraction that the API cuts off.
        finished_at: When it ends or ended, in Unix seconds; ``math.inf`` for never.
        outcome: How it ends.
        result_bytes: Size of the JSON of `data`, in bytes; 0 where there is none.
        result_sha256: SHA-256 of these bytes, in hex; None where there are none, or where
            digests were not asked for.
        gets: How often the job was looked at.
        result_requests: How often its result was asked for at the origin of the results.
        save_status: HTTP status of the PUT to its `output_save_url`, 0 where none came; None
            before it was tried.
    """

    job_id: str
    received_at: float
    finished_at: float
    outcome: Outcome
    result_bytes: int
    result_sha256: str | None
    gets: int
    result_requests: int = 0
    save_status: int | None = None


@define(kw_only=True)
class Traffic:
    """How many requests came, by kind, however they were answered.

    Attributes:
        create: Jobs submitted over HTTP.
        get: Looks at one job.
        list: Pages of the list.
        unauthorized: Requests to the API refused for their key; they count nowhere else.
        result: Requests to the origin of the results.
        leaks: Those among them that carried an `Authorization` or `Cookie` header.
    """

    create: int = 0
    get: int = 0
    list: int = 0
    unauthorized: int = 0
    result: int = 0
    leaks: int = 0


@frozen(kw_only=True)
class Leak:
    """A request to the origin of the results that carried what belongs elsewhere.

    Attributes:
        at: When, in Unix seconds.
        header: `Authorization` or `Cookie`; its value is not kept.
        path: The raw path asked for, without the query.
    """

    at: float
    header: str
    path: str


@frozen(kw_only=True)
class EarlyRequest:
    """A request to the API that came though a `Retry-After` had asked to wait.

    Attributes:
        at: When, in Unix seconds.
        endpoint: Where to.
        job_id: About which job; None for the list and a submission.
        left: How many seconds were still to be waited.
    """

    at: float
    endpoint: Endpoint
    job_id: str | None
    left: float


@define(kw_only=True, eq=False)
class Ledger:
    """The requests so far; of leaks and early requests, the first thousand are kept one by one.

    Attributes:
        traffic: Counts by kind.
        statuses: How many answers of each HTTP status the API gave for a fault.
        early: How many requests came though a `Retry-After` had asked to wait.
        first_early: The first of them.
        first_leaks: The first leaks; `traffic` counts all requests that leaked.
    """

    traffic: Traffic = field(factory=Traffic)
    statuses: Counter[int] = field(factory=Counter)
    early: int = 0
    first_early: list[EarlyRequest] = field(factory=list)
    first_leaks: list[Leak] = field(factory=list)
    _wait_from: float = math.inf
    _wait_until: float = -math.inf

    def request(self, endpoint: Endpoint, job_id: str | None, now: float) -> None:
        """Write down a request that arrives; see `ask_to_wait`."""
        name = endpoint.value
        setattr(self.traffic, name, getattr(self.traffic, name) + 1)
        if self._wait_from < now < self._wait_until and endpoint is not Endpoint.RESULT:
            self.early += 1
            if len(self.first_early) < _MOST_KEPT:
                left = self._wait_until - now
                self.first_early.append(
                    EarlyRequest(at=now, endpoint=endpoint, job_id=job_id, left=left)
                )

    def ask_to_wait(self, *, heard_at: float, until: float) -> None:
        """Write down that the client was asked to stay away.

        Args:
            heard_at: From when on no request can have been on its way before that, in Unix seconds.
            until: The end of the wait, in Unix seconds.
        """
        # Where an earlier wait is still on, whoever comes now has heard of that one.
        still_on = heard_at <= self._wait_until
        self._wait_from = min(self._wait_from, heard_at) if still_on else heard_at
        self._wait_until = max(self._wait_until, until)

    def leak(self, header: str, path: str, now: float) -> None:
        """Keep one header of a request that leaked."""
        if len(self.first_leaks) < _MOST_KEPT:
            self.first_leaks.append(Leak(at=now, header=header, path=path))
