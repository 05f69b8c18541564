"""The effects of faults by name: what ``--fault``, a TOML profile and `make_effect` understand."""

from collections.abc import Mapping
from typing import Final

import attrs

from adepoll.emulator.effects import (
    Break,
    Corruption,
    Distortion,
    Effect,
    Latency,
    Overlong,
    RateLimit,
    Redirect,
    Refusal,
    Refuse,
    Throttle,
    Trick,
    WrongLength,
)

_WITH_OPTIONS: Final[Mapping[str, type]] = {
    "latency": Latency,
    "rate-limit": RateLimit,
    "overlong": Overlong,
    "wrong-length": WrongLength,
    "throttled": Throttle,
    "redirect": Redirect,
}
_PLAIN: Final[Mapping[str, Break | Corruption | Distortion | Trick]] = {
    member.value: member for kind in (Break, Corruption, Distortion, Trick) for member in kind
}

NAMES: Final = (*_WITH_OPTIONS, *(refusal.value for refusal in Refusal), *_PLAIN)
"""The names of all effects."""


def options_of(name: str) -> Mapping[str, "attrs.Attribute[object]"]:
    """Give the options that the effect of that name takes, by their names.

    Raises:
        ValueError: There is no such effect.
    """
    if name in _PLAIN:
        return {}
    if name in _WITH_OPTIONS:
        return attrs.fields_dict(_WITH_OPTIONS[name])
    if name in NAMES:
        return {key: part for key, part in attrs.fields_dict(Refuse).items() if key != "kind"}
    raise ValueError(f"there is no fault {name!r}; there are {', '.join(NAMES)}")


def make_effect(name: str, **options: object) -> Effect:
    """Make the effect of that name; see its class for the options.

    Raises:
        ValueError: There is no such effect, it takes no such option, or not of that value.
    """
    known = options_of(name)
    for option in options:
        if option not in known:
            takes = ", ".join(known) or "none"
            raise ValueError(f"fault {name!r} has no option {option!r}; it takes: {takes}")
    if name in _PLAIN:
        return _PLAIN[name]
    if name in _WITH_OPTIONS:
        effect: Effect = _WITH_OPTIONS[name](**options)
        return effect
    return Refuse(kind=Refusal(name), **options)  # type: ignore[arg-type]  # named by `known`
