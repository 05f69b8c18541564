"""Copies models without possible secrets, for every output."""

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache, partial
from typing import Any, Final, TypeAlias, TypeVar

import attrs

from adepoll.api.error_text import error_text
from adepoll.api.job_ids import is_job_id
from adepoll.api.json_fields import fields_of, is_own_data
from adepoll.api.json_text import dumps, loads
from adepoll.common.redaction import (
    ApiKey,
    redact_json,
    redact_text,
    redact_url,
    without,
)
from adepoll.errors import MalformedAnswerError

_T = TypeVar("_T")
_TEXT: Final = re.compile(r'"(?:[^"\\]|\\.)*+"')  # a text or a name in JSON
_Change: TypeAlias = Callable[[str, Any], Any]
"""Returns a text, or JSON, without secrets. The first argument is the name of the attribute."""


def redacted(model: _T) -> _T:
    """Return a copy of a model without queries of URLs, bearer tokens and signatures.

    The JSON of unknown fields is redacted as well. Fields with the metadata `OWN_DATA` stay as they
    are. Return the model itself if there is nothing to redact.
    """
    return _changed(model, _redact)


def without_key(model: _T, key: ApiKey | None, body: bytes) -> _T:
    """Return a copy of a model without the API key, which the service has no reason to send.

    The key would otherwise be in errors, logs and files. Fields with the metadata `OWN_DATA` stay
    as they are. Return the model itself if it does not contain the key.

    Args:
        model: A model that was read from the answer of the service.
        key: The API key; None to return the model itself.
        body: The answer.
    """
    if key is None or not key.may_be_in(body):
        return model
    return _changed(model, partial(_remove_key, key))


def _changed(model: _T, change: _Change) -> _T:
    """Return a copy of a model with changed texts and JSON; the model itself if nothing changes."""
    cls: type = type(model)  # `_names_of` needs a hashable argument, and mypy refuses a type[_T]
    changes: dict[str, Any] = {}
    for name in _names_of(cls):
        value = getattr(model, name)
        if (copy := _changed_value(name, value, change)) is not value:
            changes[name] = copy
    # A text for people can be a part of an object that the service sent, which is in `extra`. The
    # text is made again from the changed object, as it is made when the copy is written and read.
    sent, shown = getattr(model, "extra", {}), changes.get("extra", {})
    for field in fields_of(cls) if shown else ():
        part = shown.get(field.key)
        if isinstance(part, dict | list) and getattr(model, field.name) == error_text(
            sent[field.key]
        ):
            changes[field.name] = error_text(part)
    return attrs.evolve(model, **changes) if changes else model  # type: ignore[misc]  # an attrs class


def _changed_value(name: str, value: Any, change: _Change) -> Any:
    """Return the changed value of an attribute; the value itself if nothing changes."""
    if value is None:
        return None
    if isinstance(value, str):
        shown = change(name, value)
        return value if shown == value else shown
    if isinstance(value, Mapping):
        return change(name, value) if value else value
    if isinstance(value, tuple):
        items = tuple([_changed(item, change) for item in value])
        return items if any(a is not b for a, b in zip(items, value, strict=True)) else value
    return _changed(value, change) if attrs.has(type(value)) else value


def _redact(name: str, value: Any) -> Any:
    """Return a text or JSON without what looks like a secret."""
    if not isinstance(value, str):
        return redact_json(value)
    if name == "job_id" and is_job_id(value):
        return value  # a changed id could not be polled again
    return redact_url(value) if name == "output_url" else redact_text(value)


def _remove_key(key: ApiKey, _name: str, value: Any) -> Any:
    """Return a text or JSON without the API key."""
    if isinstance(value, str):
        return without(key, value)
    text = dumps(value)
    shown = without(key, text)
    if shown == text:
        return value
    with suppress(MalformedAnswerError):
        return loads(shown)

    # The key was found across the end of an escape or of a text. It is searched in each text alone,
    # which is slow.
    def without_key_in(found: re.Match[str]) -> str:
        shown = without(key, found[0])
        return found[0] if shown == found[0] else dumps(without(key, loads(found[0])))

    return loads(_TEXT.sub(without_key_in, text))


@cache
def _names_of(cls: type) -> tuple[str, ...]:
    """Return the names of the attributes that can contain text, except the customer's own data."""
    return tuple(
        field.name
        for field in attrs.fields(cls)
        if field.name == "extra" or (_contains_text(field.type) and not is_own_data(field))
    )


def _contains_text(declared: Any) -> bool:
    alternatives = [declared, *getattr(declared, "__args__", ())]
    return any(kind is str or attrs.has(kind) for kind in alternatives if isinstance(kind, type))
