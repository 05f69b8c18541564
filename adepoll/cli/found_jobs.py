"""FoundJobs: collects the jobs found in a text, and passes them on. Does no I/O."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from attrs import evolve, frozen

from adepoll import BatchJob, ConfigurationError, InvalidJobIdError, JobKind, JobRef
from adepoll.api.job_ids import is_plain
from adepoll.common.redaction import showable
from adepoll.journal.stored_jobs import JobToAdd, check_job

_COLUMNS_SHOWN: Final = 20
KIND_FIELD: Final = "kind"
LABEL_FIELD: Final = "label"

Emit = Callable[[list[JobToAdd]], None]
NoteInvalid = Callable[[str, int], None]


class IdsError(ConfigurationError):
    """Job ids could not be read from a file.

    Attributes:
        source: The name of the file, or "standard input".
        line: The line number, counted from 1; None if the error does not concern one line.
        columns: Names of the columns or keys in the file; empty if the error has another subject.
    """

    def __init__(
        self, problem: str, *, source: str, line: int | None = None, columns: Sequence[str] = ()
    ) -> None:
        where = showable(source) + ("" if line is None else f", line {line}")
        names = ", ".join(showable(name, 40) for name in columns[:_COLUMNS_SHOWN])
        more = len(columns) - _COLUMNS_SHOWN
        if names:
            names = f"; available: {names}" + (f" and {more} more" if more > 0 else "")
        super().__init__(f"{where}: {problem}{names}")
        self.source = source
        self.line = line
        self.columns = tuple(columns)


@frozen(kw_only=True)
class Fields:
    """The names of the columns or keys that describe a job.

    Attributes:
        job_id: Column or key with the id. None: the file has one id per line.
        kind: Column or key with the kind. None means "kind", if the file has it; "" means that the
            file has no kinds.
        label: Column or key with the label. None means "label", if the file has it; "" means that
            the file has no labels.
    """

    job_id: str | None = None
    kind: str | None = None
    label: str | None = None

    @property
    def kind_name(self) -> str:
        """Name of the column or key with the kind; empty if the file has no kinds."""
        return KIND_FIELD if self.kind is None else self.kind

    @property
    def label_name(self) -> str:
        """Name of the column or key with the label; empty if the file has no labels."""
        return LABEL_FIELD if self.label is None else self.label


ONE_PER_LINE: Final = Fields()


def check_encoding(texts: Iterable[str], source: str, line: int) -> None:
    """Check that a line of the file `source` is UTF-8, so that its texts can be printed unchanged.

    Raises:
        IdsError: A text contains a byte that could not be decoded.
    """
    for text in texts:
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError:
                problem = f"{showable(text, 40)!r} is not UTF-8; save the file in UTF-8"
                raise IdsError(problem, source=source, line=line) from None


def _ignore(_job_id: str, _line: int) -> None:
    """Do nothing with an invalid job id; the batch reports the id as an unresolved job."""


class FoundJobs:
    """Collects the jobs found in a text; `flush` passes them on."""

    def __init__(self, source: str, emit: Emit, note_invalid: NoteInvalid | None) -> None:
        """Create an empty collection.

        Args:
            source: Where the text comes from, for error messages: a file name, or "standard input".
            emit: Called by `flush` with the collected jobs.
            note_invalid: Called with each text that cannot be a job id, and its line number.
        """
        self.source: Final = source
        self._emit = emit
        self._note_invalid = note_invalid or _ignore
        self._jobs: list[JobToAdd] = []

    def add(
        self,
        job_id: str,
        line: int,
        *,
        kind: str = "",
        label: str = "",
        columns: Mapping[str, str] | None = None,
    ) -> None:
        """Add the job of a line; do nothing if the id is empty.

        Raises:
            IdsError: The kind is unknown or differs from the kind in the id, or the label or
                another column is not UTF-8.
        """
        if not job_id:
            return
        check_encoding((label, *(columns or {}).values()), self.source, line)
        job: JobToAdd = job_id
        if kind or label:
            job = self._ref(job_id, kind, label, line)
        if columns:
            job = BatchJob(job if isinstance(job, JobRef) else _ref(job_id), columns=columns)
        if not is_plain(job):
            try:
                check_job(job)
            except InvalidJobIdError as error:
                self._note_invalid(error.job_id, line)
        self._jobs.append(job)

    def add_plain(self, job_ids: Sequence[str]) -> None:
        """Add ids without checks; `is_plain` has accepted them already."""
        self._jobs += job_ids

    def flush(self) -> None:
        """Pass the collected jobs to `emit`, if there are any."""
        if self._jobs:
            self._emit(self._jobs)
            self._jobs = []

    def _ref(self, job_id: str, kind: str, label: str, line: int) -> JobRef:
        """Return the reference of a job; `job_id` may contain the kind, as in ``v1-parse/ID``."""
        ref = _ref(job_id)
        if kind:
            named = self._kind(kind, line)
            if ref.kind not in {None, named}:
                problem = f"{showable(job_id, 80)} is not a job of the kind {named.name}"
                raise IdsError(problem, source=self.source, line=line)
            ref = evolve(ref, kind=named)
        return evolve(ref, label=label or None)

    def _kind(self, name: str, line: int) -> JobKind:
        """Return the kind of this name; raise `IdsError` if it is unknown."""
        try:
            return JobKind.named(name)
        except ConfigurationError as exc:
            problem = (
                f'{exc}; name another column with --kind-field NAME, or none with --kind-field ""'
            )
            raise IdsError(problem, source=self.source, line=line) from None


def _ref(text: str) -> JobRef:
    try:
        return JobRef.of(text)
    except InvalidJobIdError:
        return JobRef(text)  # the batch reports the invalid id
