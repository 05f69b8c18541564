"""Entry point of the `adepoll` command and of ``python -m adepoll``."""

import os
import sys


def main() -> None:
    """Run the command, or say how to install a missing dependency."""
    _open_closed_streams()
    try:
        from adepoll import cli  # noqa: PLC0415 - the extra may be missing

        cli.main()
    except ModuleNotFoundError as exc:
        if exc.name not in {"click", "jinja2", "rich"}:
            raise
        sys.exit(
            f'adepoll: the command needs {exc.name}; install it with: pip install "adepoll[cli]"'
        )


def _open_closed_streams() -> None:
    """Open the null device in place of a closed standard stream (``>&-``, or some daemons).

    Otherwise the next file or socket would get its descriptor, and receive the printed text.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free descriptor: this one
            setattr(sys, name, os.fdopen(number, mode))


if __name__ == "__main__":
    main()
