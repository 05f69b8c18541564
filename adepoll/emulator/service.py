"""The emulator as a running service: a world and its two origins on loopback ports."""

import asyncio
import time
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Final, Self

from aiohttp import web
from attrs import define, field

from adepoll.api.models import Json
from adepoll.emulator.app import make_api_app, make_results_app
from adepoll.emulator.delivery import Sleep
from adepoll.emulator.faults import Fault, Faults
from adepoll.emulator.jobs import JobPlan, Profile
from adepoll.emulator.listing import ListOrder
from adepoll.emulator.store import saved_path
from adepoll.emulator.truth import TruthTeller
from adepoll.emulator.world import World

_SHUTDOWN_TIMEOUT: Final = 0.1  # seconds for what is still being answered; nobody needs the rest


def _tuple_of(faults: Iterable[Fault | str]) -> tuple[Fault | str, ...]:
    return tuple(faults)


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
        sleep: Waits, where a fault wants it; another one lets a test see that without waiting.
        list_order: In which order jobs are listed.
        list_lag: How far the list lags behind the GET of a job, in seconds.
        given_faults: Faults that are on from the beginning; ``faults=`` of the constructor.
        truth: Tells what really happened: ``truth(job_id)``, and more.
        world: The state behind it all.
    """

    api_key: str = field(default="emulator-key", repr=False)
    seed: int = 0
    profile: Profile | None = None
    host: str = "127.0.0.1"
    port: int = 0
    results_port: int = 0
    clock: Callable[[], float] = field(default=time.time, repr=False)
    sleep: Sleep = field(default=asyncio.sleep, repr=False)
    list_order: ListOrder = field(default=ListOrder.NEWEST, converter=ListOrder)
    list_lag: float = 0.0
    given_faults: Iterable[Fault | str] = field(default=(), alias="faults", converter=_tuple_of)
    world: World = field(init=False, repr=False)
    truth: TruthTeller = field(init=False, repr=False)
    _base_url: str | None = field(init=False, default=None, repr=False)
    _stack: AsyncExitStack = field(init=False, factory=AsyncExitStack, repr=False)

    @world.default
    def _make_world(self) -> World:
        profile = Profile() if self.profile is None else self.profile
        world = World(
            clock=self.clock,
            seed=self.seed,
            profile=profile,
            list_order=self.list_order,
            list_lag=self.list_lag,
        )
        for fault in self.given_faults:
            world.faults.add(fault)
        return world

    @truth.default
    def _make_truth(self) -> TruthTeller:
        return TruthTeller(self.world)

    @property
    def faults(self) -> Faults:
        """What goes wrong: add faults, remove them, switch all off, at any time."""
        return self.world.faults

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
        output_save_url: str | None = None,
    ) -> str:
        """Take a job in and give its id, as `World.submit` does, without a request."""
        return self.world.submit(
            plan,
            job_id=job_id,
            received_at=received_at,
            schema=schema,
            output_save_url=output_save_url,
        )

    def save_url(self, name: str, *, readable: bool = False) -> str:
        """Give an `output_save_url` in the emulator's own store, as `World.save_url` does.

        Raises:
            RuntimeError: The emulator is not running, so that the URL would lead nowhere.
        """
        _ = self.base_url
        return self.world.save_url(name, readable=readable)

    def saved(self, name: str) -> bytes | None:
        """Give what was saved under that name in the store; None where nothing was."""
        found = self.world.saved.get(saved_path(name))
        return None if found is None else found.body

    async def __aenter__(self) -> Self:
        """Listen on both ports.

        Raises:
            OSError: A port is taken.
        """
        async with AsyncExitStack() as stack:
            results_app = make_results_app(self.world, sleep=self.sleep)
            results_origin = await self._serve(results_app, self.results_port, stack)
            api_app = make_api_app(self.world, api_key=self.api_key, sleep=self.sleep)
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
        runner = web.AppRunner(
            app,
            access_log=None,
            handler_cancellation=True,  # an answer that stalls for good ends with its client
            shutdown_timeout=_SHUTDOWN_TIMEOUT,
        )
        stack.push_async_callback(runner.cleanup)
        await runner.setup()
        await web.TCPSite(runner, self.host, port).start()
        bound_port = runner.addresses[0][1]
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{bound_port}"
