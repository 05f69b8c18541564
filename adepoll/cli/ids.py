"""Where job ids come from: arguments, files, standard input; as they come, in constant memory."""

import asyncio
import codecs
import errno
import functools
import io
import os
import select
import sys
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Final

import click

from adepoll.cli.columns import read_text

STDIN: Final = "-"
_AT_ONCE: Final = 2**18  # bytes; some thousand ids
_BATCHES_AHEAD: Final = 4


def ids_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the argument and the options that say which jobs: `job_ids`, `files` and `field`."""

    @click.argument("job_ids", nargs=-1, metavar="[JOB_ID]...")
    @click.option(
        "-f",
        "--file",
        "files",
        multiple=True,
        type=click.Path(allow_dash=True),
        metavar="FILE",
        help='Read ids from a file, one a line; "-" is standard input. May be given again.',
    )
    @click.option(
        "--field",
        metavar="NAME",
        help="The files are CSV or JSON lines: take the ids from this column or key (a.b).",
    )
    @functools.wraps(command)
    def with_ids(*args: object, **kwargs: object) -> None:
        command(*args, **kwargs)

    return with_ids


async def read_ids(
    arguments: Sequence[str], files: Sequence[str], field: str | None = None
) -> AsyncIterator[str]:
    """Give the ids that `read_id_batches` gives, one by one."""
    async with aclosing(read_id_batches(arguments, files, field)) as batches:
        async for batch in batches:
            for job_id in batch:
                yield job_id


async def read_id_batches(
    arguments: Sequence[str], files: Sequence[str], field: str | None = None
) -> AsyncGenerator[Sequence[str], None]:
    """Give the ids of the arguments, then those of the files, ``-`` being standard input.

    A batch holds what has come, from one id to some thousand: an id that comes late on a pipe waits
    for no other. Files are UTF-8, or UTF-16 with a byte order mark; `columns.read_text` says what
    is in them.

    Args:
        arguments: Ids.
        files: Names of files.
        field: The column or key of the files that holds the ids; None where each line is an id.

    Raises:
        IdsError: A file is not what `field` says, or broken.
        OSError: A file cannot be read.
    """
    if arguments:
        yield tuple(arguments)
    for name in files:
        async with aclosing(_batches_of(name, field)) as batches:
            async for batch in batches:
                yield batch


def check_sources(
    arguments: Sequence[str], files: Sequence[str], field: str | None = None
) -> tuple[str, ...]:
    """Give the files to read: standard input, where nothing else was said and something is there.

    Raises:
        click.UsageError: There is nothing to read ids from, or no file that `field` is about.
        click.BadParameter: A file cannot be read.
    """
    if not arguments and not files:
        if sys.stdin is None or sys.stdin.isatty():
            raise click.UsageError(
                "no job ids: give them as arguments, with --file, or on standard input"
            )
        return (STDIN,)
    if field is not None and not files:
        raise click.UsageError(
            "--field is about files: give one with --file, or --file - for standard input"
        )
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


def _text_of(name: str) -> Iterator[str]:
    r"""Give the text of a file as it comes; all line ends are ``\n``."""
    with open(
        sys.stdin.fileno() if name == STDIN else name, "rb", buffering=0, closefd=name != STDIN
    ) as raw:
        chunks = _chunks_of(raw)
        head = b""
        while len(head) < len(codecs.BOM_UTF16) and (chunk := next(chunks, b"")):
            head += chunk
        # A byte that is no UTF-8 makes one bad id, not a bad file.
        encoding, errors = "utf-8", "surrogateescape"
        if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            encoding, errors = "utf-16", "replace"  # "Unicode text", says Excel
        decoder = io.IncrementalNewlineDecoder(
            codecs.getincrementaldecoder(encoding)(errors), translate=True
        )
        yield decoder.decode(head)
        for chunk in chunks:
            yield decoder.decode(chunk)
        yield decoder.decode(b"", final=True)


def _chunks_of(raw: io.FileIO) -> Iterator[bytes]:
    while True:
        chunk = raw.read(_AT_ONCE)
        if chunk is None:  # whoever gave us the pipe has made it non-blocking
            select.select([raw], [], [])
        elif chunk:
            yield chunk
        else:
            return


class _LeftError(Exception):
    """Nobody takes the ids any more."""


async def _batches_of(name: str, field: str | None) -> AsyncGenerator[list[str], None]:
    """Read in a thread: neither a pipe nor a terminal may hold up the loop."""
    loop = asyncio.get_running_loop()
    came: asyncio.Queue[list[str] | BaseException | None] = asyncio.Queue()
    room = threading.Semaphore(_BATCHES_AHEAD)
    left = threading.Event()

    def put(item: list[str] | BaseException | None) -> None:
        room.acquire()
        if left.is_set():
            raise _LeftError
        try:
            loop.call_soon_threadsafe(came.put_nowait, item)
        except RuntimeError:  # the loop is closed
            raise _LeftError from None

    def read() -> None:
        source = "standard input" if name == STDIN else name
        with suppress(_LeftError):
            try:
                read_text(_text_of(name), source=source, field=field, emit=put)
            except _LeftError:
                raise
            except BaseException as exc:  # noqa: BLE001 - raised by who waits for the ids
                put(exc)
            else:
                put(None)

    # A daemon, unlike the loop's own threads: a reader that blocks must not keep us from ending.
    threading.Thread(target=read, name="adepoll-ids", daemon=True).start()
    try:
        while (item := await came.get()) is not None:
            room.release()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        left.set()
        room.release()
