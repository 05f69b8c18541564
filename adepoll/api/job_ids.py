"""What can be a job id, and the name of the file of its result. Imports errors only."""

import hashlib
import re
from typing import Final, TypeGuard

from adepoll.errors import InvalidJobIdError

MAX_JOB_ID_LENGTH: Final = 256
_LONGEST_NAME: Final = 200  # bytes; what stands beside the file has a longer name
_REFUSED: Final = re.compile(r"[/\\?#%]")
_WHITE_SPACE: Final = re.compile(r"\s")  # of Unicode, and of one mind with str.isspace


def check_job_id(job_id: object) -> str:
    r"""Give the id back, if it can be one. No request is needed to refuse the rest.

    Raises:
        InvalidJobIdError: It is no string, empty, over 256 characters, only dots, or holds one of
            ``/ \ ? # %``, white space or an unprintable character.
    """
    if is_plain(job_id):
        return job_id
    if not isinstance(job_id, str):
        raise InvalidJobIdError(
            # With the space in it, this can be taken for no valid id.
            job_id=f"{type(job_id).__name__} {job_id!r}",
            reason="it is no string",
        )
    if reason := _what_is_wrong(job_id):
        raise InvalidJobIdError(job_id=job_id, reason=reason)
    return job_id


def is_plain(job_id: object) -> TypeGuard[str]:
    """Tell whether this is an id of ASCII letters, digits and hyphens alone, as nearly all are.

    Such a one needs no further check, and no encoding in a URL.
    """
    return (
        type(job_id) is str
        and job_id.isascii()
        and job_id.replace("-", "").isalnum()
        and len(job_id) <= MAX_JOB_ID_LENGTH
    )


def is_job_id(text: str) -> bool:
    """Tell whether this can be a job id; `check_job_id` says why it cannot."""
    return _what_is_wrong(text) is None


def result_name(job_id: str) -> str:
    """Name the file of a job's result: its id, cut where a file system would refuse it."""
    encoded = job_id.encode()
    if len(encoded) <= _LONGEST_NAME:
        return f"{job_id}.json"
    head = encoded[:100].decode("utf-8", "ignore")
    return f"{head}-{hashlib.sha256(encoded).hexdigest()[:32]}.json"


def _what_is_wrong(job_id: str) -> str | None:  # noqa: PLR0911 - one return a rule
    if not job_id:
        return "it is empty"
    if len(job_id) > MAX_JOB_ID_LENGTH:
        return f"it is longer than {MAX_JOB_ID_LENGTH} characters"
    if not job_id.strip("."):
        return "it is only dots"
    if refused := _REFUSED.search(job_id):
        return f"it holds {refused[0]!r}"
    if _WHITE_SPACE.search(job_id):
        return "it holds white space"
    if not job_id.isprintable():
        return "it holds an unprintable character"
    return None
