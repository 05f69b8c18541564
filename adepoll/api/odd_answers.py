"""Logs what a client could not interpret in answers, once for each kind. Imports models."""

import logging
from functools import cache
from typing import Any, Final

import attrs

from adepoll.__about__ import __version__
from adepoll.api.json_fields import fields_of, keys_of
from adepoll.api.json_text import Json
from adepoll.api.models import JobPage, JobSnapshot, JobStatus
from adepoll.common.redaction import showable

_log = logging.getLogger("adepoll.api")

_MAX_UNKNOWN_STATUSES: Final = 20


class OddAnswers:
    """Logs unknown statuses, and fields that could not be read, once each."""

    def __init__(self) -> None:
        """Start without odd answers."""
        self._statuses: set[str] = set()
        self._fields: set[str] = set()

    def check(self, answer: JobSnapshot | JobPage) -> None:
        """Log what is odd about an answer, unless an earlier answer was odd in the same manner."""
        if isinstance(answer, JobSnapshot) and answer.status is JobStatus.UNKNOWN:
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
    """Return the paths of declared fields whose JSON is in `extra`; not within arrays."""
    cls: type = type(model)
    paths = []
    if extra := getattr(model, "extra", None):
        rounded = {  # a fraction: `extra` has all of it
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
    """Return whether this is an error object as documented, whose text and code are both read."""
    return isinstance(value, dict) and value.keys() <= {"code", "message"}


@cache
def _models_in(cls: type) -> tuple[str, ...]:
    """Return the names of the fields that contain an instance of an attrs class."""
    if not attrs.has(cls):
        return ()  # `data` of another kind of job
    return tuple(f.name for f in fields_of(cls) if attrs.has(f.type) and not f.many)
