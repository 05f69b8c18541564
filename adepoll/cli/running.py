"""What all subcommands share: the client's options, the loop, signals, exit codes."""

import asyncio
import contextlib
import functools
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from enum import IntEnum
from typing import Any, Final, NoReturn

import click

from adepoll.client import AdeClient
from adepoll.errors import (
    AdePollError,
    AuthenticationError,
    ConfigurationError,
    InvalidJobIdError,
    PermissionDeniedError,
    TargetExistsError,
)
from adepoll.models import JobSnapshot, JobStatus
from adepoll.redaction import showable


class ExitCode(IntEnum):
    """How a command ended; `adepoll --help` lists them."""

    COMPLETED = 0
    ENDED_BADLY = 1
    USAGE = 2
    UNRESOLVED = 3
    KEY_REFUSED = 4
    OUTPUT = 74
    INTERRUPTED = 130
    READER_GONE = 141
    TERMINATED = 143


def exit_code_of(job: JobSnapshot) -> ExitCode:
    """Give what one job contributes to the exit code."""
    badly = {JobStatus.FAILED, JobStatus.CANCELLED}
    return ExitCode.ENDED_BADLY if job.status in badly else ExitCode.COMPLETED


def say(text: str) -> None:
    """Print one line on stderr."""
    click.echo(text, err=True)


class SayHandler(logging.Handler):
    """Gives log records to `say`, which finds stderr where the progress display has put it."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        say(self.format(record))


def client_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say where and how fast; the command gets `connect`, not them."""

    @click.option("--region", metavar="us|eu", help="Region of the key; default: the environment.")
    @click.option("--base-url", metavar="URL", help="Address of the API, instead of a region.")
    @click.option(
        "--max-rate",
        type=click.FloatRange(min=0, min_open=True),
        metavar="N",
        help="Most requests per second.",
    )
    @functools.wraps(command)
    def with_client(
        *args: object,
        region: str | None,
        base_url: str | None,
        max_rate: float | None,
        **kwargs: object,
    ) -> None:
        def connect() -> AdeClient:
            return AdeClient(region=region, base_url=base_url, max_rate=max_rate)

        command(*args, connect=connect, **kwargs)

    return with_client


median_option = click.option(
    "--median",
    default=8.0,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Median time of a job; the times are log-normal.",
)


class _TerminatedError(Exception):
    """SIGTERM came."""


def run(main: Callable[[], Coroutine[Any, Any, ExitCode]]) -> NoReturn:
    """Run a command on an event loop of its own, and exit with its code.

    Errors of adepoll become one line on stderr; SIGINT and SIGTERM cancel the command, which
    cleans up and says where it stood.
    """
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            code = runner.run(_until_terminated(main))
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = ExitCode.INTERRUPTED
    except _TerminatedError:
        code = ExitCode.TERMINATED
    except BrokenPipeError:
        _drop_stdout()  # its reader has gone (`| head`)
        code = ExitCode.READER_GONE
    except AdePollError as error:
        say(f"adepoll: {error}")
        code = _exit_code_of_error(error)
    except OSError as error:
        # Not ours to cause: the disk under stdout is full, or a file of ids cannot be read.
        say(f"adepoll: cannot read or write: {error.strerror or type(error).__name__}")
        _drop_stdout()
        code = ExitCode.OUTPUT
    sys.exit(code)


def _drop_stdout() -> None:
    # What could not be written is still in the buffer; Python would complain of it at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Give uvloop's, where the extra "speed" is installed."""
    try:
        import uvloop  # noqa: PLC0415 - the extra may be missing
    except ModuleNotFoundError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def _until_terminated(main: Callable[[], Coroutine[Any, Any, ExitCode]]) -> ExitCode:
    task = asyncio.ensure_future(main())
    terminated = False

    def terminate() -> None:
        nonlocal terminated
        terminated = True
        task.cancel()

    with contextlib.suppress(NotImplementedError):  # Windows has no such signals
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminate)
    try:
        return await task
    except asyncio.CancelledError:
        if terminated:
            raise _TerminatedError from None
        raise


_CODES: Final[tuple[tuple[type[AdePollError], ExitCode], ...]] = (
    (AuthenticationError, ExitCode.KEY_REFUSED),
    (PermissionDeniedError, ExitCode.KEY_REFUSED),
    (ConfigurationError, ExitCode.USAGE),
    (InvalidJobIdError, ExitCode.USAGE),
    (TargetExistsError, ExitCode.USAGE),
)


def _exit_code_of_error(error: AdePollError) -> ExitCode:
    for cls, code in _CODES:
        if isinstance(error, cls):
            return code
    return ExitCode.UNRESOLVED


def write_line(text: str) -> None:
    """Write one line to stdout, where the next program can read it at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def shown(text: str) -> str:
    """Give text of the service as it may stand on a terminal."""
    return showable(text, 200)
