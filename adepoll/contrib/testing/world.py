"""An emulated service in virtual time, for synchronous tests: hours pass in milliseconds."""

import asyncio
from collections.abc import Coroutine
from random import Random
from typing import Final, TypeVar

from adepoll import JobKind, Json
from adepoll.common.closing import Closeable
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
"""Default timeout of `AdeWorld.run` in virtual seconds."""


class AdeWorld(Closeable):
    """An emulated service without sockets, with an event loop that has virtual time.

    The time starts at 0.0, and passes only while `run` runs. With the same seed, the same requests
    get the same responses at the same times. A watcher also sends the same requests in each run if
    you create it with an `rng`. Close the world, or use it as ``with AdeWorld() as ade_world``.
    """

    def __init__(self, **options: Json) -> None:
        """Create a service without jobs.

        Args:
            **options: Options of `Emulator`: `seed`, `profile`, `faults` and more. Options of its
                HTTP server, such as ports and API key, have no effect. `clock` is not allowed.

        Raises:
            TypeError: An option is unknown.
            ValueError: The value of an option is out of range.
        """
        self._runner = asyncio.Runner(loop_factory=VirtualTimeLoop)
        self._loop = self._runner.get_loop()
        try:
            self._emulator = Emulator(clock=lambda: EPOCH + self.elapsed, **options)
        except BaseException:
            self.close()
            raise
        rng = Random(self._emulator.seed)  # noqa: S311 - must be reproducible, need not be secret
        self._source = WorldSource(world=self.world, rng=rng)

    @property
    def world(self) -> World:
        """The `World`: the jobs and settings of the emulated service."""
        return self._emulator.world

    @property
    def source(self) -> WorldSource:
        """The service as a `JobSource`. Pass it to a `JobWatcher` in place of a client."""
        return self._source

    @property
    def truth(self) -> GroundTruth:
        """What really happened to jobs and requests, to compare with what a client observed."""
        return self._emulator.truth

    @property
    def faults(self) -> Faults:
        """The active faults. Faults can be added and removed at any time."""
        return self._emulator.faults

    @property
    def elapsed(self) -> float:
        """Virtual time that has passed, in seconds."""
        return self._loop.time()

    def submit(
        self,
        plan: JobPlan | None = None,
        *,
        kind: str | JobKind = "v1-extract",
        job_id: str | None = None,
        received_at: float | None = None,
        schema: Json = None,
        filename: str = "document.md",
        tier: str | None = None,
    ) -> str:
        """Submit a job and return its id; see `World.submit`. By default, the job arrives now."""
        return self.world.submit(
            plan,
            kind=kind,
            job_id=job_id,
            received_at=received_at,
            schema=schema,
            filename=filename,
            tier=tier,
        )

    def run(self, main: Coroutine[Json, Json, _T], *, timeout: float = SIX_HOURS) -> _T:
        """Run a coroutine in virtual time, and return its result.

        Args:
            main: The coroutine.
            timeout: Virtual seconds after which the coroutine is cancelled. Without a timeout, a
                test with a job that never ends would run forever.

        Raises:
            TimeoutError: The coroutine had not ended after `timeout` virtual seconds.
            RuntimeError: Another loop is running, such as the loop of an ``async def`` test.
        """
        if _is_loop_running():
            main.close()
            raise RuntimeError(
                "run() has its own event loop: call it from a plain `def test_...`, not from an "
                "`async def` test"
            )
        return self._runner.run(_run_with_timeout(main, timeout))

    def close(self) -> None:
        """Cancel the remaining tasks, and close the loop."""
        self._runner.close()


def _is_loop_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def _run_with_timeout(main: Coroutine[Json, Json, _T], seconds: float) -> _T:
    try:
        async with asyncio.timeout(seconds) as limit:
            return await main
    except TimeoutError as exc:
        if not limit.expired():
            raise
        raise TimeoutError(
            f"not done after {seconds:g} virtual seconds; it may wait for a job that never ends. "
            "run(..., timeout=) sets another limit"
        ) from exc
