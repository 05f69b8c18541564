"""Checks whether a text can be a job id. Imports `errors` only."""

import re
from typing import Final, TypeGuard

from adepoll.errors import InvalidJobIdError

MAX_JOB_ID_LENGTH: Final = 256
PLAIN_JOB_ID: Final = re.compile(r"(?=.{1,256}\Z)-*[A-Za-z0-9][A-Za-z0-9-]*", re.ASCII)
"""Matches ids of ASCII letters, digits and hyphens. They are valid, and URLs need no encoding."""

_FORBIDDEN: Final = re.compile(r"[/\\?#%]")
_WHITE_SPACE: Final = re.compile(r"\s")  # Unicode white space, the same as str.isspace


def check_job_id(job_id: object) -> str:
    r"""Return the value if it can be a job id; raise if not.

    Raises:
        InvalidJobIdError: The id is not a string, is empty, has more than 256 characters, consists
            of dots only, or contains one of ``/ \ ? # %``, white space or an unprintable character.
    """
    if type(job_id) is str and PLAIN_JOB_ID.fullmatch(job_id):
        return job_id
    if not isinstance(job_id, str):
        raise InvalidJobIdError(
            # The text contains a space, so it can never be mistaken for a valid id.
            job_id=f"{type(job_id).__name__} {job_id!r}",
            reason="it is not a string",
        )
    if reason := _problem(job_id):
        raise InvalidJobIdError(job_id=job_id, reason=reason)
    return job_id


def is_plain(job_id: object) -> TypeGuard[str]:
    """Return whether the id has only ASCII letters, digits and hyphens, as nearly all ids do."""
    return type(job_id) is str and PLAIN_JOB_ID.fullmatch(job_id) is not None


def is_job_id(text: str) -> bool:
    """Return whether the text can be a job id; see `check_job_id`."""
    return _problem(text) is None


def _problem(job_id: str) -> str | None:  # noqa: PLR0911 - one return for each rule
    """Return why a text cannot be a job id; None if it can be one."""
    if not job_id:
        return "it is empty"
    if len(job_id) > MAX_JOB_ID_LENGTH:
        return f"it is longer than {MAX_JOB_ID_LENGTH} characters"
    if not job_id.strip("."):
        return "it consists of dots only"
    if forbidden := _FORBIDDEN.search(job_id):
        return f"it contains {forbidden[0]!r}"
    if _WHITE_SPACE.search(job_id):
        return "it contains white space"
    if not job_id.isprintable():
        return "it contains an unprintable character"
    return None
