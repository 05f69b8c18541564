"""Finds jobs in text: one id per line, a CSV table, or JSON lines. Does no I/O.

Each job is passed on as soon as its line is complete, without waiting for later lines.
"""

import json
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Final

from adepoll import Json
from adepoll.api.job_ids import is_plain
from adepoll.cli.csv_table import BYTE_ORDER_MARK, DELIMITERS, LONGEST_LINE, read_csv, split_row
from adepoll.cli.found_jobs import Emit, Fields, FoundJobs, IdsError, NoteInvalid
from adepoll.common.redaction import showable

# The header of a table with one column, such as "Job ID", "extract_job_ids" or "extractJobId".
_HEADER: Final = re.compile(
    r"(?i:(?:[a-z]+[ _-])*(?:job[ _-]?)?(?:ids?|uuids?|identifiers?))"
    r"|[a-z]+(?:[A-Z][a-z]*)*(?:Ids?|IDs?|Identifiers?)"
)
# The first line of a gzip file. A byte that is not UTF-8 has become a surrogate here.
_GZIP: Final = "\x1f\udc8b"
# Matches the first line of a file that is not UTF-8 text: an Excel workbook, a compressed file, a
# PDF, or UTF-16 without a byte order mark.
_BINARY: Final = re.compile(f"{_GZIP}|%PDF-|[^\x00]*\x00")
# Opening quotes and their closing ones. Word processors write the last two pairs.
_QUOTES: Final = {'"': '"', "'": "'", "`": "`", "\u201c": "\u201d", "\u2018": "\u2019"}


def read_text(
    pieces: Iterable[str],
    *,
    source: str,
    fields: Fields,
    emit: Emit,
    note_invalid: NoteInvalid | None = None,
) -> None:
    r"""Find the jobs in a text, and pass them to `emit` in batches that are never empty.

    Skips blank lines, rows whose job id is empty or null, and lines that begin with ``#`` (in a CSV
    table, only those before the header).

    Args:
        pieces: The text in pieces of any length; lines end with ``\n``.
        source: Where the text comes from, for error messages: a file name, or "standard input".
        fields: Names of the columns or keys that describe a job; dots separate the keys of nested
            objects. In a CSV table, the columns that `fields` does not name become the columns of
            a `BatchJob`.
        emit: Called with each batch of jobs, before the next piece is read.
        note_invalid: Called with each text that cannot be a job id, and its line number, before
            the text is passed to `emit`.

    Raises:
        IdsError: A field does not exist, a kind is unknown, or a line is malformed or too long.
    """
    batches = _lines(pieces, source)
    found = FoundJobs(source, emit, note_invalid)
    before = 0  # number of skipped lines at the top
    first = ""
    for lines in batches:
        at = next((at for at, line in enumerate(lines) if _content(line)), None)
        if at is not None:
            before += at
            _refuse_binary(lines[at], source, before + 1)
            first = _content(lines[at])
            batches = chain([lines[at:]], batches)
            break
        before += len(lines)
    if fields.job_id is None:
        _refuse_table(first, source, before + 1)
        if _HEADER.fullmatch(_bare(first)):  # a CSV file with one column
            lines = next(batches)
            batches = chain([["", *lines[1:]]], batches)
        _read_plain(batches, before, found)
    elif first.startswith("{"):
        _read_json(batches, before, fields, found)
    elif first:
        read_csv(batches, before, fields, found)


def _lines(pieces: Iterable[str], source: str) -> Iterator[list[str]]:
    """Yield the complete lines of a text, as one list for each piece with a line end.

    The last list has the text after the last line end. `source` names the file in errors.
    """
    held: list[str] = []
    size = number = 0
    for piece in pieces:
        head, newline, tail = piece.rpartition("\n")
        if newline:
            lines = "".join([*held, head]).split("\n")
            number += len(lines)
            yield lines
            held, size = [], 0
        if tail:
            held.append(tail)
            size += len(tail)
            if size > LONGEST_LINE:
                raise IdsError(
                    f"the line is longer than {LONGEST_LINE} characters; are these job ids?",
                    source=source,
                    line=number + 1,
                )
    if held:
        yield ["".join(held)]


def _content(line: str) -> str:
    """Return the stripped line; an empty string for a blank line or a comment (``#``)."""
    # A byte order mark stands at the top of a file, and in the middle of concatenated files.
    text = line.strip().lstrip(BYTE_ORDER_MARK)
    return "" if text.startswith("#") else text


def _read_plain(batches: Iterable[list[str]], number: int, found: FoundJobs) -> None:
    """Pass the id in each line to `found`.

    `number` is the number of lines that come before `batches` in the file.
    """
    for lines in batches:
        stripped = [line.strip() for line in lines]
        if all(map(is_plain, stripped)):  # the fast path: nearly all files contain only plain ids
            found.add_plain(stripped)
        else:
            for offset, line in enumerate(lines, 1):
                found.add(_bare(_content(line)), number + offset)
        found.flush()
        number += len(lines)


def _bare(text: str) -> str:
    """Return a text without quotes and without a delimiter at its end: ``"ID",`` becomes ``ID``."""
    bare = text.rstrip(",;|\t ")
    inner = bare[1:-1]
    if inner and _QUOTES.get(bare[0]) == bare[-1] and bare[-1] not in inner:
        bare = inner.strip()
    return bare or text


def _refuse_binary(first: str, source: str, line: int) -> None:
    """Raise `IdsError` if the first line that is not blank shows that the file is not text.

    Without this check, each line would be reported as an invalid id.
    """
    if _BINARY.match(first):
        problem = "this is not a text file: save the ids as text or CSV, in UTF-8"
        if first.startswith(_GZIP):
            problem = "this is not a text file, but a gzip file: decompress it with gunzip"
        raise IdsError(problem, source=source, line=line)


def _refuse_table(first: str, source: str, line: int) -> None:
    """Raise `IdsError` if the first line is JSON or has several columns.

    The user has forgotten ``--field``. Without this check, each line would be reported as an
    invalid id.
    """
    if first.startswith(("{", "[")):
        try:
            keys = list(json.loads(first)) if first.startswith("{") else []
        except (ValueError, RecursionError):
            keys = []
        raise IdsError(
            "this is JSON, not a job id: write one object per line, and name the key of the ids "
            "with --field NAME",
            source=source,
            line=line,
            columns=keys,
        )
    bare = _bare(first)
    columns = max((split_row(bare, delimiter) for delimiter in DELIMITERS), key=len)
    if len(columns) > 1:
        raise IdsError(
            "several values in one line: name the column of the ids with --field NAME, or write "
            "one id per line",
            source=source,
            line=line,
            columns=columns,
        )


def _read_json(batches: Iterable[list[str]], number: int, fields: Fields, found: FoundJobs) -> None:
    """Pass the job in each line to `found`. Each line must be a JSON object.

    `number` is the number of lines that come before `batches` in the file.
    """
    source = found.source
    for lines in batches:
        for line in lines:
            number += 1
            text = _content(line)
            if not text:
                continue
            try:
                value = json.loads(text)
            except json.JSONDecodeError as exc:
                problem = (
                    f"malformed JSON ({exc.msg}, character {exc.pos + 1}); one object per line?"
                )
                raise IdsError(problem, source=source, line=number) from None
            except (ValueError, RecursionError) as exc:
                reason = "a number has too many digits"
                if isinstance(exc, RecursionError):
                    reason = "objects or arrays are nested too deeply"
                problem = f"JSON that cannot be read: {reason}"
                raise IdsError(problem, source=source, line=number) from None
            job_id = _value_at(value, fields.job_id or "", source, number)
            kind = label = ""
            if fields.kind or _has_key(value, fields.kind_name):
                kind = _value_at(value, fields.kind_name, source, number)
            if fields.label or _has_key(value, fields.label_name):
                label = _value_at(value, fields.label_name, source, number)
            found.add(job_id, number, kind=kind, label=label)
        found.flush()


def _has_key(value: Json, name: str) -> bool:
    """Return True if a JSON object has the key `name`, and `name` is not empty."""
    return bool(name) and name in value


def _value_at(value: Json, field: str, source: str, line: int) -> str:
    """Return the value at `field` as text; "" if the value is null.

    `field` is a key, or several keys with dots between them, such as ``job.id``.
    """
    steps = [field] if isinstance(value, dict) and field in value else field.split(".")
    for depth, step in enumerate(steps):
        path = ".".join(steps[:depth])
        if value is None and depth:
            return ""
        if not isinstance(value, dict):
            problem = f"{showable(path, 80)!r} is not" if path else "not"
            problem += " a JSON object"
            raise IdsError(problem, source=source, line=line)
        if step not in value:
            problem = f"no key {showable(field, 80)!r}"
            keys = [f"{path}.{key}" if path else key for key in value]
            raise IdsError(problem, source=source, line=line, columns=keys)
        value = value[step]
    if value is None:
        return ""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        problem = f"the value of {showable(field, 80)!r} is not a string"
        raise IdsError(problem, source=source, line=line)
    return value.strip()
