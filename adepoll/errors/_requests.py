"""Errors that are raised if a request to the service gets no usable response."""

from collections.abc import Sequence
from typing import ClassVar

from adepoll.common.redaction import redact_text, showable
from adepoll.errors._base import AdePollError


class RequestError(AdePollError):
    """A request to the API got no usable response.

    Attributes:
        job_id: Id of the job that the request was about; None for a page of the list.
        retry_after: Seconds that the service asked to wait, at most 300; None if it did not ask.
    """

    retry_after: float | None = None

    def __init__(self, message: str, *, job_id: str | None) -> None:
        subject = "" if job_id is None else f"job {showable(job_id, 80)}: "
        super().__init__(subject + message)
        self.job_id = job_id


class TransportError(RequestError):
    """No complete response arrived: the connection failed or broke, or a time limit expired."""

    transient = True


class ConnectionFailedError(TransportError):
    """The connection could not be opened: unknown host name, refused, or unreachable."""


class CertificateError(TransportError):
    """The certificate of the service cannot be verified, or the service rejected the client's.

    If the certificate of the service cannot be verified, the key was not sent.
    """

    transient = False
    fatal = True


class ProxyError(TransportError):
    """The proxy cannot be reached, or failed to open a connection to the service."""


class ProxyRefusedError(ProxyError):
    """The proxy refused the connection, and would refuse it again.

    Examples: the credentials are wrong (407), or the rules of the proxy forbid the host (403).
    """

    transient = False
    fatal = True


class ServiceDownError(TransportError):
    """The service is down, so the call did not send its request, or did not repeat it.

    During an outage, only a few requests are sent, to find out whether the service works again. In
    a watch, this error is also the cause of a job that is given up after `outage_patience`.

    Attributes:
        failures: Number of consecutive failed requests.
        cause: Error of the last failed request; None if it is unknown.
    """

    def __init__(
        self, *, failures: int, cause: RequestError | None, host: str = "the service"
    ) -> None:
        last = "" if cause is None else f", the last with: {cause}"
        super().__init__(f"{host} is down: {failures} requests in a row failed{last}", job_id=None)
        self.failures = failures
        self.cause = cause


class AnswerTimeoutError(TransportError, TimeoutError):
    """The response was not complete in time.

    Attributes:
        timeout: Seconds after which adepoll stopped waiting. This is the `timeout` of the client,
            or less for a poll of a watcher: a poll can end early if its host sends nothing while
            polls of another host wait for a place of the semaphore.
    """

    def __init__(self, *, timeout: float, job_id: str | None) -> None:
        super().__init__(f"no complete answer within {timeout:g} s", job_id=job_id)
        self.timeout = timeout


class AnswerError(RequestError):
    """A response arrived, but could not be interpreted.

    Gateways and deployments can cause such responses for a short time. So adepoll repeats the
    request if `transient` is True, and raises this error after the last retry.
    """

    transient = True


class MalformedAnswerError(AnswerError):
    """The body is not JSON, or does not have the documented shape.

    Attributes:
        problems: Descriptions of what is wrong, each as "problem @ path". They contain no value of
            the body, because the body can contain a customer's document.
    """

    def __init__(self, problems: Sequence[str], *, job_id: str | None = None) -> None:
        shown = "; ".join(showable(problem, 200) for problem in problems[:5])
        more = f" (and {len(problems) - 5} more)" if len(problems) > 5 else ""  # noqa: PLR2004 - the message names five problems
        super().__init__(f"the service sent a malformed answer: {shown}{more}", job_id=job_id)
        self.problems = tuple([redact_text(problem) for problem in problems])


class AnswerTooLargeError(AnswerError):
    """The body of the response is larger than the client accepts.

    The limit is `max_body_bytes`, or 1 GiB for an answer about a v2 job that contains its result.

    Attributes:
        limit: The limit that was exceeded, in bytes.
        is_fixed: True if no argument of the client changes this limit.
    """

    transient = False

    def __init__(self, *, limit: int, job_id: str | None, is_fixed: bool = False) -> None:
        advice = "" if is_fixed else "; pass a larger max_body_bytes to accept it"
        super().__init__(f"the answer is larger than {limit} bytes{advice}", job_id=job_id)
        self.limit = limit
        self.is_fixed = is_fixed


class HeadersTooLargeError(AnswerError):
    """A header of the response, or the number of headers, exceeds the limits of the client.

    The limits are `max_header_bytes` and `max_headers` of `TransportOptions`.
    """


class WrongJobError(AnswerError):
    """The response is not about the requested job, but about another one.

    Attributes:
        answered: Id of the job in the response, redacted and shortened.
    """

    def __init__(self, *, job_id: str, answered: str) -> None:
        super().__init__(
            f"the service answered about another job, {showable(answered, 80)!r}", job_id=job_id
        )
        self.answered = showable(answered)


class StatusError(RequestError):
    """The service answered with an error status.

    Attributes:
        status: The HTTP status.
        detail: Message of the service, redacted and shortened; "" if it sent no message.
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
    """3xx: the response is a redirect, which adepoll does not follow.

    The API sends no redirects, and the key must not be sent to another address.
    """

    hint = "redirects are not followed; check base_url"


class AuthenticationError(StatusError):
    """401: the key is missing or wrong, or belongs to another region."""

    fatal = True
    hint = "check VISION_AGENT_API_KEY, and that the key belongs to this region"


class PaymentRequiredError(StatusError):
    """402: the organisation has no credits left."""

    fatal = True
    hint = "the organisation has no credits left; add credits, then try again"


class PermissionDeniedError(StatusError):
    """403: this key does not permit the request, or a firewall has refused it."""

    hint = "this key does not permit the request, or a firewall refused it"


class JobNotFoundError(StatusError):
    """404: the service does not know the job, or does not know a new job yet."""

    hint = "no such job for this kind, key and region, or it was deleted"


class ServerTimeoutError(StatusError):
    """408: the service did not receive the request within its own time limit."""

    transient = True


class UnprocessableError(StatusError):
    """422: the service does not accept a parameter; `detail` has the message of the service."""


class RateLimitedError(StatusError):
    """429: the organisation has exceeded its rate limit."""

    transient = True


class ServerError(StatusError):
    """5xx: the service, or a gateway in front of the service, failed."""

    transient = True


class UnexpectedStatusError(StatusError, AnswerError):
    """The response has a status that the service does not document for the request, such as 400.

    Gateways and firewalls can send such a status for a short time, so adepoll repeats the request.
    """
