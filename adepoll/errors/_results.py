"""Errors of fetching a result and of writing it to a file."""

from collections.abc import Sequence

from adepoll.common.redaction import redact_text, redact_url, showable
from adepoll.common.system_errors import reason_of
from adepoll.errors._base import AdePollError


class ResultError(AdePollError):
    """The result of a job could not be fetched.

    Attributes:
        job_id: The job.
    """

    def __init__(self, message: str, *, job_id: str) -> None:
        super().__init__(f"result of job {showable(job_id, 80)}: {message}")
        self.job_id = job_id


class ResultNotReadyError(ResultError):
    """The job has not settled yet, so it has no result.

    Attributes:
        status: The status text of the job.
    """

    def __init__(self, *, job_id: str, status: str) -> None:
        super().__init__(f"the job is still {showable(status, 40)}; wait for it", job_id=job_id)
        self.status = redact_text(status)


class ResultUnavailableError(ResultError):
    """The job has completed, but the service returns neither its result nor a URL of the result."""

    def __init__(self, *, job_id: str) -> None:
        super().__init__(
            "the job is completed, but the service keeps no result of it: with zero data "
            "retention, it deletes a result after the first read, or stores it only at the "
            "output_save_url given at submission",
            job_id=job_id,
        )


class ResultUrlError(ResultError):
    """The service returned a URL of the result that is not valid or not allowed.

    Attributes:
        url: The redacted URL.
    """

    def __init__(self, *, job_id: str, url: str, reason: str) -> None:
        self.url = redact_url(url)
        super().__init__(f"{reason}: {showable(self.url)}", job_id=job_id)


class ResultRefusedError(ResultError):
    """The object storage that has the result answered with an error status.

    Attributes:
        status: The HTTP status.
        detail: Message of the storage, redacted and shortened; "" if it sent no message.
        url: The redacted URL of the result.
    """

    hint: str = ""  # an addition to the message

    def __init__(self, *, job_id: str, status: int, detail: str, url: str) -> None:
        self.url = redact_url(url)
        said = f": {detail}" if detail else ""
        hint = f" ({self.hint})" if self.hint else ""
        super().__init__(f"{showable(self.url)} answered {status}{said}{hint}", job_id=job_id)
        self.status = status
        self.detail = detail


class ResultServerError(ResultRefusedError):
    """The object storage that has the result failed (5xx), or asked to try again later.

    Attributes:
        retry_after: Seconds that the storage asked to wait, at most one day; None if it did not
            ask, or asked for a longer time.
    """

    transient = True

    def __init__(
        self,
        *,
        job_id: str,
        status: int,
        detail: str,
        url: str,
        retry_after: float | None = None,
    ) -> None:
        if retry_after:
            self.hint = f"it asked to wait {retry_after:,.0f} seconds"
        super().__init__(job_id=job_id, status=status, detail=detail, url=url)
        self.retry_after = retry_after


class ResultForbiddenError(ResultRefusedError):
    """The object storage refused the URL of the result (400, 401 or 403).

    The URL does not seem to have expired.
    """

    hint = (
        "if the job was created with output_save_url, that URL may be presigned for PUT only: "
        "pass a function as ResultFetcher(resolve_url=...) that returns a URL for reading"
    )


class ResultExpiredError(ResultRefusedError):
    """The URL of the result has expired, and could not be renewed."""


class ResultTransferError(ResultError):
    """The result did not arrive completely, even after retries.

    Attributes:
        received: Number of bytes that have arrived.
        expected: Size of the result in bytes, as announced by the object storage; None if no size
            was announced.
        is_object_at_fault: True if the cause is the object in the storage: it is incomplete, or was
            replaced during the transfer. False if the cause is the connection or the storage.
    """

    transient = True

    def __init__(
        self,
        message: str,
        *,
        job_id: str,
        received: int,
        expected: int | None,
        is_object_at_fault: bool = False,
    ) -> None:
        of = "" if expected is None else f" of {expected}"
        super().__init__(f"{message} (after {received}{of} bytes)", job_id=job_id)
        self.received = received
        self.expected = expected
        self.is_object_at_fault = is_object_at_fault


class ResultCertificateError(ResultTransferError):
    """The certificate of a storage cannot be verified, or the storage rejected the client's.

    If the certificate of the storage cannot be verified, the URL of the result was not sent. If the
    problem concerns the API, the error is a `CertificateError`.
    """

    transient = False


class ResultProxyRefusedError(ResultTransferError):
    """The proxy refused the connection to the object storage that has the result.

    If the proxy refuses the connection to the API, the error is a `ProxyRefusedError`.
    """

    transient = False


class ResultChangedError(ResultError):
    """The result was replaced in the object storage while the caller was reading it.

    Discard the bytes that were read, and read the result again.

    Attributes:
        received: Number of bytes that the caller has read before the change was found.
    """

    def __init__(self, *, job_id: str, received: int) -> None:
        super().__init__(
            f"the object in storage changed while it was read (after {received} bytes); "
            "discard these bytes and read the result again",
            job_id=job_id,
        )
        self.received = received


class ResultMalformedError(ResultError):
    """The bytes from the object storage are not a result.

    They can be the error page of a gateway. Therefore adepoll requests the result again, unless the
    complete body has more than 1 MiB: no error page is so large.

    Attributes:
        problems: Descriptions of what is wrong, each as "problem @ path".
    """

    transient = True

    def __init__(self, problems: Sequence[str], *, job_id: str) -> None:
        shown = "; ".join(showable(problem, 200) for problem in problems[:5])
        super().__init__(f"not the JSON of a result: {shown}", job_id=job_id)
        self.problems = tuple([redact_text(problem) for problem in problems])


class ResultRangeError(ResultError):
    """The requested range begins after the end of the result.

    Attributes:
        start: Offset of the first byte of the range.
        size: Size of the whole result in bytes.
    """

    def __init__(self, *, job_id: str, start: int, size: int) -> None:
        super().__init__(
            f"the range starts at byte {start}, but the result has {size} bytes", job_id=job_id
        )
        self.start = start
        self.size = size


class ResultTooLargeError(ResultError):
    """The result is larger than the memory limit; use `download`, `stream` or `items`.

    Attributes:
        limit: The limit, in bytes.
    """

    def __init__(self, *, job_id: str, limit: int, what: str = "it") -> None:
        methods = "download(), stream() or items()" if what == "it" else "download() or stream()"
        super().__init__(
            f"{what} is larger than {limit} bytes; use {methods}, or pass a larger "
            "max_result_bytes",
            job_id=job_id,
        )
        self.limit = limit


class TargetExistsError(ResultError, FileExistsError):
    """The target file exists already, and was not replaced.

    Attributes:
        path: The file.
    """

    def __init__(self, *, job_id: str, path: str, protected: bool = False) -> None:
        advice = (
            "it is a file that the batch protects, such as its journal; use another folder"
            if protected
            else "pass overwrite=True to replace it"
        )
        super().__init__(f"{showable(path)} exists already; {advice}", job_id=job_id)
        self.path = path


class StorageError(ResultError):
    """The result could not be written to its local file.

    Examples: the disk is full, a permission is missing, or the folder does not exist. The
    `__cause__` is the `OSError`.

    Attributes:
        path: The file.
        errno: Error number of the operating system.
    """

    def __init__(self, *, job_id: str, path: str, cause: OSError) -> None:
        super().__init__(f"cannot write {showable(path)}: {reason_of(cause)}", job_id=job_id)
        self.path = path
        self.errno = cause.errno
        self.__cause__ = cause
