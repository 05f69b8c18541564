"""``adepoll emulate``: run an emulated ADE service on loopback ports."""

import asyncio
import itertools
import shlex
import shutil
import sys
from contextlib import AsyncExitStack
from typing import Final

import attrs
import click
from click.core import ParameterSource

from adepoll import JobStatus
from adepoll.api.config import environment_of
from adepoll.cli.exit_codes import ExitCode
from adepoll.cli.messages import say
from adepoll.cli.run import run
from adepoll.cli.stdout_writer import write_line
from adepoll.emulator import Emulator, Fault, Settings

_REQUESTS: Final = ("get", "list", "create", "result")
_TERMINAL_INTERVAL: Final = 1.0  # seconds between two status lines on a terminal
_LOG_INTERVAL: Final = 10.0  # seconds between two status lines in a file or pipe


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
    settings: Settings | None,
    faults: list[Fault],
    verbose: bool,
    until_eof: bool,
) -> None:
    """Run ``adepoll emulate``; `commands.emulate` describes the options."""
    chosen = settings or Settings()
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
                ports = [f"port {number}" for number in (port, results_port) if number]
                place = ", ".join([host, *([" or ".join(ports)] if ports else [])])
                say(f"adepoll: cannot listen on {place}: {exc.strerror or exc}")
                return ExitCode.USAGE
            for _, kind in zip(range(chosen.jobs), itertools.cycle(chosen.kinds), strict=False):
                emulator.submit(kind=kind)
            for name, value in environment_of(emulator.base_url, emulator.api_key).items():
                write_line(f"export {name}={shlex.quote(value) if value else ''}")
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
    """Serve until cancelled; print status lines on stderr if it is a terminal, or if `verbose`."""
    if sys.stderr.isatty():
        try:
            while True:
                line = _summary(emulator)[: shutil.get_terminal_size().columns - 1]
                sys.stderr.write(f"\r\x1b[K{line}")  # "\r" flushes stderr
                await asyncio.sleep(_TERMINAL_INTERVAL)
        finally:
            say("")  # ends the status line; also works if the terminal was closed
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
