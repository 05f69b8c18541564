"""Decides the columns of a table and their types from the observed values."""

from collections.abc import Callable, Collection, Sequence
from typing import Any, Final, TypeAlias

from attrs import define, field, frozen

from adepoll.api.json_text import Json
from adepoll.common.safe_repr import SafeRepr
from adepoll.tables.column_types import (
    MAX_DIGITS,
    Column,
    ColumnType,
    DecimalType,
    ListType,
    Scalar,
    StructType,
    converter,
    name_of,
)
from adepoll.tables.key_paths import KeyPath, format_path
from adepoll.tables.observation import Node, Observer, leaves

_MAX_INT: Final = 2**63  # integers of smaller magnitude fit into 64 bits
_MAX_EXACT_INT: Final = 2**53  # a double holds each integer up to this one exactly
# In Parquet and Arrow, each object in a list needs 8 to 16 bytes of memory for each key that any of
# these objects has. So the lists of a result of 1 MB, with empty objects and one object with 1,000
# keys, could need gigabytes. The limit is for the rows that are written together.
_MAX_LIST_CELLS: Final = 10_000_000
# A list of 100,000 objects with one of 1,000 keys each has a megabyte, but its table would have 100
# million cells, and its file a gigabyte. A table of more cells than `_MAX_SPARSE_CELLS` must have a
# value in one of `_CELLS_OF_A_VALUE` cells.
_MAX_SPARSE_CELLS: Final = 10_000_000
_CELLS_OF_A_VALUE: Final = 20
_NUMBERS: Final = frozenset({"integer", "number"})
_SCALARS: Final = frozenset({"boolean", "integer", "number", "text"})

GetValues: TypeAlias = Callable[[Sequence[Any]], Sequence[Json]]
"""Returns one value for each of the objects that the rows of a block are made of."""


@frozen(kw_only=True)
class TypeConflict(SafeRepr):
    """A path whose values do not fit into one column unchanged, for example numbers and texts.

    Attributes:
        path: The path of the values; ``[]`` stands for the elements of a list.
        found: For each kind of value, such as "text": the number of values, and the id of the first
            job that has one.
        reason: Why the values do not fit, such as "values of several types".
        type: How the values are written instead.
    """

    path: str
    found: dict[str, tuple[int, str]]
    reason: str
    type: str

    def __str__(self) -> str:
        """Return the conflict as one line of text."""
        kinds = ", ".join(
            f"{kind} ({count:,}, first in {job})" for kind, (count, job) in self.found.items()
        )
        return f"{self.path}: {self.reason}: {kinds}; written as {self.type}"


def columns_of(
    observer: Observer,
    *,
    root: str,
    reserved: Collection[str],
    get: GetValues,
    within: str = "",
) -> tuple[list[Column], list[TypeConflict]]:
    """Return the columns for what was observed, and the conflicts between values.

    Args:
        observer: The object that has observed all values.
        root: Name of the only column if the values are not objects. Also the prefix of a path that
            begins with a reserved name.
        reserved: Names of the other columns of the table.
        get: Takes a list of rows, and returns the observed value of each row.
        within: Prefix of the paths in conflicts, such as ``references.``.
    """
    resolver = _Resolver(dates=observer.dates, within=within)
    return resolver.columns(observer.root, root, frozenset(reserved), get)


@define(eq=False)
class _Resolver:
    """Chooses the column type for each key path of the observed JSON.

    Attributes:
        dates: True if texts that are all dates, or all times, become a column of that type.
        within: Prefix of the paths in conflicts, such as ``references.``.
        conflicts: The conflicts found so far.
        list_cells: Number of cells that all lists of objects together can need at the same time. A
            list needs one cell for each element and key.
    """

    dates: bool
    within: str
    list_cells: int = 0
    conflicts: list[TypeConflict] = field(factory=list)

    def columns(
        self, node: Node, root: str, reserved: frozenset[str], get: GetValues
    ) -> tuple[list[Column], list[TypeConflict]]:
        """Return the columns for all values at a node, and the conflicts; see `columns_of`."""
        found: list[Column] = []
        others = node
        if node.children:  # some of the values are objects
            if _is_sparse(node):
                as_json = self._conflict(node, root, "too many empty cells", Scalar.JSON)
                return [_column(root, as_json, get)], self.conflicts
            others = node.without_objects()
            get_object = _only(get, is_object=True) if others.kinds else get
            getters: dict[KeyPath, GetValues] = {(): get_object}
            for path, child in leaves(node):
                full = (root, *path) if path[0] in reserved else path
                name = format_path(full)
                kind = self.type_of(child, name)
                get_member = _member(_object_getter(path[:-1], getters), path[-1])
                found.append(_column(name, kind, get_member))
        if others.kinds:
            kind = self.type_of(others, root)
            if others is not node:
                reason = "values of several types"
                self._report(node, root, reason, f"a column for each key, and {name_of(kind)}")
                get = _only(get, is_object=False)
            found.append(_column(root, kind, get))
        return found, self.conflicts

    def type_of(self, node: Node, path: str) -> ColumnType:  # noqa: PLR0911 - one return statement for each type
        """Return the type for all values at a path; report a conflict if none fits them unchanged.

        Args:
            node: What was observed of the values.
            path: The path as text, for a conflict.
        """
        kinds = node.kinds.keys()
        if not kinds:
            return Scalar.TEXT
        if kinds <= _NUMBERS:
            return self._number(node, path)
        if kinds == {"text"}:
            if self.dates and node.all_dates:
                return Scalar.DATE
            return Scalar.TIME if self.dates and node.all_times else Scalar.TEXT
        if kinds == {"boolean"}:
            return Scalar.BOOLEAN
        if kinds <= _SCALARS:
            return self._conflict(node, path, "values of several types", Scalar.MIXED)
        if len(kinds) > 1:
            return self._conflict(node, path, "values of several types", Scalar.JSON)
        if node.is_too_large:
            reason = "too many keys or levels"
            return self._conflict(node, path, reason, Scalar.JSON)
        if "array" in kinds:
            return self._list(node, path)
        children = node.children.items()
        fields = {
            key: self.type_of(child, f"{path}.{format_path((key,))}")
            for key, child in children
            if not child.exploded
        }
        left_out = frozenset(key for key, child in children if child.exploded)
        return StructType(fields, left_out) if fields else Scalar.JSON

    def _list(self, node: Node, path: str) -> ColumnType:
        """Return the type for lists; report a conflict if objects in them need too many cells."""
        before = self.list_cells
        item = self.type_of(node.items or Node(), f"{path}[]")
        if isinstance(item, StructType):
            self.list_cells += node.elements * _cells_of(item)
            if self.list_cells > _MAX_LIST_CELLS:
                self.list_cells = before
                return self._conflict(node, path, "too many elements and keys", Scalar.JSON)
        return ListType(item)

    def _number(self, node: Node, path: str) -> ColumnType:
        """Return the smallest column type that represents all numbers at one path exactly.

        `node` is what was observed of these values. If there is no such type, report a conflict at
        `path`.
        """
        if node.kinds.keys() == {"integer"}:
            if node.largest < _MAX_INT:
                return Scalar.INTEGER
        elif not node.is_inexact and node.largest <= _MAX_EXACT_INT:
            return Scalar.DOUBLE
        digits = max(node.digits, len(str(node.largest)) if node.largest < 10**MAX_DIGITS else 99)
        if digits + node.scale <= MAX_DIGITS:
            return DecimalType(digits + node.scale, node.scale)
        reason = f"numbers with more than {MAX_DIGITS} digits"
        return self._conflict(node, path, reason, Scalar.MIXED)

    def _conflict(self, node: Node, path: str, reason: str, kind: Scalar) -> Scalar:
        self._report(node, path, reason, name_of(kind))
        return kind

    def _report(self, node: Node, path: str, reason: str, written_as: str) -> None:
        """Add a `TypeConflict`.

        Args:
            node: What was observed of the values.
            path: The path of the values.
            reason: Why the values do not fit into one column unchanged.
            written_as: How the values are written instead.
        """
        found = {kind: (count, job) for kind, (count, job) in node.kinds.items()}
        self.conflicts.append(
            TypeConflict(path=self.within + path, found=found, reason=reason, type=written_as)
        )


def _is_sparse(node: Node) -> bool:
    """Return whether a table with one row for each object would have too many empty cells."""
    columns = [child for _, child in leaves(node)]
    cells: int = node.kinds["object"][0] * len(columns)
    if cells <= _MAX_SPARSE_CELLS:
        return False
    values: int = sum(count for child in columns for count, _ in child.kinds.values())
    return cells > _CELLS_OF_A_VALUE * values


def _cells_of(kind: ColumnType) -> int:
    """Return the number of cells that a value of this type needs, even if it is null."""
    return sum(map(_cells_of, kind.fields.values())) if isinstance(kind, StructType) else 1


def _column(name: str, kind: ColumnType, get: GetValues) -> Column:
    return Column(name=name, type=kind, get=get, convert=converter(kind))


def _only(get: GetValues, *, is_object: bool) -> GetValues:
    """Return a function that returns only some of the values of `get`, and None for the others.

    If `is_object` is True, these are the objects. If False, these are the values that are not
    objects.
    """
    return lambda rows: [
        value if isinstance(value, dict) is is_object else None for value in get(rows)
    ]


def _member(get: GetValues, key: str) -> GetValues:
    """Return a function that takes a list of rows, and returns one value for each row.

    `get` returns a JSON object or None for each row. The function returns the value that the object
    has for `key`. It returns None if there is no object, or if the object has no such key.
    """
    return lambda rows: [None if value is None else value.get(key) for value in get(rows)]


def _object_getter(path: KeyPath, getters: dict[KeyPath, GetValues]) -> GetValues:
    """Return a function that takes a list of rows, and returns the object at `path` in each row.

    `getters` has the functions that were returned before, by path, so that all columns below a path
    share one function. From the start, it has the function for the path ``()``.
    """
    if path not in getters:
        getters[path] = _Remembered(_member(_object_getter(path[:-1], getters), path[-1]))
    return getters[path]


@define(eq=False)
class _Remembered:
    """A function that calls `_get` with a list of rows, and remembers the last list and its values.

    Several columns need the same values one after the other. So `_get` is called only once for
    them.
    """

    _get: GetValues
    _rows: Sequence[Any] = field(default=(), init=False)
    _values: Sequence[Json] = field(default=(), init=False)

    def __call__(self, rows: Sequence[Any]) -> Sequence[Json]:
        if rows is not self._rows:
            self._rows, self._values = rows, self._get(rows)
        return self._values
