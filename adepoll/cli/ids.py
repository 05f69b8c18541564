"""Reads job ids from arguments, files and standard input, as they arrive, in constant memory."""

import codecs
import errno
import functools
import io
import os
import select
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator, Sequence
from contextlib import aclosing, closing
from pathlib import Path
from typing import Final

import click

from adepoll import InvalidJobIdError
from adepoll.cli.columns import read_text
from adepoll.cli.found_jobs import ONE_PER_LINE, Emit, Fields
from adepoll.common.redaction import showable
from adepoll.common.threads import items_of_thread
from adepoll.journal.stored_jobs import JobToAdd

STDIN: Final = "-"
_MOST_PLACES: Final = 10_000  # invalid ids whose file and line are remembered
_CHUNK_SIZE: Final = 2**18  # bytes; several thousand ids
_BATCHES_AHEAD: Final = 4  # batches that the thread reads before they are needed


class InvalidIdPlaces:
    """Remembers the file and line of the first 10,000 invalid ids."""

    def __init__(self) -> None:
        self._places: dict[str, str] = {}

    def note(self, source: str, job_id: str, line: int) -> None:
        """Record the file `source` and the line of an invalid id; may be called in any thread."""
        if len(self._places) < _MOST_PLACES:
            self._places.setdefault(job_id, f"{showable(source)}, line {line}")

    def with_place(self, error: InvalidJobIdError) -> InvalidJobIdError:
        """Return an error whose text also names the file and line of the id, if they are known."""
        if (place := self._places.get(error.job_id)) is None:
            return error
        return InvalidJobIdError(job_id=error.job_id, reason=f"{error.reason} ({place})")


async def read_ids(
    arguments: Sequence[str],
    files: Sequence[str],
    fields: Fields = ONE_PER_LINE,
    places: InvalidIdPlaces | None = None,
) -> AsyncIterator[JobToAdd]:
    """Yield the jobs of `read_id_batches` one by one."""
    async with aclosing(read_id_batches(arguments, files, fields, places)) as batches:
        async for batch in batches:
            for job_id in batch:
                yield job_id


async def read_id_batches(
    arguments: Sequence[str],
    files: Sequence[str],
    fields: Fields = ONE_PER_LINE,
    places: InvalidIdPlaces | None = None,
) -> AsyncGenerator[Sequence[JobToAdd], None]:
    """Yield the ids of the arguments, then the jobs of the files, in batches.

    A batch contains the jobs that have arrived so far: one job, or several thousand. So an id
    from a slow pipe does not wait for the next id. Files are UTF-8, or UTF-16 with a byte order
    mark; `columns.read_text` describes their contents.

    Args:
        arguments: Job ids.
        files: File names; ``-`` is standard input.
        fields: The columns or keys of the files that describe the jobs.
        places: Records the file and line of each invalid id; None if they are not needed.

    Raises:
        IdsError: A field does not exist in a file, or the file is malformed.
        OSError: A file cannot be read.
    """
    if arguments:
        yield tuple(arguments)
    for name in files:
        async with aclosing(_batches_of(name, fields, places or InvalidIdPlaces())) as batches:
            async for batch in batches:
                yield batch


def check_sources(
    arguments: Sequence[str], files: Sequence[str], field: str | None = None
) -> tuple[str, ...]:
    """Return the files to read: standard input if there are neither arguments nor files.

    Raises:
        click.UsageError: There are no ids and standard input is a terminal, or `field` is used
            without a file.
        click.BadParameter: A file cannot be read.
    """
    if not arguments and not files:
        if sys.stdin is None or sys.stdin.isatty():
            raise click.UsageError(
                "no job ids: pass them as arguments, with --file, or on standard input"
            )
        return (STDIN,)
    if field is not None and not files:
        raise click.UsageError(
            "--field needs a file: add --file FILE, or --file - for standard input"
        )
    for name in files:
        if name != STDIN and (problem := _problem_of(Path(name))):
            raise click.BadParameter(f"{name}: {problem}", param_hint="'-f' / '--file'")
    return tuple(files)


def _problem_of(path: Path) -> str | None:
    """Return why a file cannot be read; None if it can."""
    # The file is not opened: opening and closing a named pipe would disturb its writer.
    if not path.exists():
        return os.strerror(errno.ENOENT)
    if path.is_dir():
        return os.strerror(errno.EISDIR)
    return None if os.access(path, os.R_OK) else os.strerror(errno.EACCES)


def _text_of(name: str) -> Generator[str]:
    r"""Yield the text of a file as it arrives; all line ends become ``\n``.

    The file is open until the generator ends or is closed.
    """
    with open(
        sys.stdin.fileno() if name == STDIN else name, "rb", buffering=0, closefd=name != STDIN
    ) as raw:
        chunks = _chunks_of(raw)
        head = b""
        while len(head) < len(codecs.BOM_UTF16) and (chunk := next(chunks, b"")):
            head += chunk
        # With "surrogateescape", an invalid byte spoils only one id: the rest of the file is read.
        encoding, errors = "utf-8", "surrogateescape"
        if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            encoding, errors = "utf-16", "replace"  # as Excel saves "Unicode text"
        decoder = io.IncrementalNewlineDecoder(
            codecs.getincrementaldecoder(encoding)(errors), translate=True
        )
        yield decoder.decode(head)
        for chunk in chunks:
            yield decoder.decode(chunk)
        yield decoder.decode(b"", final=True)


def _chunks_of(raw: io.FileIO) -> Iterator[bytes]:
    """Yield the bytes of a file as they arrive."""
    while True:
        chunk = raw.read(_CHUNK_SIZE)
        if chunk is None:  # no data yet, and the parent process has made the pipe non-blocking
            select.select([raw], [], [])
        elif chunk:
            yield chunk
        else:
            return


def _batches_of(
    name: str, fields: Fields, places: InvalidIdPlaces
) -> AsyncGenerator[list[JobToAdd], None]:
    """Yield the jobs of a file in batches. A thread reads it, because a pipe can block."""
    source = "standard input" if name == STDIN else name

    def read(emit: Emit) -> None:
        try:
            with closing(_text_of(name)) as text:
                read_text(
                    text,
                    source=source,
                    fields=fields,
                    emit=emit,
                    note_invalid=functools.partial(places.note, source),
                )
        except OSError as error:
            error.filename = error.filename or source
            raise

    return items_of_thread(read, ahead=_BATCHES_AHEAD, name="adepoll-ids")
