"""Logs values in answers that adepoll cannot read, each only the first time."""

import logging
from functools import cache
from typing import Any, Final, TypeVar

import attrs

from adepoll.__about__ import __version__
from adepoll.api.json_fields import fields_of, keys_of
from adepoll.api.json_text import Json
from adepoll.api.models import JobPage, JobSnapshot, JobStatus
from adepoll.common.redaction import showable

_log = logging.getLogger("adepoll.api")

_Answer = TypeVar("_Answer", JobSnapshot, JobPage)
_UNKNOWN: Final = JobStatus.UNKNOWN  # faster: Python 3.11 finds a member of an Enum slowly
_MAX_UNKNOWN_STATUSES: Final = 20


class OddAnswers:
    """Logs unknown statuses and unreadable fields in answers of the service, each only once."""

    def __init__(self) -> None:
        """Create an object that has not logged anything yet."""
        self._statuses: set[str] = set()
        self._fields: set[str] = set()

    def checked(self, answer: _Answer) -> _Answer:
        """Log an unknown status or unreadable fields of an answer; return the answer unchanged.

        Each status and each field is logged only the first time.
        """
        if getattr(answer, "status", None) is _UNKNOWN:
            self._report(answer)
            return answer
        models: list[Any] = [answer]
        for model in models:  # not recursive, because calls would make every poll slower
            if getattr(model, "extra", None):
                self._report(answer)
                return answer
            cls: type = type(model)
            for name in _models_in(cls):
                if (inner := getattr(model, name)) is not None:
                    models.append(inner)  # noqa: PERF401 - a comprehension would be slower
        return answer

    def _report(self, answer: JobSnapshot | JobPage) -> None:
        """Log an unknown status and unreadable fields of an answer, unless logged before."""
        if isinstance(answer, JobSnapshot) and answer.status is _UNKNOWN:
            self._warn_of_status(answer.status_text)
        for path in unread_fields(answer):
            if path not in self._fields:
                self._fields.add(path)
                _log.warning(
                    "the service sent a value for %s that adepoll %s cannot read, or not "
                    "completely; its JSON is in the attribute `extra`",
                    path,
                    __version__,
                )

    def _warn_of_status(self, text: str) -> None:
        """Log a status text that adepoll does not know, unless it was logged before.

        Only the first 20 unknown texts are logged.
        """
        known = self._statuses
        if text not in known and len(known) < _MAX_UNKNOWN_STATUSES:
            known.add(text)
            _log.warning(
                "the service answered with a status that adepoll %s does not know, %r; "
                "jobs with it count as active",
                __version__,
                showable(text, 40),
            )


def unread_fields(model: Any, path: str = "$") -> list[str]:
    """Return the paths of the fields of a model that could not be read completely, or at all.

    A fraction that was rounded to a whole number counts as read. The items of arrays are not
    searched.

    Args:
        model: A snapshot, a page of the list, or a model in one of them.
        path: Path of the model, with which each returned path begins.
    """
    cls: type = type(model)
    paths = []
    if extra := getattr(model, "extra", None):
        rounded = {  # fields with a whole number whose JSON, in `extra`, has a fraction
            field.key
            for field in fields_of(cls)
            if field.type is int and type(extra.get(field.key)) is float
        }
        keys = sorted(
            key
            for key in keys_of(cls) - rounded
            if (key in extra and not is_error(extra[key])) or f"{key}_json" in extra
        )
        paths = [f"{path}.{key}" for key in keys]
    for name in _models_in(cls):
        if (value := getattr(model, name)) is not None:
            paths += unread_fields(value, f"{path}.{name}")
    return paths


def is_error(value: Json) -> bool:
    """Return whether the value is a JSON object with only the fields ``code`` and ``message``.

    adepoll reads both fields of such an error object, so nothing of it is unread.
    """
    return isinstance(value, dict) and value.keys() <= {"code", "message"}


@cache
def _models_in(cls: type) -> tuple[str, ...]:
    """Return the names of a class's fields whose value is one object of an attrs class."""
    if not attrs.has(cls):
        return ()  # the `data` of a user-defined kind can be of any class
    return tuple(f.name for f in fields_of(cls) if attrs.has(f.type) and not f.many)
