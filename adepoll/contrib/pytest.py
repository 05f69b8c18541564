"""The pytest plugin: fixtures with an emulated ADE service, over HTTP or in virtual time.

The fixtures are synchronous: the emulator runs in its own thread, and the client closes itself. So
they work in ``def`` tests, in ``async def`` tests with pytest-asyncio or anyio, and in tests that
start processes. Only `ade_world` needs ``def`` tests, because it has an event loop of its own. The
plugin imports the emulator only when a test uses a fixture.
"""

import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, TypeVar

import attrs
import pytest

if TYPE_CHECKING:
    from adepoll.contrib.testing import AdeWorld, SelfClosingClient
    from adepoll.emulator import Emulator

__all__ = ["ade", "ade_client", "ade_env", "ade_world", "pytest_configure"]

_T = TypeVar("_T")

_MARKER: Final = (
    "ade(**options): options of the emulator behind the fixtures `ade` and `ade_world`, such as "
    "seed, profile, profiles, faults, list_order, list_lag; the mark nearest to the test wins"
)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker `ade`."""
    config.addinivalue_line("markers", _MARKER)


@pytest.fixture
def ade(request: pytest.FixtureRequest) -> "Iterator[Emulator]":
    """An `adepoll.emulator.Emulator` that serves on loopback ports: base_url, api_key, submit(),
    truth, faults and more. Each test has its own emulator, which any thread may use. Jobs without a
    `JobPlan`, such as those of the official SDK, complete in 0.05 s unless the mark `ade` sets a
    profile.
    """
    from adepoll.contrib.testing import serve_in_thread  # noqa: PLC0415 - slow to import
    from adepoll.emulator import Emulator, Profile  # noqa: PLC0415 - slow to import

    make = functools.partial(Emulator, profile=Profile.quick())
    with serve_in_thread(_create(make, request)) as served:
        yield served


@pytest.fixture
def ade_client(ade: "Emulator") -> "Iterator[SelfClosingClient]":
    """An `adepoll.AdeClient` of the emulator `ade`. Use it in one event loop. It closes itself."""
    from adepoll.contrib.testing import SelfClosingClient  # noqa: PLC0415 - slow to import

    client = SelfClosingClient(ade.api_key, base_url=ade.base_url, v2_base_url=ade.base_url)
    yield client
    client.finish()


@pytest.fixture
def ade_env(ade: "Emulator", monkeypatch: pytest.MonkeyPatch) -> "Emulator":
    """The emulator `ade`, to which environment variables point. So `AdeClient()`, the official SDK
    and the command use it, in this process and in its child processes.
    """
    from adepoll.api.config import environment_of  # noqa: PLC0415 - slow to import

    for name, value in environment_of(ade.base_url, ade.api_key).items():
        monkeypatch.setenv(name, value)
    return ade


@pytest.fixture
def ade_world(request: pytest.FixtureRequest) -> "Iterator[AdeWorld]":
    """An emulated service in virtual time, without sockets: `submit` jobs, pass `source` to a
    `JobWatcher`, and `run` a coroutine in which hours pass in milliseconds. For ``def`` tests only:
    `run` starts an event loop.
    """
    from adepoll.contrib.testing import AdeWorld  # noqa: PLC0415 - slow to import

    with _create(AdeWorld, request, without="clock") as world:
        yield world


def _create(make: Callable[..., _T], request: pytest.FixtureRequest, *, without: str = "") -> _T:
    """Return ``make(**options)``; the options are those in the `ade` marks of the test.

    If an option is invalid, or has the excluded name `without`, fail the test.
    """
    try:
        return make(**_options([*request.node.iter_markers("ade")], without))
    except (TypeError, ValueError) as exc:
        message = f"@pytest.mark.ade, for the fixture {request.fixturename}: {exc}"
    pytest.fail(message, pytrace=False)  # outside of `except`, so that pytest shows one error


def _options(marks: list[pytest.Mark], without: str) -> dict[str, object]:
    """Return the options of `Emulator` in the `ade` marks of a test. The nearest mark wins.

    Raises:
        TypeError: An option is unknown, has the excluded name `without`, or was passed without a
            name.
    """
    from adepoll.emulator import Emulator  # noqa: PLC0415 - slow to import

    if any(mark.args for mark in marks):
        raise TypeError("options must be passed by name, as in seed=3")
    options = {name: value for mark in reversed(marks) for name, value in mark.kwargs.items()}
    known = [str(field.alias) for field in attrs.fields(Emulator) if field.init]
    known = [name for name in known if name != without]
    if unknown := [name for name in options if name not in known]:
        raise TypeError(f"unknown option {unknown[0]!r}; the options are: {', '.join(known)}")
    return options
