"""Entry point of the `adepoll` command and of ``python -m adepoll``."""

import io
import os
import sys
from typing import Final

from adepoll.common.extras import how_to_install

# Values of `cli.exit_codes.ExitCode`, which cannot be imported before the checks in `main`.
_USAGE: Final = 2
_INTERRUPTED: Final = 130


def main() -> None:
    """Run the command. `cli.exit_codes` lists the codes with which this function exits.

    If a dependency is missing, print how to install it.
    """
    _open_closed_streams()
    _buffer_stdout()
    try:
        from adepoll import cli  # noqa: PLC0415 - the extra may be missing

        cli.main()
    except MemoryError:  # while modules are imported; `cli.run` handles it later
        sys.stderr.write("adepoll: out of memory\n")
        sys.exit(74)
    except ModuleNotFoundError as exc:
        if exc.name not in {"click", "jinja2", "rich"}:
            raise
        sys.stderr.write(f"adepoll: the command needs {exc.name}; {how_to_install('cli')}\n")
        sys.exit(_USAGE)
    except KeyboardInterrupt:  # while modules are imported
        sys.exit(_INTERRUPTED)


def _open_closed_streams() -> None:
    """Open the null device in place of each standard stream that is closed.

    A shell (``>&-``) or a daemon can start the command with closed streams. Without this function,
    the next file or socket that is opened would get the descriptor of the stream. Printed text
    would be written to that file or socket.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free descriptor, which is `number`
            setattr(sys, name, os.fdopen(number, mode))


def _buffer_stdout() -> None:
    """Add a buffer to stdout if it is unbuffered, so that each write is complete.

    With PYTHONUNBUFFERED, `sys.stdout.buffer` is a raw file. Its `write` ends early if a signal
    interrupts it, such as the signal that continues a stopped process. The rest would be lost.
    """
    raw = sys.stdout.buffer
    if isinstance(raw, io.FileIO):
        sys.stdout = io.TextIOWrapper(
            io.BufferedWriter(raw),
            encoding=sys.stdout.encoding,
            errors=sys.stdout.errors,
            line_buffering=True,
        )


if __name__ == "__main__":
    main()
