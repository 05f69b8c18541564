"""The emulator as a running service: a world, its API and its storage on two loopback ports."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AsyncExitStack, suppress
from types import TracebackType
from typing import Final, Self, cast

from aiohttp import web
from attrs import define, field

from adepoll.api.job_kind import JobKind
from adepoll.api.models import Json
from adepoll.common.safe_repr import SafeRepr
from adepoll.emulator.app import make_api_app, make_results_app
from adepoll.emulator.faults import Fault, Faults
from adepoll.emulator.ground_truth import GroundTruth
from adepoll.emulator.job_list import ListOrder
from adepoll.emulator.jobs import JobPlan
from adepoll.emulator.kinds import DEFAULT_KIND, rules_of
from adepoll.emulator.profiles import Profile, profile_of
from adepoll.emulator.response_sender import Sleep
from adepoll.emulator.stored_objects import saved_path
from adepoll.emulator.world import World

_SHUTDOWN_TIMEOUT: Final = 0.1  # seconds that closing waits for answers in progress
_STEPS: Final = 10  # of the loop; asyncio needs three to set up a connection that it has accepted


def _tuple_of(faults: Iterable[Fault | str]) -> tuple[Fault | str, ...]:
    return tuple(faults)


def _profiles_of(
    profiles: Mapping[str, Profile | Mapping[str, Json]],
) -> dict[str, Profile]:
    return {rules_of(kind).name: profile_of(profile) for kind, profile in profiles.items()}


def _tuple_of_keys(keys: Iterable[str]) -> tuple[str, ...]:
    # Each letter of a string would become a key.
    if isinstance(keys, str):
        raise TypeError("more_keys must be several keys, not one string")
    return tuple(keys)


@define(kw_only=True, eq=False)
class Emulator(SafeRepr):
    """A local ADE service for tests.

    ``async with Emulator() as ade`` serves `ade.base_url`; `ade.submit` adds a job. The jobs are
    kept after the ``async with`` block, and the emulator can be entered again.

    Attributes:
        api_key: The key that the API requires.
        seed: Determines everything random.
        profile: Durations, outcomes and sizes of the jobs that are submitted without a `JobPlan`.
            It is a `Profile`, a dict of its fields, or None for the default values of `Profile`.
        profiles: Profiles that replace `profile` for some kinds of jobs, by the name of the kind,
            such as ``v2-parse``.
        host: Address to listen on.
        port: Port of the API; 0 for any free port.
        results_port: Port of the storage of large results; 0 for any free port.
        clock: Returns Unix seconds. A test can pass a clock that it controls.
        sleep: Waits for the delays that faults cause. A test can pass a function that records the
            delays instead of waiting.
        list_order: Order of the job list.
        list_lag: Seconds by which a page of the list is out of date.
        more_keys: Further keys that the API accepts. All keys belong to one organisation.
        initial_faults: Faults that are active from the start, as `Fault` objects or names. They are
            the argument ``faults`` of the constructor.
        truth: What really happened, to compare with what a client found out; see `GroundTruth`.
        world: The state of the service.
    """

    api_key: str = field(default="emulator-key", repr=False)
    seed: int = 0
    profile: Profile = field(default=None, converter=profile_of)
    profiles: Mapping[str, Profile] = field(factory=dict, converter=_profiles_of)
    host: str = "127.0.0.1"
    port: int = 0
    results_port: int = 0
    clock: Callable[[], float] = field(default=time.time, repr=False)
    sleep: Sleep = field(default=asyncio.sleep, repr=False)
    list_order: ListOrder = field(default=ListOrder.NEWEST, converter=ListOrder)
    list_lag: float = 0.0
    more_keys: Iterable[str] = field(default=(), converter=_tuple_of_keys, repr=False)
    initial_faults: Iterable[Fault | str] = field(default=(), alias="faults", converter=_tuple_of)
    world: World = field(init=False, repr=False)
    truth: GroundTruth = field(init=False, repr=False)
    _base_url: str | None = field(init=False, default=None, repr=False)
    _stack: AsyncExitStack = field(init=False, factory=AsyncExitStack, repr=False)

    @world.default
    def _make_world(self) -> World:
        """Return a new world with the settings and faults of the emulator."""
        world = World(
            clock=self.clock,
            seed=self.seed,
            profile=self.profile,
            profiles=self.profiles,
            list_order=self.list_order,
            list_lag=self.list_lag,
        )
        for fault in self.initial_faults:
            world.faults.add(fault)
        return world

    @truth.default
    def _make_truth(self) -> GroundTruth:
        return GroundTruth(self.world)

    @property
    def faults(self) -> Faults:
        """The active faults. Faults can be added and removed at any time."""
        return self.world.faults

    @property
    def base_url(self) -> str:
        """Base URL of the API, for example ``http://127.0.0.1:8300``.

        Raises:
            RuntimeError: The emulator is not running.
        """
        if self._base_url is None:
            raise RuntimeError("the emulator is not running; use `async with Emulator()`")
        return self._base_url

    @property
    def results_url(self) -> str:
        """Origin of the storage of large results, which differs from that of the API."""
        return self.world.results_origin

    def submit(
        self,
        plan: JobPlan | None = None,
        *,
        kind: str | JobKind = DEFAULT_KIND,
        job_id: str | None = None,
        received_at: float | None = None,
        schema: Json = None,
        filename: str = "document.md",
        output_save_url: str | None = None,
        tier: str | None = None,
    ) -> str:
        """Add a job without a request, and return its id; see `World.submit`."""
        return self.world.submit(
            plan,
            kind=kind,
            job_id=job_id,
            received_at=received_at,
            schema=schema,
            filename=filename,
            output_save_url=output_save_url,
            tier=tier,
        )

    def save_url(self, name: str, *, readable: bool = False) -> str:
        """Return an `output_save_url` in the emulator's storage; see `World.save_url`.

        Raises:
            RuntimeError: The emulator is not running, so the URL would not work.
        """
        _ = self.base_url
        return self.world.save_url(name, readable=readable)

    def saved(self, name: str) -> bytes | None:
        """Return the bytes that were saved as `name`; None if nothing was saved."""
        found = self.world.saved.get(saved_path(name))
        return None if found is None else found.body

    async def __aenter__(self) -> Self:
        """Listen on both ports.

        Raises:
            OSError: A port is in use.
        """
        async with AsyncExitStack() as stack:
            results_app = make_results_app(self.world, sleep=self.sleep)
            results_origin = await self._serve(results_app, self.results_port, stack)
            keys = (self.api_key, *self.more_keys)
            api_app = make_api_app(self.world, api_keys=keys, sleep=self.sleep)
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
        """Close both ports, and cancel the answers in progress."""
        self._base_url = None
        await self._stack.aclose()

    async def _serve(self, app: web.Application, port: int, stack: AsyncExitStack) -> str:
        """Start the server; return its base URL."""
        runner = web.AppRunner(
            app,
            access_log=None,
            handler_cancellation=True,  # so that a stalled answer ends when its client disconnects
            shutdown_timeout=_SHUTDOWN_TIMEOUT,
        )
        stack.push_async_callback(runner.cleanup)
        await runner.setup()
        handler = cast("web.Server", runner.server)  # None only before `setup`
        server = await asyncio.get_running_loop().create_server(handler, self.host, port)
        stack.push_async_callback(stop_listening, server)
        bound_port = server.sockets[0].getsockname()[1]
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{bound_port}"


async def stop_listening(server: asyncio.Server) -> None:
    """Close the port, but lose no connection that was accepted just before.

    asyncio sets up an accepted connection some steps later. If the port is closed by then, asyncio
    does not close the connection, and Python warns about an unclosed socket.
    """
    try:
        loop = asyncio.get_running_loop()
        for sock in server.sockets:
            with suppress(NotImplementedError):  # on Windows, which accepts connections differently
                loop.remove_reader(sock)
        for _ in range(_STEPS):
            await asyncio.sleep(0)
    finally:
        server.close()
