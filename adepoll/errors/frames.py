"""Errors without the frames in which they were raised.

An error tracker records the local variables of every frame of a traceback. The frames of a request
hold its URL, its headers and the response, so errors leave adepoll without them.
"""

import functools
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

from adepoll.errors._base import AdePollError, ClosedError

_P = ParamSpec("_P")
_T = TypeVar("_T")
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


def hide_frames(
    function: Callable[_P, Awaitable[_T]],
) -> Callable[_P, Coroutine[Any, Any, _T]]:
    """Decorate a coroutine function: adepoll's errors that it raises do not contain its frames."""

    @functools.wraps(function)
    async def call(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return await function(*args, **kwargs)
        except (AdePollError, ClosedError) as error:
            raise without_frames(error)  # noqa: B904 - the same error

    return call
