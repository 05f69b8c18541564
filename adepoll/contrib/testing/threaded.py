"""Runs an emulator in its own thread, for use from other threads."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from types import MethodType
from typing import Any, Final, TypeVar, cast

from attrs import frozen

from adepoll.emulator import Emulator, Faults, GroundTruth, World

_T = TypeVar("_T")


@contextmanager
def serve_in_thread(emulator: Emulator) -> Iterator[Emulator]:
    """Run an emulator in its own thread, for code without an event loop or with any kind of loop.

    Yield a proxy with all attributes of the emulator. Any thread may use the proxy at any time:
    each access runs in the thread of the emulator, as a callback of its event loop. After the end
    of the block, jobs and truth can still be read.

    Raises:
        OSError: A port is in use already.
    """
    started: Future[tuple[asyncio.AbstractEventLoop, int, asyncio.Event]] = Future()

    async def serve() -> None:
        async with emulator:
            leave = asyncio.Event()
            started.set_result((asyncio.get_running_loop(), threading.get_ident(), leave))
            await leave.wait()

    def run() -> None:
        # The type of loop is fixed, because a test may have replaced the event loop policy.
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            runner.run(serve())

    with ThreadPoolExecutor(1, thread_name_prefix="adepoll-emulator") as pool:
        ended = pool.submit(run)
        either: list[Future[Any]] = [started, ended]
        wait(either, return_when=FIRST_COMPLETED)
        if ended.done():
            ended.result()  # raises the error because of which the emulator did not start
        loop, ident, leave = started.result()
        try:
            yield cast("Emulator", _ThreadProxy(emulator, _Thread(loop, ident, ended)))
        finally:
            with suppress(RuntimeError):  # the loop has ended with an error, which is raised below
                loop.call_soon_threadsafe(leave.set)
            ended.result()


@frozen
class _Thread:
    """The thread of an emulator.

    Attributes:
        loop: The event loop that runs in the thread.
        ident: Identifier of the thread, as `threading.get_ident` returns it.
        ended: Done when the thread has ended.
    """

    loop: asyncio.AbstractEventLoop
    ident: int
    ended: "Future[None]"

    def call(self, function: Callable[[], _T]) -> _T:
        """Run a function in the thread of the emulator, and return its result.

        If the thread has ended, or the caller runs in this thread, call the function directly.
        """
        if threading.get_ident() == self.ident:
            return function()
        done: Future[_T] = Future()

        def work() -> None:
            try:
                done.set_result(function())
            except BaseException as exc:  # noqa: BLE001 - raised again in the thread that waits
                done.set_exception(exc)

        with suppress(RuntimeError):  # the loop is closed
            self.loop.call_soon_threadsafe(work)
        either: list[Future[Any]] = [done, self.ended]
        wait(either, return_when=FIRST_COMPLETED)
        return done.result() if done.done() else function()


_PROXIED: Final = (World, Faults, GroundTruth, MethodType)


class _ThreadProxy:
    """A proxy of an object; each access to the object runs in the thread of the emulator."""

    __slots__ = ("_target", "_thread")

    _target: Any
    _thread: _Thread

    def __init__(self, target: object, thread: _Thread) -> None:
        object.__setattr__(self, "_target", target)
        object.__setattr__(self, "_thread", thread)

    def __getattr__(self, name: str) -> Any:
        return self._access(lambda: getattr(self._target, name))

    def __setattr__(self, name: str, value: object) -> None:
        self._thread.call(lambda: setattr(self._target, name, value))

    def __call__(self, *args: object, **kwargs: object) -> Any:
        return self._access(lambda: self._target(*args, **kwargs))

    def __iter__(self) -> Iterator[Any]:
        return self._thread.call(lambda: iter([*self._target]))

    def __len__(self) -> int:
        return self._thread.call(lambda: len(self._target))

    def __bool__(self) -> bool:
        return self._thread.call(lambda: bool(self._target))

    def __repr__(self) -> str:
        return self._thread.call(lambda: repr(self._target))

    def _access(self, function: Callable[[], object]) -> object:
        """Call a function in the thread of the emulator, and return the value.

        Return a proxy of the value if it is a part of the emulator, such as `World` or a method.
        """

        def finish() -> object:
            value = function()
            # A generator would run in the thread of the caller. So its items are collected here.
            return iter([*value]) if isinstance(value, Iterator) else value

        value = self._thread.call(finish)
        return _ThreadProxy(value, self._thread) if isinstance(value, _PROXIED) else value
