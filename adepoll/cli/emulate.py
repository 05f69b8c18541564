"""``adepoll emulate``: an ADE service of one's own on loopback ports."""

import asyncio
import sys
from contextlib import AsyncExitStack

import click

from adepoll.cli.running import ExitCode, median_option, run, say, write_line
from adepoll.emulator import Emulator, Profile
from adepoll.settings import API_KEY_VARIABLE, BASE_URL_VARIABLE

EXAMPLE = """\b
Point this shell to an emulator with 100 jobs:
  adepoll emulate --jobs 100 > ade.env &
  . ./ade.env && adepoll list
"""


_PORT = click.IntRange(0, 65535)


@click.command(epilog=EXAMPLE)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", default=8300, show_default=True, type=_PORT, help="Port of the API; 0 for any."
)
@click.option(
    "--results-port", default=0, type=_PORT, help="Port of the large results; 0 (default) for any."
)
@click.option(
    "--jobs", default=0, type=click.IntRange(min=0), metavar="N", help="Start with so many jobs."
)
@median_option
@click.option("--seed", default=0, show_default=True, help="Everything random follows from it.")
@click.option("--until-eof", is_flag=True, hidden=True, help="End with standard input.")
def emulate(
    *,
    host: str,
    port: int,
    results_port: int,
    jobs: int,
    median: float,
    seed: int,
    until_eof: bool,
) -> None:
    """Run an ADE service to try things on, without a key or a bill.

    Prints the two variables that point adepoll and the official SDK to it.
    """

    async def main() -> ExitCode:
        emulator = Emulator(
            seed=seed,
            profile=Profile(median=median),
            host=host,
            port=port,
            results_port=results_port,
        )
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(emulator)
            except OSError as exc:
                say(f"adepoll: cannot listen on {host}, port {port} or {results_port}: {exc}")
                return ExitCode.USAGE
            for _ in range(jobs):
                emulator.submit()
            write_line(f"export {BASE_URL_VARIABLE}={emulator.base_url}")
            write_line(f"export {API_KEY_VARIABLE}={emulator.api_key}")
            say(f"adepoll: emulating ADE at {emulator.base_url} with {jobs} jobs; Ctrl-C ends it")
            await (asyncio.to_thread(sys.stdin.read) if until_eof else asyncio.Event().wait())
        return ExitCode.COMPLETED

    run(main)
