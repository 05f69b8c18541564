"""The base of all errors, and the errors of wrong usage."""

from typing import Any, ClassVar

from adepoll.common.redaction import showable


def _rebuild(
    cls: type["AdePollError"], args: tuple[object, ...], state: dict[str, object]
) -> "AdePollError":
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class AdePollError(Exception):
    """The base of all errors about jobs, requests, results, files and settings.

    The only error of adepoll outside of this tree is `ClosedError`.

    All of them can be pickled and copied, so that they can cross process boundaries.

    Attributes:
        transient: True if the same call can succeed later, without a change by anybody: after a
            connection that failed, a 5xx, a 408, a 429 or a malformed answer.
        fatal: True if the error concerns the account or the client rather than one job, so that
            other calls fail as well, until an operator removes the cause: a refused key, no
            credits, a certificate that cannot be verified. An error can be neither: a job that does
            not exist concerns this job only, and stays unknown.
    """

    transient: ClassVar[bool] = False
    fatal: ClassVar[bool] = False

    def __reduce__(self) -> tuple[Any, ...]:
        """Rebuild the error from its args and attributes: constructors take keywords only."""
        return _rebuild, (type(self), self.args, dict(self.__dict__))


class ConfigurationError(AdePollError, ValueError):
    """An option or an environment variable has a value that cannot be used."""


class MissingApiKeyError(ConfigurationError):
    """There is no API key, neither as an argument nor in the environment.

    Attributes:
        variable: The environment variable that can contain the key.
    """

    def __init__(self, *, variable: str) -> None:
        super().__init__(
            f"no API key: set the environment variable {variable}, or pass api_key= to AdeClient"
        )
        self.variable = variable


class InvalidJobIdError(AdePollError, ValueError):
    """A text cannot be a job id. No request was sent.

    Attributes:
        job_id: The invalid id; its type and `repr` if it is not a string.
        reason: Why it is invalid.
    """

    def __init__(self, *, job_id: str, reason: str) -> None:
        super().__init__(f"invalid job id {showable(job_id, 80)!r}: {reason}")
        self.job_id = job_id
        self.reason = reason


class ClosedError(RuntimeError):
    """The client, watcher or fetcher was used after it was closed, or was closed while in use.

    Not an `AdePollError`: it says nothing about a job or the service. At the shutdown of a server,
    code such as ``except AdePollError: mark_as_unresolved(job)`` must not run.
    """


class TooManyTenantsError(AdePollError):
    """All tenants that a server may have open at the same time are in use.

    Attributes:
        limit: Maximum number of tenants.
    """

    transient = True

    def __init__(self, *, limit: int) -> None:
        super().__init__(f"all {limit} tenants are in use; pass a larger limit= to allow more")
        self.limit = limit


class WebhookVerificationError(AdePollError):
    """A webhook is malformed, or is not proven to come from the service. Answer with 400 or 401.

    Attributes:
        reason: What is wrong with it; never a part of its content.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"the webhook is refused: {reason}")
        self.reason = reason
