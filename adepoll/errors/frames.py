"""Removes the tracebacks of errors, because they can contain secrets.

Error trackers record the local variables of every frame of a traceback. The frames of a request
contain its URL, its headers and the response. Therefore, adepoll removes these frames from an error
before it raises the error to the caller.
"""

import copy
import functools
from collections.abc import Callable
from typing import Any, TypeVar

_Error = TypeVar("_Error", bound=BaseException)
_Class = TypeVar("_Class", bound=type)


def without_frames(error: _Error) -> _Error:
    """Remove the tracebacks of an error, of its causes and of its contexts; return the error.

    If the error is raised again, its new traceback begins at that `raise` statement.
    """
    found: list[BaseException | None] = [error]
    seen: set[int] = set()
    while found:
        exc = found.pop()
        if exc is not None and id(exc) not in seen:
            seen.add(id(exc))
            exc.__traceback__ = None
            found += (exc.__cause__, exc.__context__)
    return error


def copy_of(error: _Error) -> _Error:
    """Return a copy of an error of adepoll for one of several callers, with the same cause.

    If several callers raised the same object, it would collect the tracebacks of all of them.
    """
    own = copy.copy(error)
    own.__cause__ = error.__cause__
    return own


def without_arguments(cls: _Class) -> _Class:
    """Change a class so that the tracebacks of its constructor's errors contain no argument.

    This is a decorator of attrs classes whose arguments can contain a secret.
    """
    init: Callable[..., None] = cls.__init__  # type: ignore[misc]  # it is the constructor of this class

    @functools.wraps(init)
    def __init__(self: object, *args: Any, **options: Any) -> None:  # noqa: N807 - it replaces the constructor
        try:
            init(self, *args, **options)
        except BaseException as exc:  # noqa: BLE001 - raised again below
            error = without_frames(exc)
        else:
            return
        del args, options
        raise error

    cls.__init__ = __init__  # type: ignore[misc]  # it has the same arguments
    return cls
