"""Where job ids come from: arguments, files, standard input; one at a time, as they come."""

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import click

STDIN = "-"


async def read_ids(arguments: Sequence[str], files: Sequence[str]) -> AsyncIterator[str]:
    """Give the ids of the arguments, then those of the files, ``-`` being standard input.

    In a file, each line is an id; blank lines and those that begin with ``#`` are passed over.
    """
    for job_id in arguments:
        yield job_id
    for name in files:
        if name == STDIN:
            async for line in _stdin_lines():
                if found := _id_in(line):
                    yield found
        else:
            for job_id in _ids_in_file(name):
                yield job_id


def check_sources(arguments: Sequence[str], files: Sequence[str]) -> tuple[str, ...]:
    """Give the files to read: standard input, where nothing else was said and something is there.

    Raises:
        click.UsageError: There is nothing to read ids from.
        click.BadParameter: A file cannot be read.
    """
    if not arguments and not files:
        if sys.stdin is None or sys.stdin.isatty():
            raise click.UsageError(
                "no job ids: give them as arguments, with --file, or on standard input"
            )
        return (STDIN,)
    for name in files:
        if name != STDIN:
            try:
                Path(name).open("rb").close()
            except OSError as exc:
                raise click.BadParameter(
                    f"{name}: {exc.strerror}", param_hint="'-f' / '--file'"
                ) from exc
    return tuple(files)


def _ids_in_file(name: str) -> Iterator[str]:
    # utf-8-sig drops the mark that some editors put first; a byte that is no UTF-8 makes one bad
    # id, not a bad file.
    with Path(name).open(encoding="utf-8-sig", errors="surrogateescape") as lines:
        for line in lines:
            if job_id := _id_in(line):
                yield job_id


def _id_in(line: str) -> str | None:
    text = line.strip().lstrip("\ufeff")
    return text if text and not text.startswith("#") else None


async def _stdin_lines() -> AsyncIterator[str]:
    """Read standard input in a thread: neither a pipe nor a terminal may hold up the loop."""
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[str | None] = asyncio.Queue(maxsize=1000)

    def read() -> None:
        try:
            sys.stdin.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]  # a TextIOWrapper, as check_sources saw
            for line in sys.stdin:
                asyncio.run_coroutine_threadsafe(lines.put(line), loop).result()
            asyncio.run_coroutine_threadsafe(lines.put(None), loop).result()
        except RuntimeError:
            pass  # the loop has been closed; nobody reads any more

    # A daemon, unlike the loop's own threads: a reader that blocks must not keep us from ending.
    threading.Thread(target=read, name="adepoll-stdin", daemon=True).start()
    while (line := await lines.get()) is not None:
        yield line
