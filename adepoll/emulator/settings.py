"""What ``adepoll emulate --profile FILE`` reads: a small TOML file, its keys and types checked.

Imports nothing of the command: tests and applications may read such files, too.
"""

import math
import tomllib
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any, Final, TypeAlias, TypeVar

import attrs
from attrs import Factory, field, frozen

from adepoll.api.models import Json
from adepoll.emulator import checks
from adepoll.emulator.catalogue import options_of
from adepoll.emulator.effects import Endpoint, RetryAfter, Shape
from adepoll.emulator.faults import Fault, When, make_fault
from adepoll.emulator.jobs import Profile
from adepoll.emulator.listing import ListOrder

_T = TypeVar("_T")
_Fields: TypeAlias = Mapping[str, "attrs.Attribute[object]"]


class SettingsError(ValueError):
    """A settings file says what cannot be meant; the message names the key."""


@frozen(kw_only=True)
class Settings:
    """How an emulator is to be.

    Attributes:
        seed: Everything random follows from it.
        jobs: How many jobs it starts with.
        list_order: In which order jobs are listed.
        list_lag: How far the list lags behind the GET of a job, in seconds.
        profile: How jobs are drawn.
        faults: What goes wrong from the beginning.
    """

    seed: int = 0
    jobs: int = field(default=0, validator=checks.not_negative)
    list_order: ListOrder = field(default=ListOrder.NEWEST, converter=ListOrder)
    list_lag: float = field(default=0.0, validator=checks.finite)
    profile: Profile = Factory(Profile)
    faults: tuple[Fault, ...] = ()


def read_settings(text: str) -> Settings:
    """Read a settings file: TOML with the fields of `Settings`.

    ``[profile]`` has the fields of `Profile`; each ``[[faults]]`` a `name` of the catalogue, the
    fields of `When`, and the options of that fault.

    Raises:
        SettingsError: It is not TOML, has an unknown key, or a value of a wrong type or range.
    """
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise SettingsError(f"not TOML: {exc}") from exc
    profile, faults = raw.pop("profile", {}), raw.pop("faults", [])
    known = attrs.fields_dict(Settings)
    tables = {name: known.pop(name) for name in ("profile", "faults")}
    values = _read(raw, known, where="", others=[*tables])
    if not isinstance(profile, dict):
        raise SettingsError("profile: expected a table, as in [profile]")
    if not isinstance(faults, list) or not all(isinstance(table, dict) for table in faults):
        raise SettingsError("faults: expected tables, as in [[faults]]")
    drawn = _read(profile, attrs.fields_dict(Profile), where="profile.")
    values["profile"] = _made(lambda: Profile(**drawn), where="profile")
    values["faults"] = tuple(_read_fault(table, f"faults[{n}]") for n, table in enumerate(faults))
    return _made(lambda: Settings(**values), where="settings")


def _read_fault(table: dict[str, Json], where: str) -> Fault:
    name = table.get("name")
    if not isinstance(name, str):
        raise SettingsError(f'{where}: expected a name, as in name = "server-error"')
    options = _made(lambda: options_of(name), where=where)
    known = {**attrs.fields_dict(When), **options}
    rest = {key: value for key, value in table.items() if key != "name"}
    values = _read(rest, known, where=f"{where}.", others=["name"])
    return _made(lambda: make_fault(name, **values), where=where)


def _made(make: Callable[[], _T], *, where: str) -> _T:
    """Make something, and tell where its values stand if it refuses them."""
    try:
        return make()
    except ValueError as exc:
        raise SettingsError(f"{where}: {exc}") from exc


def _read(table: Json, known: _Fields, *, where: str, others: Sequence[str] = ()) -> dict[str, Any]:
    """Give the values of a table, once every key is known and of its type."""
    for key, value in table.items():
        if key not in known:
            there_are = ", ".join([*others, *known])
            raise SettingsError(f"unknown key {where}{key}; there are: {there_are}")
        what, fits = _KINDS[known[key].type]
        if not fits(value):
            raise SettingsError(f"{where}{key}: expected {what}, not {value!r}")
    return {key: tuple(v) if isinstance(v, list) else v for key, v in table.items()}


def _is_integer(value: Json) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Json) -> bool:
    return _is_integer(value) or (isinstance(value, float) and math.isfinite(value))


def _is_text(value: Json) -> bool:
    return isinstance(value, str)


def _are_two(one: Callable[[Json], bool]) -> Callable[[Json], bool]:
    return lambda value: isinstance(value, list) and [*map(one, value)] == [True, True]


def _are_texts(value: Json) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _one_of(kind: type[Enum]) -> tuple[str, Callable[[Json], bool]]:
    values = [member.value for member in kind]
    return f"one of {', '.join(values)}", lambda value: value in values


_NUMBER: Final = "a number", _is_number
_NUMBERS: Final = "two numbers in brackets", _are_two(_is_number)
_INTEGER: Final = "a whole number", _is_integer
_TEXT: Final = "a text in quotes", _is_text
_KINDS: Final[Mapping[Any, tuple[str, Callable[[Json], bool]]]] = {
    bool: ("true or false", lambda value: isinstance(value, bool)),
    int: _INTEGER,
    int | None: _INTEGER,
    float: _NUMBER,
    float | None: _NUMBER,
    str | None: _TEXT,
    tuple[int, int]: ("two whole numbers in brackets", _are_two(_is_integer)),
    tuple[float, float] | None: _NUMBERS,
    frozenset[str] | None: ("texts in brackets", _are_texts),
    frozenset[Endpoint] | None: ("names of endpoints in brackets", _are_texts),
    ListOrder: _one_of(ListOrder),
    RetryAfter: _one_of(RetryAfter),
    Shape: _one_of(Shape),
}
