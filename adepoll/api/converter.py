"""Structures JSON as attrs classes and back with cattrs. Imports json_fields only.

Slow to import: codec imports this module when it is first needed.
"""

from collections.abc import Callable
from datetime import datetime
from enum import Enum
from typing import Any, Final, TypeAlias, get_args

import attrs
import cattrs
from cattrs.fns import identity
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override

from adepoll.api.json_fields import SCALARS, Json, ShapeError, expect, fields_of, members_of

_Hook: TypeAlias = Callable[..., Any]

_MAX_MALFORMED_ITEMS: Final = 20  # then the array is not read further: exceptions are slow
_ERRORS: Final = (cattrs.BaseValidationError, ShapeError)
_OPTIONAL_TIME: Final[Any] = datetime | None
_converter: Final = cattrs.Converter(unstruct_collection_overrides={tuple: list})


def structure(cls: type, raw: Json) -> tuple[Any, list[str]]:
    """Return an instance of the class, or None and the problems, each as "problem @ path"."""
    try:
        return _converter.structure(raw, cls), []
    except _ERRORS as exc:
        problems = cattrs.transform_error(exc, format_exception=_problem)
        return None, [*dict.fromkeys(problems)]  # two fields can share a key


def unstructure(model: object) -> dict[str, Json]:
    """Return the JSON object that `structure` reads as this model."""
    raw: dict[str, Json] = _converter.unstructure(model)
    return raw


def _problem(exc: BaseException, _type: type | None) -> str:
    if isinstance(exc, KeyError):
        return "required field missing"
    if isinstance(exc, ShapeError):
        return str(exc)
    raise exc  # an error of a validator


def _structure_scalar(value: Json, kind: type) -> Any:
    return SCALARS[kind](value)


def _structure_enum(value: Json, enum: type[Enum]) -> Enum:
    return members_of(enum).get(SCALARS[str](value), enum["UNKNOWN"])


def _structure_optional_time(value: Json, _type: Any) -> datetime | None:
    return SCALARS[datetime](value) if value else None  # see Field.zero_is_null


def _timestamp(time: datetime | None) -> float:
    seconds = 0.0 if time is None else time.timestamp()
    return int(seconds) if seconds.is_integer() else seconds


for _scalar in SCALARS:
    _converter.register_structure_hook(_scalar, _structure_scalar)
_converter.register_structure_hook(Enum, _structure_enum)
_converter.register_structure_hook(_OPTIONAL_TIME, _structure_optional_time)
_converter.register_unstructure_hook(datetime, _timestamp)
_converter.register_unstructure_hook_func(lambda kind: kind == _OPTIONAL_TIME, _timestamp)
_converter.register_unstructure_hook_factory(lambda kind: kind is Json, lambda _kind: identity)


def _structure_array(value: Json, kind: Any) -> tuple[Any, ...]:
    if not isinstance(value, list) and value not in ("", {}):
        expect("an array", value)
    item_type = get_args(kind)[0]
    items: list[Any] = []
    errors: list[Exception] = []
    for index, item in enumerate(value):
        try:
            items.append(_converter.structure(item, item_type))
        except _ERRORS as exc:
            exc.add_note(cattrs.IterableValidationNote(f"item {index}", index, item_type))
            errors.append(exc)
            rest = len(value) - index - 1
            if rest and len(errors) == _MAX_MALFORMED_ITEMS:
                errors.append(ShapeError(f"{rest} more items were not checked"))
                break
    if errors:
        raise cattrs.IterableValidationError("malformed items", errors, kind)
    return tuple(items)


_converter.register_structure_hook_func(
    lambda kind: getattr(kind, "__origin__", None) is tuple, _structure_array
)


def _overrides(cls: type) -> dict[str, Any]:
    """Return the JSON name of each attribute for cattrs, or that it is not in JSON."""
    omitted = dict.fromkeys(attrs.fields_dict(cls), override(omit=True))
    return omitted | {field.name: override(rename=field.key) for field in fields_of(cls)}


@_converter.register_structure_hook_factory(attrs.has)
def _structure_class(cls: type) -> _Hook:
    keys = {field.name: field.key for field in fields_of(cls)}
    side = {field.name: field.key for field in fields_of(cls) if field.side}
    types: dict[str, Any] = {side[f.name]: f.type for f in attrs.fields(cls) if f.name in side}
    # Side fields are structured before the others; `extra` is passed under a name of no field.
    overrides = _overrides(cls)
    for name, key in {**side, "extra": ""}.items():
        overrides[name] = override(rename=key, struct_hook=lambda value, _type: value)
    fill: _Hook = make_dict_structure_fn(cls, _converter, **overrides)

    def structure_class(value: Json, _type: Any) -> Any:
        if not isinstance(value, dict):
            expect("an object", value)
        known = {key: value[key] for key in keys.values() if key in value}
        extra = {key: value[key] for key in value if key not in known}
        for key, kind in types.items():
            if key in known:
                try:
                    known[key] = _converter.structure(known[key], kind)
                except _ERRORS:
                    extra[key] = known.pop(key)
        try:
            return fill({**known, "": extra}, cls)
        except cattrs.ClassValidationError as exc:
            for _, note in exc.group_exceptions()[0]:
                note.name = keys[note.name]  # becomes a part of the path
            raise

    return structure_class


@_converter.register_unstructure_hook_factory(attrs.has)
def _unstructure_class(cls: type) -> _Hook:
    write: _Hook = make_dict_unstructure_fn(cls, _converter, **_overrides(cls))

    def unstructure_class(model: Any) -> dict[str, Json]:
        raw: dict[str, Json] = write(model)
        # A side field that could not be read is in `extra`, too.
        raw.update({key: value for key, value in model.extra.items() if not raw.get(key)})
        return raw

    return unstructure_class
