"""The `adepoll` command, also as ``python -m adepoll``."""

import os
import sys


def main() -> None:
    """Run the command, or say how to install what it needs."""
    _fill_standard_streams()
    try:
        from adepoll.cli import cli  # noqa: PLC0415 - the extra may be missing

        cli(prog_name="adepoll")
    except ModuleNotFoundError as exc:
        if exc.name not in {"click", "jinja2", "rich"}:
            raise
        sys.exit(
            f'adepoll: the command needs {exc.name}; install it with: pip install "adepoll[cli]"'
        )


def _fill_standard_streams() -> None:
    """Put the null device where a stream was closed (``>&-``, as under some daemons).

    Else the next file or socket would get its number, and what is printed.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
            setattr(sys, name, os.fdopen(number, mode))


if __name__ == "__main__":
    main()
