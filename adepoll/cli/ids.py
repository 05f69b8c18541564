"""Where job ids come from: arguments, files, standard input; one at a time, as they come."""

import asyncio
import errno
import os
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TextIO

import click

STDIN = "-"
_AT_ONCE = 65_536  # characters


async def read_ids(arguments: Sequence[str], files: Sequence[str]) -> AsyncIterator[str]:
    """Give the ids of the arguments, then those of the files, ``-`` being standard input.

    In a file, each line is an id; blank lines and those that begin with ``#`` are passed over.
    """
    for job_id in arguments:
        yield job_id
    for name in files:
        async for line in _lines_of(name):
            if found := _id_in(line):
                yield found


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
        if name != STDIN and (problem := _problem_of(Path(name))):
            raise click.BadParameter(f"{name}: {problem}", param_hint="'-f' / '--file'")
    return tuple(files)


def _problem_of(path: Path) -> str | None:
    # Looked at only: to open a pipe and close it again would take it from its writer.
    if not path.exists():
        return os.strerror(errno.ENOENT)
    if path.is_dir():
        return os.strerror(errno.EISDIR)
    return None if os.access(path, os.R_OK) else os.strerror(errno.EACCES)


def _id_in(line: str) -> str | None:
    text = line.strip().lstrip("\ufeff")
    return text if text and not text.startswith("#") else None


def _open(name: str) -> TextIO:
    # utf-8-sig drops the mark that some editors put first; a byte that is no UTF-8 makes one bad
    # id, not a bad file.
    source = sys.stdin.fileno() if name == STDIN else name
    return open(source, encoding="utf-8-sig", errors="surrogateescape", closefd=name != STDIN)


async def _lines_of(name: str) -> AsyncIterator[str]:
    """Read in a thread: neither a pipe nor a terminal may hold up the loop."""
    loop = asyncio.get_running_loop()
    batches: asyncio.Queue[list[str] | OSError] = asyncio.Queue(maxsize=4)

    def put(batch: list[str] | OSError) -> None:
        asyncio.run_coroutine_threadsafe(batches.put(batch), loop).result()

    def read() -> None:
        # A loop that has been closed in the meantime reads no more.
        with suppress(RuntimeError):
            try:
                with _open(name) as lines:
                    # As many lines as have come; one that comes late waits for no other.
                    while batch := lines.readlines(_AT_ONCE if lines.seekable() else 1):
                        put(batch)
            except OSError as exc:
                put(exc)
            else:
                put([])

    # A daemon, unlike the loop's own threads: a reader that blocks must not keep us from ending.
    threading.Thread(target=read, name="adepoll-ids", daemon=True).start()
    while batch := await batches.get():
        if isinstance(batch, OSError):
            raise batch
        for line in batch:
            yield line
