"""JobStatus: the status of a job of any kind. Imports nothing of adepoll."""

from enum import Enum
from typing import Final


class _Terminal(Enum):
    # If `JobStatus` declared this attribute, mypy would not know the type of `JobStatus.value`.
    is_terminal: bool


class JobStatus(_Terminal):
    """The status of a job: pending, processing, completed, failed, cancelled or unknown.

    The value of a member is the service's text, such as ``"completed"``. `UNKNOWN` stands for any
    text that this version does not know.

    Attributes:
        is_terminal: True if a job with this status will never change again.
    """

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"

    __hash__ = object.__hash__  # faster than Enum.__hash__; a member is equal only to itself

    @classmethod
    def parse(cls, text: str) -> "JobStatus":
        """Return the status with this text, in upper or lower case; `UNKNOWN` for other texts."""
        return _BY_TEXT.get(text) or _BY_TEXT.get(text.strip().lower()) or cls.UNKNOWN


for _status in JobStatus:  # not a property, which would be slow: every poll reads it
    _status.is_terminal = _status.value in {"completed", "failed", "cancelled"}
_BY_TEXT: Final = {status.value: status for status in JobStatus if status is not JobStatus.UNKNOWN}
_BY_TEXT["canceled"] = JobStatus.CANCELLED  # the American spelling
