"""Errors without the frames in which they were raised.

An error tracker records the local variables of every frame of a traceback. The frames of a request
hold its URL, its headers and the response, so errors leave adepoll without them.
"""

from typing import TypeVar

_Error = TypeVar("_Error", bound=BaseException)


def without_frames(error: _Error) -> _Error:
    """Remove the tracebacks of an error and of the errors behind it; return the error.

    The statement that raises it again begins a new traceback.
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
