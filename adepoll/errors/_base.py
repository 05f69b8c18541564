"""The base of all errors, and the errors of wrong usage."""

from typing import Any, ClassVar

from adepoll.redaction import showable


def _rebuild(
    cls: type["AdePollError"], args: tuple[object, ...], state: dict[str, object]
) -> "AdePollError":
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class AdePollError(Exception):
    """The base of all errors that adepoll raises on purpose.

    All of them can be pickled and copied, so that they can cross process boundaries.

    Attributes:
        transient: Whether the same call can succeed later.
        fatal: Whether the error concerns the client or the account rather than one job, so that
            all other calls will fail, too.
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


class ClosedError(AdePollError, RuntimeError):
    """The client, watcher or fetcher was used after it was closed, or was closed while in use."""

    fatal = True


class WebhookVerificationError(AdePollError):
    """A webhook is malformed, or is not proven to come from the service. Answer with 400 or 401.

    Attributes:
        reason: What is wrong with it; never a part of its content.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"the webhook is refused: {reason}")
        self.reason = reason
