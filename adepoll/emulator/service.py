"""The emulator as a running service: a world and its two origins on loopback ports."""

import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Final, Self

from aiohttp import web
from attrs import define, field

from adepoll.emulator.app import make_api_app, make_results_app
from adepoll.emulator.jobs import JobPlan, Profile
from adepoll.emulator.world import Truth, World
from adepoll.models import Json

_SHUTDOWN_TIMEOUT: Final = 0.1  # seconds for what is still being answered; nobody needs the rest


@define(kw_only=True, eq=False)
class Emulator:
    """An ADE service of one's own: ``async with Emulator() as ade: ade.base_url, ade.submit()``.

    The jobs stay when it is left, and are there again when it is entered once more.

    Attributes:
        api_key: The key that the API wants.
        seed: Everything random follows from it.
        profile: How jobs without a plan are drawn; None for the default of `Profile`.
        host: The address to listen on.
        port: The port of the API; 0 for any that is free.
        results_port: The port of the large results; 0 for any that is free.
        clock: Gives Unix seconds; another one may run ahead, or as fast as a test likes.
        world: The state behind it all.
    """

    api_key: str = field(default="emulator-key", repr=False)
    seed: int = 0
    profile: Profile | None = None
    host: str = "127.0.0.1"
    port: int = 0
    results_port: int = 0
    clock: Callable[[], float] = field(default=time.time, repr=False)
    world: World = field(init=False, repr=False)
    _base_url: str | None = field(init=False, default=None, repr=False)
    _stack: AsyncExitStack = field(init=False, factory=AsyncExitStack, repr=False)

    @world.default
    def _make_world(self) -> World:
        profile = Profile() if self.profile is None else self.profile
        return World(clock=self.clock, seed=self.seed, profile=profile)

    @property
    def base_url(self) -> str:
        """Where the API is, as ``http://127.0.0.1:PORT``.

        Raises:
            RuntimeError: The emulator is not running.
        """
        if self._base_url is None:
            raise RuntimeError("the emulator is not running: use it as `async with Emulator()`")
        return self._base_url

    @property
    def results_url(self) -> str:
        """Where the large results are: another origin."""
        return self.world.results_origin

    def submit(
        self,
        plan: JobPlan | None = None,
        *,
        job_id: str | None = None,
        received_at: float | None = None,
        schema: Json = None,
    ) -> str:
        """Take a job in and give its id, as `World.submit` does, without a request."""
        return self.world.submit(plan, job_id=job_id, received_at=received_at, schema=schema)

    def truth(self, job_id: str) -> Truth:
        """Tell what is really the case with a job, as `World.truth` does."""
        return self.world.truth(job_id)

    async def __aenter__(self) -> Self:
        """Listen on both ports.

        Raises:
            OSError: A port is taken.
        """
        async with AsyncExitStack() as stack:
            results_app = make_results_app(self.world)
            results_origin = await self._serve(results_app, self.results_port, stack)
            api_app = make_api_app(self.world, api_key=self.api_key)
            self._base_url = await self._serve(api_app, self.port, stack)
            self.world.results_origin = results_origin
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close both ports, and cut off what is still being answered."""
        self._base_url = None
        await self._stack.aclose()

    async def _serve(self, app: web.Application, port: int, stack: AsyncExitStack) -> str:
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=_SHUTDOWN_TIMEOUT)
        stack.push_async_callback(runner.cleanup)
        await runner.setup()
        await web.TCPSite(runner, self.host, port).start()
        bound_port = runner.addresses[0][1]
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{bound_port}"
