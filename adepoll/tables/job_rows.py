"""Rows: the data of each job from a journal and its result file, before the columns are known."""

import os
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Final

from attrs import define, field, frozen

from adepoll.api.json_text import Json
from adepoll.api.models import JobStatus
from adepoll.common.redaction import redact_text
from adepoll.common.system_errors import reason_of
from adepoll.errors import MalformedAnswerError
from adepoll.journal.outcomes import Record, Stage
from adepoll.journal.reader import JournalReader
from adepoll.tables.column_types import ColumnType, ListType, Scalar
from adepoll.tables.exact_json import UnreadableError, load, load_first_member, without_surrogates

JOB_COLUMNS: Final[dict[str, ColumnType]] = {
    "job_id": Scalar.TEXT,
    "label": Scalar.TEXT,
    "kind": Scalar.TEXT,
    "status": Scalar.TEXT,
    "added_at": Scalar.TIME,
    "received_at": Scalar.TIME,
    "created_at": Scalar.TIME,
    "completed_at": Scalar.TIME,
    "settled_at": Scalar.TIME,
    "seconds": Scalar.DOUBLE,
    "credits": Scalar.DOUBLE,
    "pages": Scalar.INTEGER,
    "failed_pages": ListType(Scalar.INTEGER),
    "partial": Scalar.BOOLEAN,
    "error": Scalar.TEXT,
    "failure": Scalar.TEXT,
    "document": Scalar.TEXT,
    "file": Scalar.TEXT,
}
"""The columns about the job, in this order. docs/tables.md explains them."""

PARTS: Final = ("chunks", "splits")
"""Lists of a parse result. They are exported only as separate tables."""
_OF_SERVICE: Final = ("failure", "document")  # columns with texts of the service
# Names of members with the places in the document that values were found in: of an extraction, and
# of the steps of a workflow.
_FOUND_IN: Final = "extraction_metadata"
_GROUND: Final = "ground"
# A result file may be larger than recorded: a user can have changed its encoding or its layout. If
# it has more than 16 times the recorded bytes plus 1 MiB, it is not read: it could fill the memory.
_MOST_GROWTH: Final = 16
_ROOM: Final = 2**20
# Somebody else may have written the journal, and can name any large file as a result. So the rest
# of a file is read only if these first bytes can begin a result in UTF-8, UTF-16 or UTF-32.
_HEAD: Final = 2**16
_BEFORE_RESULT: Final = b"\xef\xbb\xbf\xfe\xff\0 \t\r\n"  # byte order marks and whitespace
_MAX_PROBLEMS: Final = 100
_PAGE: Final = 200  # jobs that are read together


@frozen
class Row:
    """One job.

    Attributes:
        job: Values of `JOB_COLUMNS`, in the same order.
        input: The caller's own texts about the job, by column; None if the caller gave none.
        value: The extracted data; None if the job has no result.
        references: The chunk references of the values; None if the result has none.
        size: Length of the JSON text of `value` and `references`, as a measure of memory.
    """

    job: tuple[Any, ...]
    input: dict[str, str] | None
    value: Json
    references: Json
    size: int


@define(eq=False, kw_only=True)
class RowReader:
    """Reads the rows of a journal, each result once.

    Attributes:
        results: Number of results that were read.
        missing: Number of completed jobs whose result is neither in a file nor in the journal,
            without jobs whose result must still be fetched.
        unreadable: Number of results that could not be read.
        problems: For the first 100 unreadable results, the reason by job id.
    """

    _journal: JournalReader
    _folder: Path | None = None
    _references: bool = False
    _parts: Collection[str] = ()
    # Number in the journal of the last job whose record has been read.
    _last: int = field(default=0, init=False)
    # Inline results that were read ahead, by the number of the job in the journal.
    _inline: dict[int, str] = field(factory=dict, init=False)
    # The inline results of all jobs up to this number have been read.
    _read_until: int = field(default=0, init=False)
    results: int = field(default=0, init=False)
    missing: int = field(default=0, init=False)
    unreadable: int = field(default=0, init=False)
    problems: dict[str, str] = field(factory=dict, init=False)

    def rows(self) -> Iterator[Row]:
        """Yield a row for each job, in the order of the journal."""
        records = self._journal.records()
        while page := list(islice(records, _PAGE)):
            self._last = page[-1].number
            yield from map(self._row, page)

    def _row(self, record: Record) -> Row:
        job = job_values(record)
        value, references, size = None, None, 0
        try:
            text = self._result_text(record)
            if text is not None:
                is_whole = record.file is None or len(text) == record.file.bytes
                value, references, size = self._parse(text, is_whole=is_whole)
                self.results += 1
        except MalformedAnswerError as exc:
            self._note_problem(record.job_id, f"it is {exc.problems[0]}")
        except UnreadableError as exc:
            self._note_problem(record.job_id, str(exc))
        columns = without_surrogates(dict(record.columns)) or None
        return Row(job, columns, value, references, size)

    def _result_text(self, record: Record) -> bytes | str | None:
        """Return the JSON of a result from its file or the journal; None without a result.

        Raises:
            UnreadableError: The file is missing, cannot be read, or cannot be the result.
        """
        if record.file is None:
            if record.snapshot is None or record.snapshot.status is not JobStatus.COMPLETED:
                return None
            text = self._inline_result(record.number)
            if text is None and record.stage is not Stage.FETCHING:
                self.missing += 1
            return text
        path = record.file.path
        if self._folder is not None:
            path = self._folder / path.name
        return _contents(path, record.file.bytes)

    def _inline_result(self, number: int) -> str | None:
        """Return the inline result of a job as JSON text; None if it has none.

        Call this once for each job, in the order of the numbers.
        """
        if number > self._read_until:
            # If the batch is running, each result must be read after the record of its job: a job
            # can settle between the two.
            self._inline = self._journal.inline_results(number, self._last)
            # Large results can end before the last one. Then a later call reads from the next
            # number on.
            self._read_until = max(self._inline, default=self._last)
        return self._inline.pop(number, None)

    def _parse(self, text: bytes | str, *, is_whole: bool) -> tuple[Json, Json, int]:
        """Return the data of a result, its chunk references or None, and the length of its text.

        Args:
            text: The result.
            is_whole: True if the text is certainly the result as it was fetched. If False, somebody
                may have changed its file.
        """
        if is_whole and not self._references:
            # The other members of an extraction are several times as long as its values.
            found = load_first_member(text, "extraction")
            if found is not None:
                value, size = found
                return value, None, size
        result = load(text)
        if isinstance(result, dict):
            if "extraction" in result:
                references = result.get(_FOUND_IN) if self._references else None
                return result["extraction"], _plain_references(references), len(text)
            if "markdown" in result:
                kept = ("markdown", *(part for part in PARTS if part in self._parts))
                return {name: result[name] for name in kept if name in result}, None, len(text)
            if "output" in result:
                output, references = _without_references(result["output"])
                wanted: Json = {"output": references} if self._references else None
                return {"output": output}, wanted, len(text)
        raise UnreadableError("its file does not contain a result")

    def _note_problem(self, job_id: str, problem: str) -> None:
        self.unreadable += 1
        if len(self.problems) < _MAX_PROBLEMS:
            self.problems[job_id] = problem


def _contents(path: Path, recorded: int) -> bytes:
    """Return the bytes of a result file, whose size in the journal is `recorded`.

    Raises:
        UnreadableError: The file is missing, cannot be read, or cannot be the result.
    """
    try:
        if not path.is_file():  # such as a FIFO, whose opening would block
            problem = "is not a regular file" if path.exists() else "does not exist"
            raise UnreadableError(f"its file {path} {problem}")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > _MOST_GROWTH * recorded + _ROOM:
                problem = f"it has {size:,} bytes, not {recorded:,}"
                raise UnreadableError(f"its file {path} is not the result: {problem}")
            if not file.read(_HEAD).lstrip(_BEFORE_RESULT).startswith(b"{"):
                raise UnreadableError(f"its file {path} does not contain a result")
            file.seek(0)
            return file.read(size)  # no more: reading a file such as /proc/kmsg never ends
    except OSError as exc:
        problem = f"its file {path} cannot be read: {reason_of(exc)}"
    raise UnreadableError(problem)


def job_values(record: Record) -> tuple[Any, ...]:
    """Return the values of `JOB_COLUMNS` for one job, most of them from its outcome."""
    columns = record.outcome().to_dict()
    columns["status"] = _status_of(record)
    columns["added_at"] = _time(record.added_at)
    columns["settled_at"] = _time(record.settled_at)
    for name in _OF_SERVICE:
        if isinstance(text := columns[name], str):
            columns[name] = redact_text(text)  # somebody else may have written the journal
    return tuple(without_surrogates(columns[name]) for name in JOB_COLUMNS)


def _status_of(record: Record) -> str | None:
    """Return the last known status in lower case; an unknown status as the service wrote it."""
    text = record.status_text
    status = JobStatus.UNKNOWN if text is None else JobStatus.parse(text)
    return text if status is JobStatus.UNKNOWN else status.value


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def _without_references(output: Json) -> tuple[Json, dict[str, Json]]:
    """Return the output of a workflow job without references, and then these references.

    The references have the same keys as their values: those of ``{"w": {"s": {"extraction":
    {"total": 7}}}}`` are ``{"w": {"s": {"extraction": {"total": REFERENCES}}}}``. The object
    `ground` of a workflow contains only references, and is moved unchanged.
    """
    if not isinstance(output, dict):
        return output, {}
    kept: dict[str, Json] = {}
    references: dict[str, Json] = {}
    for name, steps in output.items():
        kept[name], found = _without_references_of_steps(steps)
        if found:
            references[name] = found
    return kept, references


def _without_references_of_steps(steps: Json) -> tuple[Json, dict[str, Json]]:
    """Return the steps of one workflow without references, and then these references."""
    if not isinstance(steps, dict):
        return steps, {}
    if not any(isinstance(step, dict) and "extraction" in step for step in steps.values()):
        return steps, {}  # these are values that the caller has chosen
    kept: dict[str, Json] = {}
    references: dict[str, Json] = {}
    for name, step in steps.items():
        if name == _GROUND:
            references[name] = step
        elif isinstance(step, dict) and "extraction" in step:
            kept[name] = {key: value for key, value in step.items() if key != _FOUND_IN}
            references[name] = {"extraction": _plain_references(step.get(_FOUND_IN))}
        else:
            kept[name] = step
    return kept, references


def _plain_references(value: Json) -> Json:
    """Return a value in which each object ``{"references": LIST}`` is replaced by its list."""
    if isinstance(value, list):
        return [_plain_references(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"references"} and isinstance(value["references"], list):
        return value["references"]
    return {key: _plain_references(item) for key, item in value.items()}
