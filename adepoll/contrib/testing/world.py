"""A service in virtual time for a plain test: hours pass in milliseconds. Imports the emulator."""

import asyncio
from collections.abc import Coroutine
from random import Random
from types import TracebackType
from typing import Final, Self, TypeVar

from adepoll.api.models import Json
from adepoll.emulator import (
    EPOCH,
    Emulator,
    Faults,
    GroundTruth,
    JobPlan,
    VirtualTimeLoop,
    World,
    WorldSource,
)

_T = TypeVar("_T")

SIX_HOURS: Final = 21_600.0
"""How long `AdeWorld.run` lets a coroutine go on by default, in virtual seconds."""


class AdeWorld:
    """An emulated service without sockets, and the loop in whose virtual time it lives.

    Its time stands at 0.0 when it is made, passes while `run` runs, and stands still between two
    runs. With the same seed, the same requests get the same answers at the same times; a watcher
    sends the same ones if it is given an `rng`. Close it, or use it as ``with AdeWorld() as
    ade_world``.
    """

    def __init__(self, **options: Json) -> None:
        """Make a service without jobs.

        Args:
            options: Those of `Emulator`: `seed`, `profile`, `faults` and more. What only a server
                needs (a port, the key) means nothing here, and the clock is the loop's.

        Raises:
            TypeError: There is no such option.
            ValueError: The value of one is out of range.
        """
        self._runner = asyncio.Runner(loop_factory=VirtualTimeLoop)
        self._loop = self._runner.get_loop()
        try:
            self._emulator = Emulator(clock=lambda: EPOCH + self.elapsed, **options)
        except BaseException:
            self.close()
            raise
        rng = Random(self._emulator.seed)  # noqa: S311 - reproducible, not secret
        self._source = WorldSource(world=self.world, rng=rng)

    def __enter__(self) -> Self:
        """Give the world itself."""
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    @property
    def world(self) -> World:
        """The state of the service."""
        return self._emulator.world

    @property
    def source(self) -> WorldSource:
        """The `JobSource` to give to a `JobWatcher`, in place of a client."""
        return self._source

    @property
    def truth(self) -> GroundTruth:
        """Tells what really happened: ``truth(job_id)``, and more."""
        return self._emulator.truth

    @property
    def faults(self) -> Faults:
        """What goes wrong: add faults, remove them, switch all off, at any time."""
        return self._emulator.faults

    @property
    def elapsed(self) -> float:
        """How much virtual time has passed, in seconds."""
        return self._loop.time()

    def submit(
        self,
        plan: JobPlan | None = None,
        *,
        job_id: str | None = None,
        received_at: float | None = None,
        schema: Json = None,
    ) -> str:
        """Take a job in and give its id, as `World.submit` does; by default it arrives now."""
        return self.world.submit(plan, job_id=job_id, received_at=received_at, schema=schema)

    def run(self, main: Coroutine[Json, Json, _T], *, timeout: float = SIX_HOURS) -> _T:
        """Run a coroutine in virtual time, and give what it returns.

        Args:
            main: What to run.
            timeout: Virtual seconds after which it is cancelled. Without an end, a watch of a job
                that never ends would keep a test busy for good.

        Raises:
            TimeoutError: It was not over by then.
            RuntimeError: A loop is running already, that of an ``async def`` test.
        """
        if _in_a_loop():
            main.close()
            raise RuntimeError(
                "run() has a loop of its own: call it from a plain `def test_...`, not from an "
                "`async def` one"
            )
        return self._runner.run(_limited(main, timeout))

    def close(self) -> None:
        """Cancel what is left of the runs, and close the loop."""
        self._runner.close()


def _in_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def _limited(main: Coroutine[Json, Json, _T], seconds: float) -> _T:
    try:
        async with asyncio.timeout(seconds) as limit:
            return await main
    except TimeoutError as exc:
        if not limit.expired():
            raise
        raise TimeoutError(
            f"not over after {seconds:g} virtual seconds; does it wait for a job that never ends, "
            "or for nothing at all? run(..., timeout=) sets another limit"
        ) from exc
