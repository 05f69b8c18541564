"""Range checks for the fields of the emulator's attrs classes."""

import math
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from attrs import Attribute
from attrs.validators import and_, ge, gt, le, lt

_Validator: TypeAlias = Callable[[Any, "Attribute[Any]", Any], None]

NOT_NEGATIVE: Final[_Validator] = ge(0)
FINITE: Final[_Validator] = and_(ge(0), lt(math.inf))
POSITIVE: Final[_Validator] = and_(gt(0), lt(math.inf))
SHARE: Final[_Validator] = and_(ge(0), le(1))
AT_LEAST_ONE: Final[_Validator] = and_(ge(1), lt(math.inf))


def size_range(_instance: object, attribute: "Attribute[Any]", value: tuple[int, int]) -> None:
    """Raise `ValueError` unless the value is two positive numbers in ascending order."""
    smallest, largest = value
    if not 0 < smallest <= largest:
        raise ValueError(
            f"'{attribute.name}' must be two numbers, 0 < smallest <= largest: {value!r}"
        )
