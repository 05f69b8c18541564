"""Copies of models without possible secrets, for every output. Imports json_fields and job_ids."""

from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar

import attrs

from adepoll.api.job_ids import is_job_id
from adepoll.api.json_fields import is_own_data
from adepoll.common.redaction import redact_json, redact_text, redact_url

_T = TypeVar("_T")


def redacted(model: _T) -> _T:
    """Return a copy of a model whose texts contain neither URL queries nor signatures.

    JSON of unknown fields is redacted as well. Declared fields with the customer's
    own result stay as they are. Returns the model itself if there is nothing to redact.
    """
    cls: type = type(model)  # mypy does not take a type[_T] for a hashable object
    changes = {}
    for name in _names_of(cls):
        value = getattr(model, name)
        if (shown := _redacted_value(name, value)) is not value:
            changes[name] = shown
    return attrs.evolve(model, **changes) if changes else model  # type: ignore[misc]  # an attrs class


def _redacted_value(name: str, value: Any) -> Any:
    if value is None:
        return None
    if isinstance(value, str):
        if name == "job_id" and is_job_id(value):
            return value  # it is needed to find the job again
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
    """Return the attributes that can contain text of the service."""
    return tuple(
        field.name
        for field in attrs.fields(cls)
        if field.name == "extra" or (_contains_text(field.type) and not is_own_data(field))
    )


def _contains_text(declared: Any) -> bool:
    alternatives = [declared, *getattr(declared, "__args__", ())]
    return any(kind is str or attrs.has(kind) for kind in alternatives if isinstance(kind, type))
