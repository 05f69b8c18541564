"""SafeRepr: an object whose `repr` also works if its constructor has failed. Imports nothing."""

import functools
from collections.abc import Callable
from typing import Any, Final

_SHOWN_BY: Final = ("__repr__", "__str__", "_repr_html_")


class SafeRepr:
    """Base of classes whose objects can be shown before their constructor has finished.

    Debuggers and error trackers show the local variables of a function that has failed. In a
    constructor, `self` is one of them, and lacks some attributes. Then `repr` and `str` return
    ``<NAME, not initialised>``, instead of raising an AttributeError.
    """

    __slots__ = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Wrap the methods of the subclass that return a text about the object."""
        super().__init_subclass__(**kwargs)
        # attrs creates a class with slots from a class without them. So this method is called
        # twice, and the second class has the methods that attrs has added.
        for name in _SHOWN_BY:
            if name in cls.__dict__:
                setattr(cls, name, _without_attribute_error(cls.__dict__[name]))


def _without_attribute_error(method: Callable[[Any], str]) -> Callable[[Any], str]:
    @functools.wraps(method)
    def shown(self: Any) -> str:
        try:
            return method(self)
        except AttributeError:
            return f"<{type(self).__name__}, not initialised>"

    return shown
