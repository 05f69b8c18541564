"""The tables that an export writes: one of jobs, and one for each list. They choose the columns.

`exporting` passes all rows to each table twice: first to find out which columns are needed, and
then to write the rows.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Final, Protocol

from attrs import evolve

from adepoll.api.json_text import Json
from adepoll.tables.column_types import Column, Scalar
from adepoll.tables.inference import TypeConflict, columns_of
from adepoll.tables.job_rows import JOB_COLUMNS, Row
from adepoll.tables.key_paths import KeyPath, format_path, parse_path
from adepoll.tables.observation import Observer

_INPUT: Final = "input"
_EXTRACTION: Final = "extraction"
_REFERENCES: Final = "references"
_RESERVED: Final = frozenset({*JOB_COLUMNS, _INPUT, _EXTRACTION, _REFERENCES})
_ELEMENT_COLUMNS: Final = ("job_id", "index", "path")
_ELEMENT: Final = "value"


class Table(Protocol):
    """One of the tables to write.

    Attributes:
        columns: The columns; empty before `decide`.
        conflicts: Paths whose values do not fit into one column unchanged; empty before `decide`.
    """

    columns: list[Column]
    conflicts: list[TypeConflict]

    def observe(self, block: Sequence[Row]) -> None:
        """Remember the paths and types of the values in the rows of some jobs."""

    def decide(self) -> None:
        """Choose the columns. Call this after `observe` has got the rows of all jobs."""

    def rows(self, block: Sequence[Row]) -> Sequence[Any]:
        """Return the rows of this table for some jobs."""


class JobTable:
    """The table with one row for each job; the rows are `job_rows.Row` objects.

    Attributes:
        values: Knows the paths of all extracted values.
    """

    def __init__(self, explode: Collection[KeyPath], *, dates: bool, references: bool) -> None:
        """Create a table without columns.

        Args:
            explode: Paths of lists that have tables of their own.
            dates: True to convert texts that are dates or times; see `export`.
            references: True for a column with the chunk references of each value.
        """
        self.values = Observer(explode=explode, dates=dates)
        self._input = Observer()
        self._references = Observer() if references else None
        self.columns: list[Column] = []
        self.conflicts: list[TypeConflict] = []

    def observe(self, block: Sequence[Row]) -> None:
        """Remember the paths and types of the values in the rows of some jobs."""
        job_ids = [row.job[0] for row in block]
        self.values.observe([row.value for row in block], job_ids)
        self._input.observe([row.input for row in block], job_ids)
        if self._references is not None:
            self._references.observe([row.references for row in block], job_ids)

    def decide(self) -> None:
        """Choose the columns; see `Table`."""
        self.columns = [
            Column(name=name, type=kind, get=_job_value(index))
            for index, (name, kind) in enumerate(JOB_COLUMNS.items())
        ]
        found, _ = columns_of(  # the values are texts, so there are no conflicts
            self._input, root="", reserved=(), get=lambda rows: [row.input for row in rows]
        )
        self.columns += [_input_column(column) for column in found]
        found, self.conflicts = columns_of(
            self.values,
            root=_EXTRACTION,
            reserved=_RESERVED,
            get=lambda rows: [row.value for row in rows],
        )
        self.columns += found
        if self._references is not None:
            found, conflicts = columns_of(
                self._references,
                root="",
                reserved=(),
                get=lambda rows: [row.references for row in rows],
                within=f"{_REFERENCES}.",
            )
            self.columns += [_prefixed(column, _REFERENCES) for column in found]
            self.conflicts += conflicts

    def rows(self, block: Sequence[Row]) -> Sequence[Row]:
        """Return the rows themselves."""
        return block


class ListTable:
    """The table with one row for each element of one list: (job id, index, path, element)."""

    def __init__(self, path: KeyPath, *, dates: bool) -> None:
        """Create a table without columns for the lists at `path`; for `dates`, see `export`."""
        self._path = path
        self._values = Observer(dates=dates)
        self.columns: list[Column] = []
        self.conflicts: list[TypeConflict] = []

    def observe(self, block: Sequence[Row]) -> None:
        """Remember the paths and types of the values in the rows of some jobs."""
        rows = self.rows(block)
        self._values.observe([row[-1] for row in rows], [row[0] for row in rows])

    def decide(self) -> None:
        """Choose the columns; see `Table`."""
        kinds = (Scalar.TEXT, Scalar.INTEGER, Scalar.TEXT)
        self.columns = [
            Column(name=name, type=kind, get=_item(index))
            for index, (name, kind) in enumerate(zip(_ELEMENT_COLUMNS, kinds, strict=True))
        ]
        found, self.conflicts = columns_of(
            self._values,
            root=_ELEMENT,
            reserved={*_ELEMENT_COLUMNS, _ELEMENT},
            get=_item(len(kinds)),
            within=f"{format_path(self._path)}[].",
        )
        self.columns += found

    def rows(self, block: Sequence[Row]) -> Sequence[tuple[str, int, str, Json]]:
        """Return the elements of the lists of some jobs."""
        return [
            (row.job[0], index, path, element)
            for row in block
            for index, path, element in _elements(row.value, self._path, "")
        ]


def _elements(value: Json, keys: KeyPath, where: str) -> Iterator[tuple[int, str, Json]]:
    """Yield (index, path, element) for each element of the lists at the path `keys` in `value`.

    If the path leads through a list, it continues in each element, so several lists can be found.
    Any other value at the end of the path counts as a list with one element, except null.

    Args:
        value: The value in which to follow the path.
        keys: Path of the lists within `value`.
        where: Path of `value` itself, with which the yielded paths begin.
    """
    if value is None:
        return
    if not keys:
        items = value if isinstance(value, list) else [value]
        for index, item in enumerate(items):
            yield index, f"{where}[{index}]", item
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _elements(item, keys, f"{where}[{index}]")
    elif isinstance(value, dict):
        name = format_path(keys[:1])
        yield from _elements(value.get(keys[0]), keys[1:], f"{where}.{name}" if where else name)


def _job_value(index: int) -> Callable[[Sequence[Row]], list[Any]]:
    return lambda rows: [row.job[index] for row in rows]


def _item(index: int) -> Callable[[Sequence[Sequence[Any]]], list[Any]]:
    return lambda rows: [row[index] for row in rows]


def _input_column(column: Column) -> Column:
    """Return a column of the caller's own texts with the name ``input.NAME``, not ``NAME``."""
    name = f"{_INPUT}.{parse_path(column.name)[0]}" if column.name else _INPUT
    return evolve(column, name=name)


def _prefixed(column: Column, prefix: str) -> Column:
    name = f"{prefix}.{column.name}" if column.name else prefix
    return evolve(column, name=name)
