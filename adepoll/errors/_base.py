"""The base class of the errors, and errors of wrong usage."""

from typing import Any, ClassVar

from adepoll.common.redaction import showable


def _rebuild(
    cls: type["AdePollError"], args: tuple[object, ...], state: dict[str, object]
) -> "AdePollError":
    """Create an error from its pickled attributes, without a call of its constructor."""
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class AdePollError(Exception):
    """The base class of all errors about jobs, requests, results, files and settings.

    `ClosedError` is the only error of adepoll that has another base class. All errors can be copied
    and pickled, for example to send them to another process.

    An error can be neither transient nor fatal. Then the same call fails again until something
    changes, such as the job, an argument or a file, but calls for other jobs can succeed.

    Attributes:
        transient: True if the failure is probably temporary: the connection failed, the answer was
            malformed, or the status was 408, 429 or 5xx. A repeated call can then succeed, although
            neither the job nor the arguments have changed.
        fatal: True if calls for other jobs fail as well until an operator removes the cause: the
            key is refused, there are no credits, the certificate cannot be verified, or the proxy
            refuses the connection.
    """

    transient: ClassVar[bool] = False
    fatal: ClassVar[bool] = False

    def __reduce__(self) -> tuple[Any, ...]:
        """Return how pickle creates a copy of the error: from its attributes.

        By default, pickle would pass `args` to the constructor. This would fail, because the
        constructors accept only keywords.
        """
        return _rebuild, (type(self), self.args, dict(self.__dict__))


class ConfigurationError(AdePollError, ValueError):
    """An option or an environment variable has a value that cannot be used."""


class MissingApiKeyError(ConfigurationError):
    """The API key is missing, both as an argument and in the environment.

    Attributes:
        variable: Name of the environment variable that can contain the key.
    """

    def __init__(self, *, variable: str) -> None:
        super().__init__(
            f"no API key: set the environment variable {variable}, or pass api_key= to AdeClient"
        )
        self.variable = variable


class InvalidJobIdError(AdePollError, ValueError):
    """A text cannot be a job id. No request was sent.

    Attributes:
        job_id: The invalid id; if the id is not a string, its type and `repr`.
        reason: Why the id is invalid.
    """

    def __init__(self, *, job_id: str, reason: str) -> None:
        super().__init__(f"invalid job id {showable(job_id, 80)!r}: {reason}")
        self.job_id = job_id
        self.reason = reason


class ClosedError(RuntimeError):
    """A client, watcher or fetcher was used after it was closed, or was closed while in use.

    This is not an `AdePollError`, because it says nothing about a job or the service. When a server
    shuts down, code such as ``except AdePollError: mark_as_unresolved(job)`` must not run.
    """


class TooManyTenantsError(AdePollError):
    """A server cannot open one more tenant, because its maximum number of tenants is in use.

    A tenant is one API key and its region, with a client of its own.

    Attributes:
        limit: Maximum number of open tenants.
    """

    transient = True

    def __init__(self, *, limit: int) -> None:
        super().__init__(f"all {limit} tenants are in use; pass a larger limit= to allow more")
        self.limit = limit


class WebhookVerificationError(AdePollError):
    """A webhook is malformed, or does not prove that the service sent it.

    Answer the request with status 400 or 401.

    Attributes:
        reason: What is wrong with the webhook. It contains nothing that the sender wrote.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"the webhook is refused: {reason}")
        self.reason = reason
