"""An emulator in a thread of its own, used from any other. Imports the emulator."""

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
    """Run an emulator in a thread of its own: for who has no event loop, or a loop of any kind.

    Gives a stand-in with all that the emulator has. Whatever is read from it, called or set is
    done in that thread, between two steps of the server: any thread may use it, at any time, and
    sees nothing half done. When the server is gone, jobs and truth can still be read.

    Raises:
        OSError: A port is taken.
    """
    begun: Future[tuple[asyncio.AbstractEventLoop, int, asyncio.Event]] = Future()

    async def serve() -> None:
        async with emulator:
            leave = asyncio.Event()
            begun.set_result((asyncio.get_running_loop(), threading.get_ident(), leave))
            await leave.wait()

    def run() -> None:
        # Not the policy's loop: that is the test's business, and nobody knows what it can do.
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            runner.run(serve())

    with ThreadPoolExecutor(1, thread_name_prefix="adepoll-emulator") as pool:
        over = pool.submit(run)
        either: list[Future[Any]] = [begun, over]
        wait(either, return_when=FIRST_COMPLETED)
        if over.done():
            over.result()  # raises what kept it from beginning
        loop, ident, leave = begun.result()
        try:
            yield cast("Emulator", _StandIn(emulator, _Thread(loop, ident, over)))
        finally:
            with suppress(RuntimeError):  # the loop has died; what of, is raised below
                loop.call_soon_threadsafe(leave.set)
            over.result()


@frozen
class _Thread:
    """Where an emulator runs: the loop, the number of its thread, and when it is over."""

    loop: asyncio.AbstractEventLoop
    ident: int
    over: "Future[None]"

    def do(self, function: Callable[[], _T]) -> _T:
        """Call a function over there, and wait for what it gives; here, once that is over."""
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
        either: list[Future[Any]] = [done, self.over]
        wait(either, return_when=FIRST_COMPLETED)
        return done.result() if done.done() else function()


_SHARED: Final = (World, Faults, GroundTruth, MethodType)


class _StandIn:
    """Stands for an object of another thread: whatever is done to it is done over there."""

    __slots__ = ("_target", "_thread")

    _target: Any
    _thread: _Thread

    def __init__(self, target: object, thread: _Thread) -> None:
        object.__setattr__(self, "_target", target)
        object.__setattr__(self, "_thread", thread)

    def __getattr__(self, name: str) -> Any:
        return self._give(lambda: getattr(self._target, name))

    def __setattr__(self, name: str, value: object) -> None:
        self._thread.do(lambda: setattr(self._target, name, value))

    def __call__(self, *args: object, **kwargs: object) -> Any:
        return self._give(lambda: self._target(*args, **kwargs))

    def __iter__(self) -> Iterator[Any]:
        return self._thread.do(lambda: iter([*self._target]))

    def __len__(self) -> int:
        return self._thread.do(lambda: len(self._target))

    def __bool__(self) -> bool:
        return self._thread.do(lambda: bool(self._target))

    def __repr__(self) -> str:
        return self._thread.do(lambda: repr(self._target))

    def _give(self, function: Callable[[], object]) -> object:
        def finish() -> object:
            value = function()
            # A generator would run in the thread of whoever draws from it.
            return iter([*value]) if isinstance(value, Iterator) else value

        value = self._thread.do(finish)
        return _StandIn(value, self._thread) if isinstance(value, _SHARED) else value
