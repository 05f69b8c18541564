"""Base classes for objects that are closed with `close` or `aclose`.

Imports `safe_repr` and `tasks`.
"""

import weakref
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable
from types import TracebackType
from typing import Generic, Self, TypeVar

from adepoll.common.safe_repr import SafeRepr
from adepoll.common.tasks import has_loop

T_co = TypeVar("T_co", covariant=True)


class Closeable(SafeRepr, ABC):
    """An object that is closed with `close`, or by leaving its ``with`` block."""

    __slots__ = ()

    @abstractmethod
    def close(self) -> None:
        """Release everything that the object holds. Closing it again does nothing."""

    def __enter__(self) -> Self:
        """Return the object itself."""
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the object."""
        self.close()


class AsyncCloseable(SafeRepr, ABC):
    """An object that is closed with `aclose`, or by leaving its ``async with`` block."""

    __slots__ = ()

    @abstractmethod
    async def aclose(self) -> None:
        """Release everything that the object holds. Closing it again does nothing."""

    async def __aenter__(self) -> Self:
        """Return the object itself."""
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the object.

        Do nothing if Python deletes the task of the block after its event loop was closed. Then
        the block ends with a GeneratorExit, and nothing can be awaited.
        """
        if exc_type is not GeneratorExit or has_loop():
            await self.aclose()


class EndsWhenLeft(AsyncCloseable, Generic[T_co]):
    """An async iterator that ends when its block or loop ends.

    In an ``async with`` block, the iteration ends with the block. Without a block, it ends with the
    ``async for`` loop, even if the loop ends with `break`, `return` or an error. It also ends when
    the object is garbage collected.
    """

    _in_block = False
    _loop: "weakref.ref[_Loop[T_co]] | None" = None

    @abstractmethod
    async def __anext__(self) -> T_co:
        """Return the next item."""

    @abstractmethod
    def leave(self) -> None:
        """Make the iteration end soon, and return immediately.

        Do nothing if the iteration has not begun. May be called in any thread, and repeatedly.
        """

    def __aiter__(self) -> AsyncIterator[T_co]:
        """Return an iterator that calls `leave` when no ``async for`` loop uses it any more.

        In an ``async with`` block, return the object itself.
        """
        if self._in_block:
            return self
        loop = None if self._loop is None else self._loop()
        if loop is None:
            loop = _Loop(self)
            self._loop = weakref.ref(loop)
        return loop

    async def __aenter__(self) -> Self:
        """Return the object itself."""
        self._in_block = True
        return self

    def __del__(self) -> None:
        """End the iteration. Python calls this method when nothing uses the object any more."""
        self.leave()


class _Loop(Generic[T_co]):
    """The iterator of an ``async for`` loop.

    When the loop ends in any way, Python deletes this object, which ends the iteration.
    """

    __slots__ = ("__weakref__", "_iterator")

    def __init__(self, iterator: EndsWhenLeft[T_co]) -> None:
        self._iterator = iterator

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Awaitable[T_co]:
        return self._iterator.__anext__()

    def __del__(self) -> None:
        self._iterator.leave()
