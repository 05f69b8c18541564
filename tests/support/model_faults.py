"""What can go wrong with the answers of the model test's service."""

import asyncio

from attrs import frozen

from adepoll.errors import (
    AnswerError,
    AnswerTimeoutError,
    AnswerTooLargeError,
    AuthenticationError,
    JobNotFoundError,
    MalformedAnswerError,
    PaymentRequiredError,
    PermissionDeniedError,
    RateLimitedError,
    ServerError,
    StatusError,
    TransportError,
    UnprocessableError,
    WrongJobError,
)

CAUSES = {
    "unknown": JobNotFoundError,
    "forbidden": PermissionDeniedError,
    "unprocessable": UnprocessableError,
    "malformed": AnswerError,
    "wrong": WrongJobError,
    "down": ServerError,
}
"""The error with which a job is given up, by the fault of the job."""


def error_of(fault, job_id):
    """Return the error that a GET of a job with a fault raises."""
    match fault:
        case "unknown":
            return JobNotFoundError(status=404, detail="Job ID not found", job_id=job_id)
        case "forbidden":
            return PermissionDeniedError(status=403, job_id=job_id)
        case "unprocessable":
            return UnprocessableError(status=422, job_id=job_id)
        case "malformed":
            return MalformedAnswerError(["required field missing @ $.status"], job_id=job_id)
        case "down":
            return ServerError(status=502, job_id=job_id)
    raise AssertionError(fault)


STRAY = {
    "502": lambda job_id: ServerError(status=502, job_id=job_id),
    "503 with Retry-After": lambda job_id: ServerError(status=503, job_id=job_id, retry_after=3.0),
    "connection": lambda job_id: TransportError("connection refused", job_id=job_id),
    "timeout": lambda job_id: AnswerTimeoutError(timeout=30.0, job_id=job_id),
    "429": lambda job_id: RateLimitedError(status=429, job_id=job_id, retry_after=2.0),
    "429 without Retry-After": lambda job_id: RateLimitedError(status=429, job_id=job_id),
    "malformed": lambda job_id: MalformedAnswerError(["not JSON @ $"], job_id=job_id),
    "cancelled": lambda _: asyncio.CancelledError("something that the source waited for"),
    "401": lambda job_id: AuthenticationError(status=401, job_id=job_id),
    "403": lambda job_id: PermissionDeniedError(status=403, job_id=job_id),
}
"""Errors of a single request by chance; the next request succeeds."""

LIST_ERRORS = {
    "404": lambda: StatusError(status=404),
    "400": lambda: StatusError(status=400),
    "403": lambda: PermissionDeniedError(status=403),
    "500": lambda: ServerError(status=500),
    "too large": lambda: AnswerTooLargeError(limit=2**23, job_id=None),
    "malformed": lambda: MalformedAnswerError(["not JSON @ $"]),
    "429": lambda: RateLimitedError(status=429, retry_after=1.0),
}

FATAL = {
    "bad key": lambda: AuthenticationError(status=401),
    "no credits": lambda: PaymentRequiredError(status=402),
    "bug": lambda: ArithmeticError("a bug of the source"),
}
"""Errors that each request raises after a certain time."""


@frozen(kw_only=True)
class Behaviour:
    """How the service behaves.

    Attributes:
        latency: Shortest and longest latency; (0, 0) for answers without any suspension.
        stray: Chance that a request meets an error by accident.
        stray_kinds: Names of these errors.
        outages: Begin and end of the times at which every request fails.
        fatal: Name of an error of `FATAL` that every request raises from `fatal_at` on.
        listing: "none", "honest", "keeps settled", "empty", "misses half", "endless".
        list_lag: Seconds until a change of a job appears in the list.
        foreign: Number of active jobs of other programs in the list.
        list_error: Chance that a page is an error, of any kind in `LIST_ERRORS`.
        received_at: "exact", "absent", "early", "late".
        progress: "none", "true", "too fast", "nonsense".
        completed_at: "exact", "absent", "early", "late"; v1 jobs have no such time.
    """

    latency: tuple[float, float] = (0.02, 0.2)
    stray: float = 0.0
    stray_kinds: tuple[str, ...] = ()
    outages: tuple[tuple[float, float], ...] = ()
    fatal: str | None = None
    fatal_at: float = 0.0
    listing: str = "honest"
    list_lag: float = 0.0
    foreign: int = 0
    list_error: float = 0.0
    received_at: str = "exact"
    progress: str = "none"
    completed_at: str = "absent"

    def in_outage(self, now):
        return any(begin <= now < end for begin, end in self.outages)
