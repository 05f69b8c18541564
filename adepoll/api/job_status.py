"""The status of a job, as every kind of jobs states it. Imports nothing of adepoll."""

from enum import Enum
from typing import Final


class JobStatus(Enum):
    """The status of a job. `UNKNOWN` stands for a status text that this version does not know.

    Attributes:
        is_terminal: Whether a job with this status never changes again.
    """

    is_terminal: bool

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"

    __hash__ = object.__hash__  # faster than Enum's; a member is equal to itself only

    @classmethod
    def parse(cls, text: str) -> "JobStatus":
        """Return the status with that text in upper or lower case, or `UNKNOWN`."""
        return _BY_TEXT.get(text) or _BY_TEXT.get(text.strip().lower()) or cls.UNKNOWN


for _status in JobStatus:  # read at every poll, and a property of an Enum is slow
    _status.is_terminal = _status.value in {"completed", "failed", "cancelled"}
_BY_TEXT: Final = {status.value: status for status in JobStatus if status is not JobStatus.UNKNOWN}
_BY_TEXT["canceled"] = JobStatus.CANCELLED  # the American spelling
