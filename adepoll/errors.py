"""One tree of errors under `AdePollError`; every leaf carries data, not only text.

Whatever came from the service goes through `redaction.showable` before it enters a message.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

from adepoll.redaction import redact_url, showable


def _revive(
    cls: type["AdePollError"], args: tuple[object, ...], state: dict[str, object]
) -> "AdePollError":
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class AdePollError(Exception):
    """The base of all errors that adepoll raises on purpose.

    All of them survive pickling and copying, so that they can cross to and from a worker process.

    Attributes:
        transient: Whether the same may well succeed later.
        fatal: Whether it is about the client rather than a job, so that no other call to it can
            do better.
    """

    transient: ClassVar[bool] = False
    fatal: ClassVar[bool] = False

    def __reduce__(self) -> tuple[Any, ...]:
        """Rebuild from args and attributes: leaves have keyword-only constructors."""
        return _revive, (type(self), self.args, dict(self.__dict__))


class ConfigurationError(AdePollError, ValueError):
    """An option or an environment variable has a value that cannot be used."""


class MissingApiKeyError(ConfigurationError):
    """No API key was given, neither as an argument nor in the environment.

    Attributes:
        variable: The environment variable that would have been read.
    """

    def __init__(self, *, variable: str) -> None:
        super().__init__(
            f"no API key: set the environment variable {variable}, or pass api_key= to AdeClient"
        )
        self.variable = variable


class InvalidJobIdError(AdePollError, ValueError):
    """A job id that cannot be one; refused before anything is sent.

    Attributes:
        job_id: The id as given; its type and `repr`, where it was no string.
        reason: What is wrong with it.
    """

    def __init__(self, *, job_id: str, reason: str) -> None:
        super().__init__(f"invalid job id {showable(job_id, 80)!r}: {reason}")
        self.job_id = job_id
        self.reason = reason


class ClosedError(AdePollError, RuntimeError):
    """The client, watcher or fetcher was used after it was closed, or closed while in use."""

    fatal = True


# --- A request to the service that brought no usable answer -------------------------------------


class RequestError(AdePollError):
    """A request to the API brought no usable answer.

    Attributes:
        job_id: The job the request was about; None for a list.
        retry_after: Seconds the service asked to wait, already clamped; None where it did not.
    """

    retry_after: float | None = None

    def __init__(self, message: str, *, job_id: str | None) -> None:
        subject = "" if job_id is None else f"job {showable(job_id, 80)}: "
        super().__init__(subject + message)
        self.job_id = job_id


class TransportError(RequestError):
    """No answer came: the connection could not be made, broke, or stayed silent."""

    transient = True


class AnswerTimeoutError(TransportError, TimeoutError):
    """The answer was not complete within the client's `timeout`.

    Attributes:
        timeout: That timeout, in seconds.
    """

    def __init__(self, *, timeout: float, job_id: str | None) -> None:
        super().__init__(f"no complete answer within {timeout:g} s", job_id=job_id)
        self.timeout = timeout


class AnswerError(RequestError):
    """An answer came with a good status, and makes no sense.

    It is retried a few times, since gateways and deployments do that in passing, and then raised.
    """

    transient = True


class MalformedAnswerError(AnswerError):
    """The body is not JSON, or not of the documented shape.

    Attributes:
        problems: What is wrong, each as "problem @ path"; never a value from the body, which may
            be a customer's document.
    """

    def __init__(self, problems: Sequence[str], *, job_id: str | None = None) -> None:
        shown = "; ".join(showable(problem, 200) for problem in problems[:5])
        more = f" (and {len(problems) - 5} more)" if len(problems) > 5 else ""  # noqa: PLR2004 - five are told
        super().__init__(f"the service sent a malformed answer: {shown}{more}", job_id=job_id)
        self.problems = tuple(problems)


class AnswerTooLargeError(AnswerError):
    """The body is larger than the client's `max_body_bytes`.

    Attributes:
        limit: That limit, in bytes.
    """

    transient = False

    def __init__(self, *, limit: int, job_id: str | None) -> None:
        super().__init__(
            f"the answer is larger than {limit} bytes; raise max_body_bytes if that is right",
            job_id=job_id,
        )
        self.limit = limit


class WrongJobError(AnswerError):
    """The answer is about another job than the one asked for.

    Attributes:
        answered: The id in the answer, redacted and cut.
    """

    def __init__(self, *, job_id: str, answered: str) -> None:
        super().__init__(
            f"the service answered about another job, {showable(answered, 80)!r}", job_id=job_id
        )
        self.answered = showable(answered)


class StatusError(RequestError):
    """The service answered with a status that is no success.

    Attributes:
        status: The HTTP status.
        detail: What the service said, redacted and cut.
    """

    hint: ClassVar[str] = ""

    def __init__(
        self,
        *,
        status: int,
        detail: str = "",
        job_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        said = f": {detail}" if detail else ""
        hint = f" ({self.hint})" if self.hint else ""
        super().__init__(f"the service answered {status}{said}{hint}", job_id=job_id)
        self.status = status
        self.detail = detail
        self.retry_after = retry_after


class RedirectRefusedError(StatusError):
    """3xx: the API does not redirect, and the key must not travel to wherever that points."""

    hint = "redirects are refused; check base_url"


class AuthenticationError(StatusError):
    """401: the key is missing, wrong, or of another region."""

    fatal = True
    hint = "check VISION_AGENT_API_KEY, and that the key belongs to this region"


class PaymentRequiredError(StatusError):
    """402: the organisation has no credit left."""

    hint = "the organisation is out of credit"


class PermissionDeniedError(StatusError):
    """403: the key is known and may not do this."""

    fatal = True
    hint = "this key may not do that"


class JobNotFoundError(StatusError):
    """404: the service knows no such job, or not yet."""

    hint = "no such job under this key and region"


class ServerTimeoutError(StatusError):
    """408: the service gave up waiting for the request."""

    transient = True


class UnprocessableError(StatusError):
    """422: the service could not take a parameter; `detail` says which and why."""


class RateLimitedError(StatusError):
    """429: the organisation is over its limit."""

    transient = True


class ServerError(StatusError):
    """5xx: the service, or something before it, failed."""

    transient = True


class UnexpectedStatusError(StatusError):
    """Any other status that is no success."""


# --- A job that did not end well ----------------------------------------------------------------


class JobFailedError(AdePollError):
    """The job ended as failed.

    Attributes:
        job_id: The job.
        failure_reason: What the service says went wrong, as it says it; may be None.
    """

    def __init__(self, *, job_id: str, failure_reason: str | None) -> None:
        reason = "no reason given" if not failure_reason else showable(failure_reason)
        super().__init__(f"job {showable(job_id, 80)} failed: {reason}")
        self.job_id = job_id
        self.failure_reason = failure_reason


class JobCancelledError(AdePollError):
    """The job ended as cancelled.

    Attributes:
        job_id: The job.
    """

    def __init__(self, *, job_id: str) -> None:
        super().__init__(f"job {showable(job_id, 80)} was cancelled")
        self.job_id = job_id


class JobTimeoutError(AdePollError, TimeoutError):
    """The job did not settle within the caller's `timeout`. It may still be running.

    Attributes:
        job_id: The job.
        timeout: That timeout, in seconds.
        last_status: The status text last seen; None where no look at it has succeeded.
    """

    def __init__(self, *, job_id: str, timeout: float, last_status: str | None) -> None:
        seen = "never seen" if last_status is None else f"last seen {showable(last_status, 40)}"
        super().__init__(f"job {showable(job_id, 80)} did not settle in {timeout:g} s ({seen})")
        self.job_id = job_id
        self.timeout = timeout
        self.last_status = last_status


class UnresolvedJobsError(ExceptionGroup[AdePollError], AdePollError):
    """Some jobs of a watch could not be resolved; raised after all others were yielded.

    An `ExceptionGroup` of the causes, so that ``except*`` works on it.

    Attributes:
        causes: Why, by job id; in the order in which the jobs were given up.
    """

    causes: Mapping[str, AdePollError]

    def __new__(cls, causes: Mapping[str, AdePollError]) -> Self:
        """Build the group's message and members from `causes`, which must not be empty."""
        kinds = Counter(type(cause).__name__ for cause in causes.values())
        told = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(5))
        jobs = "job" if len(causes) == 1 else "jobs"
        group = super().__new__(cls, f"{len(causes)} {jobs} unresolved: {told}", [*causes.values()])
        group.causes = causes
        return group

    def __init__(self, causes: Mapping[str, AdePollError]) -> None:
        """`causes` has been taken by `__new__`, as groups do."""

    def __reduce__(self) -> tuple[Any, ...]:
        """A group is rebuilt from its causes, and keeps its notes."""
        return type(self), (dict(self.causes),), {**vars(self), "causes": dict(self.causes)}

    def derive(self, excs: Sequence[AdePollError], /) -> "UnresolvedJobsError":  # type: ignore[override]  # causes are always ours, and split() gives some of them back
        """Give the group of some of the causes, for ``except*`` and `split`."""
        members = {id(exc) for exc in excs}
        return UnresolvedJobsError(
            {job_id: cause for job_id, cause in self.causes.items() if id(cause) in members}
        )


# --- A result that could not be brought home ----------------------------------------------------


class ResultError(AdePollError):
    """The result of a job could not be brought home.

    Attributes:
        job_id: The job.
    """

    def __init__(self, message: str, *, job_id: str) -> None:
        super().__init__(f"result of job {showable(job_id, 80)}: {message}")
        self.job_id = job_id


class ResultNotReadyError(ResultError):
    """The job has not ended yet, so there is no result.

    Attributes:
        status: The status text of the job.
    """

    def __init__(self, *, job_id: str, status: str) -> None:
        super().__init__(f"the job is still {showable(status, 40)}; wait for it", job_id=job_id)
        self.status = status


class ResultUnavailableError(ResultError):
    """The job is completed, and the service gives neither data nor a URL."""

    def __init__(self, *, job_id: str) -> None:
        super().__init__(
            "the job is completed, but the service keeps no result of it: with zero data "
            "retention it is only at the output_save_url given at submission",
            job_id=job_id,
        )


class ResultUrlError(ResultError):
    """The service gave a URL that must not or cannot be requested.

    Attributes:
        url: The URL, redacted.
    """

    def __init__(self, *, job_id: str, url: str, reason: str) -> None:
        self.url = redact_url(url)
        super().__init__(f"{reason}: {showable(self.url)}", job_id=job_id)


class ResultRefusedError(ResultError):
    """The storage refused to hand the result out.

    Attributes:
        status: The HTTP status.
        detail: What the storage said, redacted and cut.
        url: The URL, redacted.
    """

    hint: ClassVar[str] = ""

    def __init__(self, *, job_id: str, status: int, detail: str, url: str) -> None:
        self.url = redact_url(url)
        said = f": {detail}" if detail else ""
        hint = f" ({self.hint})" if self.hint else ""
        super().__init__(f"{showable(self.url)} answered {status}{said}{hint}", job_id=job_id)
        self.status = status
        self.detail = detail


class ResultServerError(ResultRefusedError):
    """5xx and the like: the storage failed, or wants to be asked later."""

    transient = True


class ResultForbiddenError(ResultRefusedError):
    """403 and the like, though the URL is not known to have expired."""

    hint = (
        "if the job was created with output_save_url, that URL may be presigned for PUT only: "
        "pass ResultFetcher(resolve_url=...) a function that gives one that can be read"
    )


class ResultExpiredError(ResultRefusedError):
    """The URL had expired, and so had the fresh ones that the service gave for it."""


class ResultTransferError(ResultError):
    """The bytes did not arrive whole, however often it was tried.

    Attributes:
        received: Bytes of the last attempt.
        expected: Bytes announced; None where none were.
    """

    transient = True

    def __init__(self, message: str, *, job_id: str, received: int, expected: int | None) -> None:
        of = "" if expected is None else f" of {expected}"
        super().__init__(f"{message} (after {received}{of} bytes)", job_id=job_id)
        self.received = received
        self.expected = expected


class ResultChangedError(ResultError):
    """The object in storage became another one after bytes of the first had been handed out.

    What was read so far must be thrown away; read the result anew.

    Attributes:
        received: Bytes that had been handed out.
    """

    def __init__(self, *, job_id: str, received: int) -> None:
        super().__init__(
            f"the object in storage changed while it was read (after {received} bytes); "
            "throw away what was read, and begin anew",
            job_id=job_id,
        )
        self.received = received


class ResultMalformedError(ResultError):
    """What the storage sends is no result; or the bytes are whole, and are none.

    The first is tried again a few times, since gateways do that in passing.

    Attributes:
        problems: What is wrong, each as "problem @ path".
    """

    transient = True

    def __init__(self, problems: Sequence[str], *, job_id: str) -> None:
        shown = "; ".join(showable(problem, 200) for problem in problems[:5])
        super().__init__(f"not the JSON of a result: {shown}", job_id=job_id)
        self.problems = tuple(problems)


class ResultRangeError(ResultError):
    """Not a byte of the range that was asked for is in the result.

    Attributes:
        start: Where the range begins.
        size: Bytes of the whole result.
    """

    def __init__(self, *, job_id: str, start: int, size: int) -> None:
        super().__init__(
            f"nothing of it is at byte {start} and after: it has {size} bytes", job_id=job_id
        )
        self.start = start
        self.size = size


class ResultTooLargeError(ResultError):
    """The result is larger than may be held in memory; `download` it, or walk its `items`.

    Attributes:
        limit: The limit, in bytes.
    """

    def __init__(self, *, job_id: str, limit: int, what: str = "it") -> None:
        super().__init__(
            f"{what} is larger than {limit} bytes; use download(), stream() or items(), or raise "
            "max_result_bytes",
            job_id=job_id,
        )
        self.limit = limit


class TargetExistsError(ResultError, FileExistsError):
    """There is a file where the result should go; nothing was requested.

    Attributes:
        path: The file.
    """

    def __init__(self, *, job_id: str, path: str) -> None:
        super().__init__(
            f"{showable(path)} exists already; pass overwrite=True (--overwrite) to replace it",
            job_id=job_id,
        )
        self.path = path


class StorageError(ResultError):
    """The result could not be written: no space, no permission, no such folder.

    Attributes:
        path: Where the result should have gone.
        errno: The number of the `OSError` that says which; that error is the `__cause__`.
    """

    def __init__(self, *, job_id: str, path: str, cause: OSError) -> None:
        super().__init__(f"cannot write {showable(path)}: {cause.strerror}", job_id=job_id)
        self.path = path
        self.errno = cause.errno
        self.__cause__ = cause


# --- A webhook that counts for nothing ----------------------------------------------------------


class WebhookVerificationError(AdePollError):
    """A webhook is not what it says, or not from whom it should be. Answer it with 400 or 401.

    Attributes:
        reason: What is wrong with it; never what it holds.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"the webhook is refused: {reason}")
        self.reason = reason


# --- A journal that cannot be used --------------------------------------------------------------


class JournalError(AdePollError):
    """The journal of a batch could not be opened, read or written.

    Attributes:
        path: The file; None for a journal that is only in memory.
    """

    def __init__(self, message: str, *, path: str | None) -> None:
        subject = "the journal" if path is None else f"the journal {showable(path)}"
        super().__init__(f"{subject} {message}")
        self.path = path


class JournalNotFoundError(JournalError, FileNotFoundError):
    """There is no such journal, and none was to be made."""

    def __init__(self, *, path: str) -> None:
        super().__init__("is not there; check the path, or begin a batch with it", path=path)


class JournalBusyError(JournalError):
    """Somebody else has the journal open.

    Attributes:
        pid: The process that has; None where that cannot be told.
    """

    def __init__(self, *, path: str, pid: int | None) -> None:
        who = "another program, such as a sqlite3 shell" if pid is None else f"process {pid}"
        super().__init__(
            f"is in use by {who}; wait for its end, or stop it, before the same command again",
            path=path,
        )
        self.pid = pid


class JournalEndpointError(JournalError):
    """The journal is of jobs of another service: another region, host, scheme or port.

    Attributes:
        theirs: The address of the API that the journal was made for.
        ours: The one it was to be used with.
    """

    def __init__(self, *, path: str, theirs: str, ours: str) -> None:
        super().__init__(
            f"is of jobs at {showable(theirs)}, and this is {showable(ours)}; give the region or "
            "base URL it was made for, or another journal",
            path=path,
        )
        self.theirs = theirs
        self.ours = ours


class JournalFormatError(JournalError):
    """A newer version of adepoll wrote the journal.

    Attributes:
        found: Its format.
        known: The newest that this version reads.
    """

    def __init__(self, *, path: str, found: int, known: int) -> None:
        super().__init__(
            f"has format {found}, and this version of adepoll reads up to {known}; upgrade adepoll",
            path=path,
        )
        self.found = found
        self.known = known


class NotAJournalError(JournalError):
    """The file is something else; it was left as it is.

    Attributes:
        reason: What it is instead.
    """

    def __init__(self, *, path: str, reason: str) -> None:
        super().__init__(f"is none: {reason}; give another path", path=path)
        self.reason = reason


class JournalDamagedError(JournalError):
    """The file is a journal, and its contents make no sense; it was left as it is.

    Attributes:
        problems: What is wrong with it; never what it holds.
    """

    def __init__(self, problems: Sequence[str], *, path: str | None) -> None:
        shown = "; ".join(showable(problem, 120) for problem in problems[:3])
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""  # noqa: PLR2004 - three are told
        super().__init__(
            f"is damaged: {shown}{more}; copy it away with its -wal, then take out what can be "
            'read: sqlite3 COPY ".recover" | sqlite3 RESCUED; or begin anew with another journal',
            path=path,
        )
        self.problems = tuple(problems)


class JournalAccessError(JournalError):
    """The file cannot be opened or read: no such folder, no permission, a disk that fails.

    Attributes:
        errno: The number of the `OSError` that says which; None where SQLite does not tell.
    """

    def __init__(self, reason: str, *, path: str | None, errno: int | None) -> None:
        super().__init__(f"cannot be used: {reason}", path=path)
        self.errno = errno


class JournalWriteError(JournalError):
    """Something could not be written: most often the disk is full. None of it was.

    The journal stays as it was, and a later write can succeed.

    Attributes:
        code: SQLite's name for what went wrong, such as ``SQLITE_FULL``.
        errno: The number of an `OSError` that says as much; None where there is none.
    """

    def __init__(self, reason: str, *, path: str | None, code: str, errno: int | None) -> None:
        super().__init__(f"cannot be written: {reason}; the same command goes on then", path=path)
        self.code = code
        self.errno = errno


class BatchStoppedError(AdePollError):
    """A batch has stopped because nothing can be written any more: no space, a read-only disk.

    What it has told is kept; the same batch goes on where it stopped. The `StorageError` that says
    more is the `__cause__`.

    Attributes:
        path: What could not be written.
        errno: The number of the `OSError` behind it.
    """

    def __init__(self, cause: StorageError) -> None:
        super().__init__(f"{cause}; the batch has stopped: mend that, and the same batch goes on")
        self.path = cause.path
        self.errno = cause.errno
