"""Base classes for objects that are closed with `close` or `aclose`. Imports nothing of adepoll."""

import weakref
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable
from types import TracebackType
from typing import Generic, Self, TypeVar

T_co = TypeVar("T_co", covariant=True)


class Closeable(ABC):
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


class AsyncCloseable(ABC):
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
        """Close the object."""
        await self.aclose()


class EndsWhenLeft(AsyncCloseable, Generic[T_co]):
    """An async iterator that ends when it is left, even if a variable still refers to it.

    It is left when its ``async with`` block ends; without a block, when its ``async for`` loop ends
    in any way (`break`, `return`, an error). It also ends when it is garbage collected.
    """

    _in_block = False
    _loop: "weakref.ref[_Loop[T_co]] | None" = None

    @abstractmethod
    async def __anext__(self) -> T_co:
        """Return the next item."""

    @abstractmethod
    def leave(self) -> None:
        """Start to end the iteration, without waiting; do nothing if it was never started.

        May be called in any thread, and repeatedly.
        """

    def __aiter__(self) -> AsyncIterator[T_co]:
        """Return an iterator; when no loop uses it any more, this object is left."""
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
        """Leave the object."""
        self.leave()


class _Loop(Generic[T_co]):
    """What ``async for`` iterates over. Python drops it when the loop ends, however it ends."""

    __slots__ = ("__weakref__", "_iterator")

    def __init__(self, iterator: EndsWhenLeft[T_co]) -> None:
        self._iterator = iterator

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Awaitable[T_co]:
        return self._iterator.__anext__()

    def __del__(self) -> None:
        self._iterator.leave()
