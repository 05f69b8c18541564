"""Settings of an emulator, and the TOML file that ``adepoll emulate --profile FILE`` reads."""

import math
import tomllib
from collections.abc import Callable, Iterable
from enum import Enum
from types import GenericAlias
from typing import Any, Final, TypeAlias, get_args, get_origin

import attrs
from attrs import Factory, field, frozen
from cattrs import BaseValidationError, Converter, ForbiddenExtraKeysError, transform_error
from cattrs.gen import make_dict_structure_fn
from cattrs.v import format_exception

from adepoll.api.models import Json
from adepoll.common.safe_repr import SafeRepr
from adepoll.emulator import validators
from adepoll.emulator.effects import effect_class, make_effect, option_names
from adepoll.emulator.faults import Fault, When
from adepoll.emulator.job_list import ListOrder
from adepoll.emulator.kinds import DEFAULT_KIND, rules_of
from adepoll.emulator.profiles import Profile
from adepoll.emulator.refusals import Refusal

_Hook: TypeAlias = Callable[[Json, Json], Json]


class SettingsError(ValueError):
    """A settings file is wrong. The message contains each problem and the path of its key."""


def _check_kinds(
    _instance: object, _attribute: "attrs.Attribute[Any]", kinds: Iterable[str]
) -> None:
    for kind in kinds:
        rules_of(kind)


@frozen(kw_only=True)
class Settings(SafeRepr):
    """The settings of an emulator.

    Attributes:
        seed: Determines everything random.
        jobs: Number of jobs at the start.
        kinds: Names of the kinds of the jobs at the start. The jobs get the kinds in turn.
        list_order: Order of the job list.
        list_lag: Seconds by which a page of the list is out of date.
        profile: Distribution from which the `JobPlan` of each job is drawn.
        profiles: Profiles that replace `profile` for some kinds of jobs, by the name of the kind.
        faults: Faults that are active from the start.
    """

    seed: int = 0
    jobs: int = field(default=0, validator=validators.NOT_NEGATIVE)
    kinds: tuple[str, ...] = field(default=(DEFAULT_KIND,), validator=_check_kinds)
    list_order: ListOrder = field(default=ListOrder.NEWEST, converter=ListOrder)
    list_lag: float = field(default=0.0, validator=validators.FINITE)
    profile: Profile = Factory(Profile)
    profiles: dict[str, Profile] = field(factory=dict, validator=_check_kinds)
    faults: tuple[Fault, ...] = ()


def read_settings(text: str) -> Settings:
    """Read settings from TOML with the fields of `Settings`.

    The table ``[profile]`` and tables for some kinds of jobs, such as ``[profiles.v2-parse]``, have
    the fields of `Profile`. Each table ``[[faults]]`` has the `name` of a fault, the fields of
    `When`, and the options of that fault.

    Raises:
        SettingsError: The text is not TOML, or a key is unknown, or a value has the wrong type or
            is out of range.
    """
    try:
        raw = tomllib.loads(text)
    except ValueError as exc:  # not TOML, or a number with more digits than Python reads
        raise SettingsError(f"not TOML: {exc}") from exc
    except RecursionError as exc:
        raise SettingsError("not TOML: it is nested too deeply") from exc
    try:
        return _converter.structure(raw, Settings)
    except BaseValidationError as exc:
        problems = transform_error(exc, format_exception=_describe)
        raise SettingsError("; ".join(problems)) from exc


def _describe(exc: BaseException, expected: type | None) -> str:
    """Return a text about one problem of a settings file.

    `expected` is the type that the value should have; None if it is not known.
    """
    if isinstance(exc, ForbiddenExtraKeysError):
        keys = ", ".join(sorted(exc.extra_fields))
        return f"unknown key {keys}; keys: {', '.join(attrs.fields_dict(exc.cl))}"
    if isinstance(exc, ValueError | TypeError):
        return str(exc)
    return format_exception(exc, expected)


# TOML types are checked strictly, because cattrs by itself would convert "8" to 8, and 1 to True.


def _scalar(expected: str, is_valid: Callable[[Json], bool]) -> _Hook:
    """Return a hook of cattrs that returns its argument unchanged if `is_valid` accepts it.

    Otherwise, the hook raises a ValueError that names what was `expected`.
    """

    def check(value: Json, _type: Json) -> Json:
        if not is_valid(value):
            raise ValueError(f"expected {expected}, not {value!r}")
        return value

    return check


def _is_integer(value: Json) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Json) -> bool:
    return _is_integer(value) or (isinstance(value, float) and math.isfinite(value))


def _structure_enum(value: Json, kind: type[Enum]) -> Enum:
    values = [member.value for member in kind]
    if value not in values:
        raise ValueError(f"expected one of {', '.join(values)}, not {value!r}")
    return kind(value)


def _is_array(kind: Json) -> bool:
    origin: Json = get_origin(kind)
    return origin in {tuple, frozenset}


def _array_hook(array_type: Json) -> _Hook:
    """Return a hook of cattrs that makes a tuple or frozenset of this type from an array."""
    make: Json = get_origin(array_type)
    arguments = get_args(array_type)
    elements: Json = GenericAlias(list, arguments[:1])
    fixed_length = make is tuple and arguments[-1] is not Ellipsis

    def structure(value: Json, _type: Json) -> Json:
        if not isinstance(value, list) or (fixed_length and len(value) != len(arguments)):
            length = f" of {len(arguments)} values" if fixed_length else ""
            raise ValueError(f"expected an array{length}, not {value!r}")
        return make(_converter.structure(value, elements))

    return structure


def _table_hook(cls: type) -> _Hook:
    """Return a hook of cattrs that makes an object of a class from a TOML table."""
    structure: _Hook = make_dict_structure_fn(cls, _converter, _cattrs_forbid_extra_keys=True)

    def check(value: Json, kind: Json) -> Json:
        return structure(_table(value), kind)

    return check


def _table(value: Json) -> dict[str, Json]:
    if not isinstance(value, dict):
        raise TypeError(f"expected a table, not {value!r}")
    return value


def _structure_fault(value: Json, _type: Json) -> Fault:
    """Return the fault that a table of the settings file describes."""
    table = dict(_table(value))
    name = table.pop("name", None)
    if not isinstance(name, str):
        raise TypeError('expected a name, for example name = "server-error"')
    options, conditions = option_names(name), attrs.fields_dict(When)
    if unknown := table.keys() - {*options, *conditions}:
        keys = ", ".join(["name", *conditions, *options])
        raise ValueError(f"unknown key {', '.join(sorted(unknown))}; keys: {keys}")
    when = {key: part for key, part in table.items() if key in conditions}
    return Fault(
        effect=_structure_effect(name, {key: table[key] for key in options if key in table}),
        when=_converter.structure(when, When),
    )


def _structure_effect(name: str, options: dict[str, Json]) -> Json:
    """Return the effect of the fault `name`, with its options from the settings file."""
    if (cls := effect_class(name)) is None:
        return make_effect(name)
    kind = {"kind": name} if cls is Refusal else {}
    return _converter.structure({**kind, **options}, cls)


_converter: Final = Converter()
_converter.register_structure_hook_factory(_is_array, _array_hook)
_converter.register_structure_hook_factory(attrs.has, _table_hook)
_converter.register_structure_hook(
    bool, _scalar("true or false", lambda value: isinstance(value, bool))
)
_converter.register_structure_hook(int, _scalar("a whole number", _is_integer))
_converter.register_structure_hook(float, _scalar("a number", _is_number))
_converter.register_structure_hook(str, _scalar("a string", lambda value: isinstance(value, str)))
_converter.register_structure_hook(Enum, _structure_enum)
_converter.register_structure_hook(Fault, _structure_fault)
