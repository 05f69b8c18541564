"""Runs a subcommand: creates its event loop, prints its errors, and exits.

`signals` says what happens on SIGINT; `exit_codes` says where each exit code is decided.
"""

import asyncio
import errno
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final, NoReturn

import click

from adepoll import AdePollError
from adepoll.cli.exit_codes import ExitCode, exit_code_of_error, exit_code_of_signal
from adepoll.cli.messages import discard, say, text_of
from adepoll.cli.signals import StopSignals
from adepoll.common.redaction import showable
from adepoll.common.system_errors import NO_MEMORY, is_exhausted, reason_of, too_few_files_left
from adepoll.common.threads import NO_THREAD, is_thread_limit

_log = logging.getLogger(__name__)

# Files that a command needs with an event loop, one connection and a journal. With fewer, asyncio
# and SQLite would fail in ways that do not name the cause.
_FILES: Final = 24
# Texts of the dynamic linker of glibc.
_NO_MEMORY: Final = re.compile("failed to map segment|[cC]annot (?:allocate|map)")


def run(
    main: Callable[[], Coroutine[Any, Any, ExitCode]],
    *,
    on_stop: Callable[[], None] | None = None,
    on_error: Callable[[], None] | None = None,
) -> NoReturn:
    """Run a command on a new event loop, and exit with its code.

    The first SIGINT, SIGTERM or SIGHUP cancels the command, which then cleans up. A second SIGINT
    or SIGTERM ends the process immediately. Errors are handled as in `run_sync`.

    Args:
        main: The command; returns its exit code.
        on_stop: Called after a signal has cancelled the command and the command has cleaned up;
            prints how to continue.
        on_error: Called if an error ends the command; prints how to continue. The error is printed
            before that. But an error with the exit code USAGE is printed after that, so that the
            user reads it last. `on_error` is not called after a usage error of click, after Ctrl-C,
            or if stdout is a closed pipe.
    """

    def run_loop() -> ExitCode:
        if (error := too_few_files_left(_FILES)) is not None:
            raise error
        with StopSignals() as signals:
            try:
                with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                    return runner.run(signals.run_cancellable(main))
            except asyncio.CancelledError:
                if signals.received is None:
                    raise
            if on_stop is not None:
                on_stop()
            return exit_code_of_signal(signals.received)

    _run_and_exit(run_loop, on_error=on_error)


def run_sync(
    main: Callable[[], ExitCode], *, on_error: Callable[[], None] | None = None
) -> NoReturn:
    """Run a command without an event loop, and exit with its code.

    The first SIGINT, SIGTERM or SIGHUP raises `KeyboardInterrupt` in the command, which then cleans
    up. A second SIGINT or SIGTERM ends the process immediately.

    Each error is printed as one line on stderr: an error of adepoll or of the operating system,
    exhausted memory, or a bug. `adepoll --debug` adds the traceback. Nothing is printed if the
    reader of stdout has closed the pipe, as `| head` does.

    Args:
        main: The command; returns its exit code.
        on_error: Called after an error; see `run`.
    """

    def run_main() -> ExitCode:
        with StopSignals() as signals:
            try:
                return signals.run_interruptible(main)
            except KeyboardInterrupt:
                if signals.received is None:
                    raise
        discard(sys.__stdout__)  # to write the rest could block
        return exit_code_of_signal(signals.received)

    _run_and_exit(run_main, on_error=on_error)


def _run_and_exit(main: Callable[[], ExitCode], *, on_error: Callable[[], None] | None) -> NoReturn:
    """Run a function, print its error, and exit with its code; see `run` and `run_sync`."""
    try:
        code = main()
    except KeyboardInterrupt:
        code = ExitCode.INTERRUPTED
    except click.ClickException:
        raise  # `cli.main` prints the usage error
    except Exception as error:  # noqa: BLE001 - every bug is reported on one line
        _log.debug("%s was raised", type(error).__name__, exc_info=error)
        cause = _with_known_cause(_cause_of(error))
        code = exit_code_of_error(cause)
        is_usage_error = code is ExitCode.USAGE  # printed last, because it says what to do
        if not is_usage_error:
            _report(cause)
        if on_error is not None and code is not ExitCode.BROKEN_PIPE:
            on_error()
        if is_usage_error:
            _report(cause)
    sys.exit(code)


def _cause_of(error: Exception) -> Exception:
    """Return the error to report.

    If `error` is a group of errors, return the first bug in it, at any depth. A bug is an error
    that is neither of adepoll nor of the operating system. If the group contains no bug, return its
    first error.
    """
    if isinstance(error, AdePollError) or not isinstance(error, ExceptionGroup):
        return error
    causes = [_cause_of(member) for member in error.exceptions]
    bugs = [cause for cause in causes if not isinstance(cause, AdePollError | OSError)]
    return (bugs or causes)[0]


def _with_known_cause(error: Exception) -> Exception:
    """Return an error that names the cause, if Python's own error does not name it.

    There are three such causes: the current folder was deleted, a thread cannot be started, or
    there is not enough memory to load a compiled module. Any other error is returned unchanged.
    """
    if isinstance(error, FileNotFoundError) and error.filename is None and _is_folder_deleted():
        return FileNotFoundError(error.errno, "the current folder has been deleted")
    if isinstance(error, RuntimeError) and is_thread_limit(error):
        return OSError(errno.EAGAIN, NO_THREAD)
    if isinstance(error, ImportError) and _NO_MEMORY.search(str(error)):
        return MemoryError()
    return error


def _is_folder_deleted() -> bool:
    """Return True if the current folder has been deleted."""
    try:
        os.getcwd()  # noqa: PTH109 - the simplest call that fails without the folder
    except FileNotFoundError:
        return True
    return False


def _report(error: Exception) -> None:
    """Print an error that ended the command, unless the reader of stdout has gone."""
    if isinstance(error, BrokenPipeError):
        discard(sys.__stdout__)
    elif isinstance(error, AdePollError):
        say(f"adepoll: {text_of(error)}")
    elif isinstance(error, OSError):
        # For example, the disk is full, or a file of job ids cannot be read.
        name = "" if error.filename is None else f" {showable(os.fsdecode(error.filename))}"
        what = "" if is_exhausted(error) and not name else f"cannot read or write{name}: "
        say(f"adepoll: {what}{reason_of(error)}")
        discard(sys.__stdout__)
    elif isinstance(error, MemoryError):
        say(f"adepoll: {NO_MEMORY}")
    else:
        # The text of the exception is left out: it may hold a secret.
        frames = traceback.extract_tb(error.__traceback__)
        place = f" in {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""
        say(
            f"adepoll: this is a bug in adepoll: {type(error).__name__}{place}; "
            'for details to report, run "adepoll --debug COMMAND ..."'
        )


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's factory if the extra "speed" is installed, else None."""
    try:
        import uvloop  # noqa: PLC0415 - uvloop is an extra
    except ModuleNotFoundError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
