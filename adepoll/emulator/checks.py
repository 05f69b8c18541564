"""What attrs fields of the emulator refuse, under the name that the caller used."""

import math
from typing import Any

from attrs import Attribute


def not_negative(_instance: object, attribute: "Attribute[Any]", value: float) -> None:
    """Take 0 and more, infinity included."""
    if not value >= 0:
        raise ValueError(f"{attribute.name} must be at least 0, not {value!r}")


def finite(_instance: object, attribute: "Attribute[Any]", value: float) -> None:
    """Take 0 and more, infinity excluded."""
    if not 0 <= value < math.inf:
        raise ValueError(f"{attribute.name} must be finite and at least 0, not {value!r}")


def positive(_instance: object, attribute: "Attribute[Any]", value: float) -> None:
    """Take what is finite and more than 0."""
    if not 0 < value < math.inf:
        raise ValueError(f"{attribute.name} must be finite and more than 0, not {value!r}")


def share(_instance: object, attribute: "Attribute[Any]", value: float) -> None:
    """Take 0 to 1."""
    if not 0 <= value <= 1:
        raise ValueError(f"{attribute.name} must be within 0 and 1, not {value!r}")


def size_range(_instance: object, attribute: "Attribute[Any]", value: tuple[int, int]) -> None:
    """Take two sizes in order, both more than 0."""
    low, high = value
    if not 0 < low <= high:
        raise ValueError(f"{attribute.name} must be two sizes, 0 < low <= high, not {value!r}")


def at_least_one(_instance: object, attribute: "Attribute[Any]", value: float) -> None:
    """Take what is finite and at least 1."""
    if not 1 <= value < math.inf:
        raise ValueError(f"{attribute.name} must be finite and at least 1, not {value!r}")
