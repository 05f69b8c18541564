"""The pytest plugin: an ADE service for every test that asks for one, served or in virtual time.

All fixtures are plain functions: the emulator has a thread of its own, and the client closes
itself. So they serve any test: synchronous ones, ``async def`` ones under pytest-asyncio (in both
modes) or anyio, and those that start processes. It imports what it needs when a test asks.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, TypeVar

import attrs
import pytest

if TYPE_CHECKING:
    from adepoll.contrib.testing import AdeWorld, SelfClosingClient
    from adepoll.emulator import Emulator

_T = TypeVar("_T")

_MARKER: Final = (
    "ade(**options): options of the emulator behind the fixtures `ade` and `ade_world`, such as "
    "seed, profile, faults, list_order, list_lag; a mark nearer to the test goes first"
)


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker `ade` known."""
    config.addinivalue_line("markers", _MARKER)


@pytest.fixture
def ade(request: pytest.FixtureRequest) -> "Iterator[Emulator]":
    """An ADE service on loopback ports, a new one for each test: base_url, api_key, submit(),
    truth, faults and all else of `adepoll.emulator.Emulator`, for use from any thread.
    """
    from adepoll.contrib.testing import serve_in_thread  # noqa: PLC0415 - it takes time to import
    from adepoll.emulator import Emulator  # noqa: PLC0415 - as above

    with serve_in_thread(_made(Emulator, request)) as served:
        yield served


@pytest.fixture
def ade_client(ade: "Emulator") -> "Iterator[SelfClosingClient]":
    """An `adepoll.AdeClient` of the service `ade`. Use it in one loop; it closes itself."""
    from adepoll.contrib.testing import SelfClosingClient  # noqa: PLC0415 - as for `ade`

    client = SelfClosingClient(ade.api_key, base_url=ade.base_url)
    yield client
    client.finish()


@pytest.fixture
def ade_env(ade: "Emulator", monkeypatch: pytest.MonkeyPatch) -> "Emulator":
    """The service `ade`, with the environment pointing to it: `AdeClient()`, the official SDK and
    the command find it without arguments, in this process and in those that it starts.
    """
    from adepoll.api import config  # noqa: PLC0415 - as for `ade`

    monkeypatch.setenv(config.API_KEY_VARIABLE, ade.api_key)
    monkeypatch.setenv(config.BASE_URL_VARIABLE, ade.base_url)
    # The official SDK refuses the one beside a base URL, and would follow the other elsewhere.
    monkeypatch.delenv(config.REGION_VARIABLE, raising=False)
    monkeypatch.delenv("LANDINGAI_ADE_V2_BASE_URL", raising=False)
    return ade


@pytest.fixture
def ade_world(request: pytest.FixtureRequest) -> "Iterator[AdeWorld]":
    """An ADE service in virtual time, without sockets: `submit` jobs, give `source` to a
    `JobWatcher`, and `run` a coroutine in which hours pass in milliseconds.
    """
    from adepoll.contrib.testing import AdeWorld  # noqa: PLC0415 - as for `ade`

    with _made(AdeWorld, request, without="clock") as world:
        yield world


def _made(make: Callable[..., _T], request: pytest.FixtureRequest, *, without: str = "") -> _T:
    """Make something with the options of the test's marks, or say what is wrong with them."""
    try:
        return make(**_options([*request.node.iter_markers("ade")], without))
    except (TypeError, ValueError) as exc:
        complaint = f"@pytest.mark.ade, for the fixture {request.fixturename}: {exc}"
    pytest.fail(complaint, pytrace=False)  # out here, where it has no context to be shown


def _options(marks: list[pytest.Mark], without: str) -> dict[str, object]:
    from adepoll.emulator import Emulator  # noqa: PLC0415 - as for `ade`

    if any(mark.args for mark in marks):
        raise TypeError("options have names, as in seed=3")
    options = {name: value for mark in reversed(marks) for name, value in mark.kwargs.items()}
    known = [str(field.alias) for field in attrs.fields(Emulator) if field.init]
    known = [name for name in known if name != without]
    if unknown := [name for name in options if name not in known]:
        raise TypeError(f"no option {unknown[0]!r}; there are: {', '.join(known)}")
    return options
