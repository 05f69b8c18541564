"""``adepoll emulate``: run an emulated ADE service on loopback ports."""

import asyncio
import itertools
import shutil
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import attrs
import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from adepoll.api.config import API_KEY_VARIABLE, BASE_URL_VARIABLE
from adepoll.api.models import JobStatus
from adepoll.cli.exit_codes import ExitCode
from adepoll.cli.messages import say
from adepoll.cli.options import median_option
from adepoll.cli.run import run
from adepoll.cli.stdout_writer import write_line
from adepoll.emulator import (
    FAULT_NAMES,
    KINDS,
    Emulator,
    Fault,
    Settings,
    SettingsError,
    make_fault,
    read_settings,
)

EXAMPLE = """\b
Start an emulator with 100 jobs and use it from this shell:
  adepoll emulate --jobs 100 > ade.env &
  until grep -q KEY ade.env; do sleep 0.1; done
  . ./ade.env && adepoll list

\b
Start an emulator that fails 10% of the requests and limits the rate:
  adepoll emulate --fault server-error:0.1 --fault rate-limit
"""


_PORT = click.IntRange(0, 65535)
_REQUESTS: Final = ("get", "list", "create", "result")
_TERMINAL_INTERVAL: Final = 1.0  # seconds between two status lines on a terminal
_LOG_INTERVAL: Final = 10.0  # seconds between two status lines elsewhere


def _read_faults(
    ctx: click.Context, param: click.Parameter, values: tuple[str, ...]
) -> list[Fault]:
    faults = []
    for value in values:
        name, colon, chance = value.partition(":")
        try:
            faults.append(make_fault(name, chance=float(chance) if colon else 1.0))
        except ValueError as exc:
            raise click.BadParameter(str(exc), ctx, param) from exc
    return faults


def _complete_fault(
    _ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    return [CompletionItem(name) for name in FAULT_NAMES if name.startswith(incomplete)]


def _read_profile(ctx: click.Context, param: click.Parameter, file: Path | None) -> Settings:
    if file is None:
        return Settings()
    try:
        return read_settings(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, SettingsError) as exc:
        raise click.BadParameter(f"{file}: {exc}", ctx, param) from exc


@click.command(epilog=EXAMPLE)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    default=8300,
    show_default=True,
    type=_PORT,
    help="Port of the API; 0 for any free port.",
)
@click.option(
    "--results-port",
    default=0,
    show_default=True,
    type=_PORT,
    help="Port for large results; 0 for any free port.",
)
@click.option(
    "--jobs",
    default=0,
    type=click.IntRange(min=0),
    metavar="N",
    help="Number of jobs at the start.",
)
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    type=click.Choice([*KINDS]),
    metavar="KIND",
    help="Kind of these jobs: v1-extract (default), v1-parse, v2-parse, v2-extract or v2-workflow. "
    "Repeatable: the kinds take turns.",
)
@click.option(
    "--api-key",
    "api_keys",
    multiple=True,
    default=["emulator-key"],
    show_default=True,
    metavar="KEY",
    help="Key that the API accepts; every other key is rejected. Repeatable.",
)
@median_option
@click.option("--seed", default=0, show_default=True, help="Seed of all random values.")
@click.option(
    "--profile",
    "settings",
    type=click.Path(path_type=Path),
    callback=_read_profile,
    metavar="FILE",
    help="TOML file with settings of jobs and faults; options override it.",
)
@click.option(
    "--fault",
    "faults",
    multiple=True,
    callback=_read_faults,
    shell_complete=_complete_fault,
    metavar="NAME[:CHANCE]",
    help="Add a fault; CHANCE is the share of requests that it affects (default: 1.0). Repeatable.",
)
@click.option(
    "--verbose", is_flag=True, help="Print a status line every 10 s; a terminal always shows one."
)
@click.option("--until-eof", is_flag=True, hidden=True, help="Exit at the end of standard input.")
@click.pass_context
def emulate(
    ctx: click.Context,
    *,
    host: str,
    port: int,
    results_port: int,
    jobs: int,
    kinds: tuple[str, ...],
    api_keys: tuple[str, ...],
    median: float,
    seed: int,
    settings: Settings,
    faults: list[Fault],
    verbose: bool,
    until_eof: bool,
) -> None:
    """Run an emulated ADE service with all kinds of jobs; needs no API key.

    Prints two environment variables that direct adepoll and the official SDK to the emulator.
    """
    chosen = settings
    if _is_given(ctx, "median"):
        chosen = attrs.evolve(chosen, profile=attrs.evolve(chosen.profile, median=median))
    if _is_given(ctx, "jobs"):
        chosen = attrs.evolve(chosen, jobs=jobs)
    if kinds:
        chosen = attrs.evolve(chosen, kinds=kinds)
    if _is_given(ctx, "seed"):
        chosen = attrs.evolve(chosen, seed=seed)

    async def main() -> ExitCode:
        emulator = Emulator(
            seed=chosen.seed,
            profile=chosen.profile,
            profiles=chosen.profiles,
            list_order=chosen.list_order,
            list_lag=chosen.list_lag,
            faults=[*chosen.faults, *faults],
            api_key=api_keys[0],
            more_keys=api_keys[1:],
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
            for _, kind in zip(range(chosen.jobs), itertools.cycle(chosen.kinds), strict=False):
                emulator.submit(kind=kind)
            write_line(f"export {BASE_URL_VARIABLE}={emulator.base_url}")
            write_line(f"export {API_KEY_VARIABLE}={emulator.api_key}")
            say(
                f"adepoll: emulating ADE at {emulator.base_url} with {chosen.jobs} jobs; "
                "press Ctrl-C to stop"
            )
            if until_eof:
                await asyncio.to_thread(sys.stdin.read)
            else:
                await _serve(emulator, verbose=verbose)
        return ExitCode.COMPLETED

    run(main)


def _is_given(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE


async def _serve(emulator: Emulator, *, verbose: bool) -> None:
    """Serve until cancelled; print status lines on stderr if it is a terminal or `verbose`."""
    if sys.stderr.isatty():
        try:
            while True:
                line = _summary(emulator)[: shutil.get_terminal_size().columns - 1]
                sys.stderr.write(f"\r\x1b[K{line}")
                sys.stderr.flush()
                await asyncio.sleep(_TERMINAL_INTERVAL)
        finally:
            say("")  # also works if the terminal was closed
    while verbose:
        await asyncio.sleep(_LOG_INTERVAL)
        say(f"adepoll: {_summary(emulator)}")
    await asyncio.Event().wait()


def _summary(emulator: Emulator) -> str:
    """Return one line with the numbers of jobs, requests and errors."""
    listed, truth = emulator.world.listed(), emulator.truth
    requests = truth.requests
    active = listed.get(JobStatus.PENDING, 0) + listed.get(JobStatus.PROCESSING, 0)
    parts = [
        f"{active} active, {sum(listed.values()) - active} settled",
        ", ".join(f"{getattr(requests, name)} {name}" for name in _REQUESTS),
    ]
    counts = {
        "faults": truth.faults.total(),
        "early": truth.early,
        "unauthorized": requests.unauthorized,
        "leaks": requests.leaks,
    }
    parts += [f"{count} {name}" for name, count in counts.items() if count]
    return " | ".join(parts)
