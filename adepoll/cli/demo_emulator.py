"""The emulator of ``adepoll demo``: runs it in a separate process, and sends requests to it."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from typing import Final

import aiohttp
from attrs import frozen

from adepoll import AdePollError, JobKind, JobRef, Json
from adepoll.api.config import API_KEY_VARIABLE, BASE_URL_VARIABLE
from adepoll.api.kinds.registry import RULES

_MAX_SUBMISSIONS: Final = 32  # requests at the same time
_SCHEMA: Final = (
    '{"type": "object", "properties": {"invoice_number": {"type": "string"}, '
    '"total": {"type": "number"}, "lines": {"type": "array", "items": {"type": "object", '
    '"properties": {"text": {"type": "string"}, "amount": {"type": "number"}}}}}}'
)


def _form(kind: JobKind, number: int) -> aiohttp.FormData:
    """Return the form of the request that creates job `number`."""
    form = aiohttp.FormData()
    if kind is JobKind.V1_EXTRACT or kind is JobKind.V2_EXTRACT:
        form.add_field("schema", _SCHEMA)
        form.add_field("markdown", f"# Invoice {number}", filename=f"invoice-{number}.md")
        return form
    form.add_field("document", b"%PDF-1.7", filename=f"invoice-{number}.pdf")
    if kind is JobKind.V2_WORKFLOW:
        step = f'{{"name": "parse-extract", "document": "$inputs.invoice", "schema": {_SCHEMA}}}'
        form.add_field("inputs", '{"invoice": {"document": "document"}}')
        form.add_field("steps", f"[{step}]")
    return form


@frozen
class EmulatorProcess:
    """A running emulator. Submits jobs and reads the emulator's records; `AdeClient` cannot do so.

    Attributes:
        base_url: URL of the emulator's API.
        api_key: The API key that the emulator accepts.
    """

    base_url: str
    api_key: str

    async def submit(self, count: int) -> list[JobRef]:
        """Create `count` jobs with alternating kinds, and return their references."""
        slots = asyncio.Semaphore(_MAX_SUBMISSIONS)
        kinds = JobKind.all()

        async def create(session: aiohttp.ClientSession, number: int) -> JobRef:
            kind = kinds[number % len(kinds)]
            url = self.base_url + RULES[kind].path
            async with slots, session.post(url, data=_form(kind, number)) as response:
                return JobRef((await response.json())["job_id"], kind=kind)

        async with self._session() as session:
            return await asyncio.gather(*(create(session, number) for number in range(count)))

    async def truth(self) -> Json:
        """Return the emulator's records of its jobs and requests."""
        url = f"{self.base_url}/_emulator/truth"
        async with self._session() as session, session.get(url, params={"digests": "1"}) as answer:
            return await answer.json()

    def _session(self) -> aiohttp.ClientSession:
        headers = {"Authorization": f"Bearer {self.api_key}"}
        return aiohttp.ClientSession(headers=headers, raise_for_status=True)


@contextlib.asynccontextmanager
async def emulator_process(*, seed: int, median: float) -> AsyncIterator[EmulatorProcess]:
    """Run an emulator in a separate process while the block runs.

    The emulator exits when its standard input closes, so that it cannot outlive this process.

    Args:
        seed: Seed of all random values.
        median: Median duration of a job in seconds.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "adepoll", "emulate", "--port", "0", "--until-eof"),
        *("--seed", str(seed), "--median", str(median)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,  # so that Ctrl-C interrupts this process only
        env=_environment(),
    )
    try:
        yield await _read_announcement(process)
    finally:
        if process.stdin is not None:
            process.stdin.close()
        await process.wait()


def _environment() -> dict[str, str]:
    """Return the environment variables for the emulator, without the user's API key."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    environment.pop(API_KEY_VARIABLE, None)
    return environment


async def _read_announcement(process: asyncio.subprocess.Process) -> EmulatorProcess:
    """Read the lines ``export NAME=VALUE`` that the emulator prints; return its URL and key."""
    variables: dict[str, str] = {}
    while not variables.keys() >= {BASE_URL_VARIABLE, API_KEY_VARIABLE}:
        line = (await process.stdout.readline()).decode() if process.stdout else ""
        if not line:
            raise AdePollError('the emulator did not start; run "adepoll emulate" to see why')
        name, _, value = line.strip().removeprefix("export ").partition("=")
        variables[name] = value
    return EmulatorProcess(variables[BASE_URL_VARIABLE], variables[API_KEY_VARIABLE])
