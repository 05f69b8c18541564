"""What all subcommands share: the client's options, the loop, signals, exit codes."""

import asyncio
import functools
import logging
import math
import os
import sys
import traceback
from collections.abc import Callable, Coroutine
from enum import IntEnum
from pathlib import Path
from typing import Any, Final, NoReturn, TextIO

import click
from click.shell_completion import CompletionItem

import adepoll
from adepoll.api.config import API_KEY_VARIABLE, REGIONS
from adepoll.api.models import JobSnapshot, JobStatus
from adepoll.cli.stopping import Stopping
from adepoll.errors import (
    AdePollError,
    AuthenticationError,
    BatchStoppedError,
    ConfigurationError,
    InvalidJobIdError,
    JournalBusyError,
    JournalEndpointError,
    JournalError,
    JournalFormatError,
    JournalNotFoundError,
    NotAJournalError,
    PermissionDeniedError,
    TargetExistsError,
)
from adepoll.redaction import REDACTED, showable

_log = logging.getLogger(__name__)
_LONGEST_RECORD_LINE: Final = 2_000


class ExitCode(IntEnum):
    """How a command ended; `adepoll --help` lists them."""

    COMPLETED = 0
    ENDED_BADLY = 1
    USAGE = 2
    UNRESOLVED = 3
    KEY_REFUSED = 4
    BUG = 70
    OUTPUT = 74
    HUNG_UP = 129
    INTERRUPTED = 130
    READER_GONE = 141
    TERMINATED = 143


def exit_code_of(job: JobSnapshot) -> ExitCode:
    """Give what one job contributes to the exit code."""
    badly = {JobStatus.FAILED, JobStatus.CANCELLED}
    return ExitCode.ENDED_BADLY if job.status in badly else ExitCode.COMPLETED


def say(text: str) -> None:
    """Print one line on stderr; nothing, where that has gone: work does not end for it."""
    try:
        click.echo(text, err=True)
    except OSError:
        drop(sys.__stderr__)


def drop(stream: TextIO | None) -> None:
    """Put the null device in the place of a stream that cannot be written.

    What could not be written is still in its buffer; Python would complain of it at exit.
    """
    if stream is not None:
        with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - a device, not a path
            os.dup2(nowhere.fileno(), stream.fileno())


class SayHandler(logging.Handler):
    """Gives log records to `say`, which finds stderr where the progress display has put it.

    Secrets are taken out, and control characters escaped, of tracebacks too.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        text = self.format(record)
        if key := os.environ.get(API_KEY_VARIABLE, "").strip():
            text = text.replace(key, REDACTED)
        say("\n".join(showable(line, _LONGEST_RECORD_LINE) for line in text.split("\n")))


def place_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say where and how fast: `region`, `base_url` and `max_rate`."""

    @click.option(
        "--region",
        metavar="us|eu",
        shell_complete=_complete_region,
        help="Region of the key; default: the environment.",
    )
    @click.option("--base-url", metavar="URL", help="Address of the API, instead of a region.")
    @click.option(
        "--max-rate",
        type=click.FloatRange(min=0, min_open=True),
        callback=finite,
        metavar="N",
        help="Most requests per second.",
    )
    @functools.wraps(command)
    def with_place(*args: object, **kwargs: object) -> None:
        command(*args, **kwargs)

    return with_place


def client_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add `place_options`; the command gets `connect`, not them."""

    @place_options
    @functools.wraps(command)
    def with_client(
        *args: object,
        region: str | None,
        base_url: str | None,
        max_rate: float | None,
        **kwargs: object,
    ) -> None:
        def connect() -> "adepoll.AdeClient":  # which is imported when a command connects
            return adepoll.AdeClient(region=region, base_url=base_url, max_rate=max_rate)

        command(*args, connect=connect, **kwargs)

    return with_client


def finite(_ctx: click.Context, _param: click.Parameter, value: float | None) -> float | None:
    """Refuse what click takes for a number in range: no comparison excludes NaN."""
    if value is not None and not math.isfinite(value):
        raise click.BadParameter("that is no number")
    return value


def _complete_region(
    _ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    # No click.Choice: the library knows more names, and what to say of the others.
    return [CompletionItem(name) for name in sorted(REGIONS) if name.startswith(incomplete)]


median_option = click.option(
    "--median",
    default=8.0,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Median time of a job; the times are log-normal.",
)


def run(
    main: Callable[[], Coroutine[Any, Any, ExitCode]],
    *,
    on_stop: Callable[[], None] | None = None,
    on_error: Callable[[], None] | None = None,
) -> NoReturn:
    """Run a command on an event loop of its own, and exit with its code.

    The first SIGINT, SIGTERM or SIGHUP cancels it, so that it cleans up and says where it stood;
    one more ends the process at once. `run_plain` says what becomes of errors.

    Args:
        main: The command.
        on_stop: Called when a signal has stopped the command and all is cleaned up: to say how to
            go on.
        on_error: Likewise when an error has, which was told.
    """

    def within_loop() -> ExitCode:
        with Stopping() as stopping:
            try:
                with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                    return runner.run(stopping.stoppable(main))
            except asyncio.CancelledError:
                if stopping.signal is None:
                    raise
            if on_stop is not None:
                on_stop()
            return ExitCode(stopping.exit_code)

    run_plain(within_loop, on_error=on_error)


def run_plain(
    main: Callable[[], ExitCode], *, on_error: Callable[[], None] | None = None
) -> NoReturn:
    """Run a command that needs no event loop, and exit with its code.

    Errors of adepoll and of the system become one line on stderr, and so does a bug; with
    `adepoll --debug`, where they were raised is shown too. A reader of stdout that has gone is
    quiet.
    """
    try:
        code = main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = ExitCode.INTERRUPTED
    except click.ClickException:
        raise  # click tells these, with the usage
    except Exception as error:  # noqa: BLE001 - the last resort: a bug is told as one, in one line
        _log.debug("%s was raised", type(error).__name__, exc_info=error)
        code = _tell(_essence(error))
        if on_error is not None and code is not ExitCode.READER_GONE:
            on_error()
    sys.exit(code)


def _essence(error: Exception) -> Exception:
    """Give what a group of errors is about: a bug, where there is one in it."""
    if isinstance(error, AdePollError) or not isinstance(error, ExceptionGroup):
        return error
    errors = [_essence(member) for member in error.exceptions]
    bugs = [member for member in errors if not isinstance(member, AdePollError | OSError)]
    return (bugs or errors)[0]


def _tell(error: Exception) -> ExitCode:
    if isinstance(error, BrokenPipeError):
        drop(sys.__stdout__)  # its reader has gone (`| head`)
        return ExitCode.READER_GONE
    if isinstance(error, AdePollError):
        say(f"adepoll: {error}")
        return _exit_code_of_error(error)
    if isinstance(error, OSError):
        # Not ours to cause: the disk under stdout is full, or a file of ids cannot be read.
        name = "" if error.filename is None else f" {showable(os.fsdecode(error.filename))}"
        say(f"adepoll: cannot read or write{name}: {error.strerror or type(error).__name__}")
        drop(sys.__stdout__)
        return ExitCode.OUTPUT
    # Not its text, which was made for nobody's eyes, and may hold anything.
    frames = traceback.extract_tb(error.__traceback__)
    place = f" in {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""
    say(
        f"adepoll: this is a bug in adepoll: {type(error).__name__}{place}; "
        '"adepoll --debug COMMAND ..." shows more, for a report of it'
    )
    return ExitCode.BUG


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Give uvloop's, where the extra "speed" is installed."""
    try:
        import uvloop  # noqa: PLC0415 - the extra may be missing
    except ModuleNotFoundError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


_CODES: Final[tuple[tuple[type[AdePollError], ExitCode], ...]] = (
    (AuthenticationError, ExitCode.KEY_REFUSED),
    (PermissionDeniedError, ExitCode.KEY_REFUSED),
    (ConfigurationError, ExitCode.USAGE),
    (InvalidJobIdError, ExitCode.USAGE),
    (TargetExistsError, ExitCode.USAGE),
    (JournalNotFoundError, ExitCode.USAGE),
    (JournalBusyError, ExitCode.USAGE),
    (JournalEndpointError, ExitCode.USAGE),
    (JournalFormatError, ExitCode.USAGE),
    (NotAJournalError, ExitCode.USAGE),
    (JournalError, ExitCode.OUTPUT),
    (BatchStoppedError, ExitCode.OUTPUT),
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
