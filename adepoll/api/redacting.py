"""Copies models without possible secrets, for every output."""

from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar

import attrs

from adepoll.api.error_text import error_text
from adepoll.api.job_ids import is_job_id
from adepoll.api.json_fields import fields_of, is_own_data
from adepoll.common.redaction import redact_json, redact_text, redact_url

_T = TypeVar("_T")


def redacted(model: _T) -> _T:
    """Return a copy of a model without queries of URLs, bearer tokens and signatures.

    The JSON of unknown fields is redacted as well. Fields with the metadata `OWN_DATA` stay as they
    are. Return the model itself if there is nothing to redact.
    """
    cls: type = type(model)  # `_names_of` needs a hashable argument, and mypy refuses a type[_T]
    changes: dict[str, Any] = {}
    for name in _names_of(cls):
        value = getattr(model, name)
        if (copy := _redacted_value(name, value)) is not value:
            changes[name] = copy
    # A text for people can be a part of an object that the service sent, which is in `extra`. The
    # text is made again from the redacted object, as it is made when the copy is written and read.
    sent, shown = getattr(model, "extra", {}), changes.get("extra", {})
    for field in fields_of(cls) if shown else ():
        part = shown.get(field.key)
        if isinstance(part, dict | list) and getattr(model, field.name) == error_text(
            sent[field.key]
        ):
            changes[field.name] = error_text(part)
    return attrs.evolve(model, **changes) if changes else model  # type: ignore[misc]  # an attrs class


def _redacted_value(name: str, value: Any) -> Any:
    """Return the value of an attribute without secrets; the value itself if it has no secrets."""
    if value is None:
        return None
    if isinstance(value, str):
        if name == "job_id" and is_job_id(value):
            return value  # a changed id could not be polled again
        shown = redact_url(value) if name == "output_url" else redact_text(value)
        return value if shown == value else shown
    if isinstance(value, Mapping):
        return redact_json(value) if value else value
    if isinstance(value, tuple):
        items = tuple([redacted(item) for item in value])
        return items if any(a is not b for a, b in zip(items, value, strict=True)) else value
    return redacted(value) if attrs.has(type(value)) else value


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
