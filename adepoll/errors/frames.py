"""Removes the tracebacks of errors, because they can contain secrets.

Error trackers record the local variables of every frame of a traceback. The frames of a request
contain its URL, its headers and the response. Therefore, adepoll removes these frames from an error
before it raises the error to the caller.
"""

import copy
from typing import TypeVar

_Error = TypeVar("_Error", bound=BaseException)


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
