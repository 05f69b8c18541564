"""The `adepoll` command, also as ``python -m adepoll``."""

import sys


def main() -> None:
    """Run the command, or say how to install what it needs."""
    try:
        from adepoll.cli import cli  # noqa: PLC0415 - the extra may be missing
    except ModuleNotFoundError as exc:
        if exc.name not in {"click", "rich"}:
            raise
        sys.exit(
            f'adepoll: the command needs {exc.name}; install it with: pip install "adepoll[cli]"'
        )
    cli(prog_name="adepoll")


if __name__ == "__main__":
    main()
