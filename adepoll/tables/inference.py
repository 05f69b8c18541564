"""Finds the columns and types of results: observes each result once, then decides.

Memory does not grow with the number of results: the tree of observed keys has at most 10,000 nodes,
and an object with more than 1,000 different keys becomes one column of JSON text.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from decimal import Decimal
from typing import Any, Final

from attrs import define, evolve, field, frozen

from adepoll.api.json_text import Json
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
    parse_date,
    parse_time,
)
from adepoll.tables.key_paths import KeyPath, format_path

_MAX_KEYS: Final = 1_000  # maximum number of different keys of one object
_MAX_NODES: Final = 10_000
_MAX_DEPTH: Final = 30
_MAX_INT: Final = 2**63  # integers of smaller magnitude fit into 64 bits
_MAX_EXACT_INT: Final = 2**53  # a double holds each integer up to this one exactly

_KINDS: Final = {
    bool: "boolean",
    int: "integer",
    float: "number",
    Decimal: "number",
    str: "text",
    list: "array",
    dict: "object",
}
_NUMBERS: Final = frozenset({"integer", "number"})
_SCALARS: Final = frozenset({"boolean", "integer", "number", "text"})
_CONTAINERS: Final = frozenset({"array", "object"})


@frozen(kw_only=True)
class TypeConflict:
    """A path whose values have no common type, and the type that was chosen.

    Attributes:
        path: The path of the values; ``[]`` stands for the elements of a list.
        found: For each kind of value, such as "text": the number of values, and the id of the first
            job that has one.
        reason: The reason why the values have no common type.
        type: The type in which the values are written.
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


@define(eq=False)
class _Explode:
    """One key in the paths of the lists that become separate tables. The keys form a tree.

    Attributes:
        here: True if one of these paths ends at this key.
        below: The keys that follow this key in the paths, each with its own object.
    """

    here: bool = False
    below: dict[str, "_Explode"] = field(factory=dict)

    def add(self, path: Sequence[str]) -> None:
        if not path:
            self.here = True
        else:
            self.below.setdefault(path[0], _Explode()).add(path[1:])


_NOTHING: Final = _Explode()


@define(eq=False)
class Node:
    """What was observed of all values at one path.

    Attributes:
        exploded: True if a list at this path becomes a separate table.
        kinds: For each kind of value: a list of the number of values and the id of the first job.
        children: The values at each key of the objects at this path.
        items: The elements of the lists at this path; None before the first list.
        is_too_large: True if the values have too many keys or levels to become columns.
        largest: Largest magnitude of the integers.
        digits: Maximum number of digits before the decimal point, of numbers like ``1.50``.
        scale: Maximum number of digits after the decimal point, of numbers like ``1.50``.
        is_inexact: True if a double cannot hold one of the numbers exactly.
        all_dates: True if all texts are dates.
        all_times: True if all texts are times.
    """

    exploded: bool = False
    kinds: dict[str, list[Any]] = field(factory=dict)
    children: dict[str, "Node"] = field(factory=dict)
    items: "Node | None" = None
    is_too_large: bool = False
    largest: int = 0
    digits: int = 0
    scale: int = 0
    is_inexact: bool = False
    all_dates: bool = True
    all_times: bool = True

    def decided(self) -> str | None:
        """Return the kind that all values have; "" if they have several, None without a value."""
        if not self.kinds:
            return None
        return next(iter(self.kinds)) if len(self.kinds) == 1 else ""

    def without_objects(self) -> "Node":
        """Return what was observed of the values that are not objects."""
        kinds = {kind: seen for kind, seen in self.kinds.items() if kind != "object"}
        return evolve(self, kinds=kinds, children={})


class Observer:
    """Observes values, and returns the columns for them."""

    def __init__(self, *, explode: Collection[KeyPath] = (), dates: bool = False) -> None:
        """Create an observer that has seen nothing.

        Args:
            explode: Paths of lists that are left out, because they become separate tables.
            dates: If True, a column has the type date or time if all its texts are ISO 8601 dates,
                or times with an offset. If False, the column has the type text.
        """
        self._explode = _Explode()
        for path in explode:
            self._explode.add(path)
        self._dates = dates
        self._nodes = 0
        self.root = Node()

    def observe(self, value: Json, job_id: str) -> None:
        """Record the kinds of one value and of all values in it; ignore None."""
        if value is not None:
            self._observe(self.root, value, job_id, self._explode, 0)

    def _observe(self, node: Node, value: Json, job_id: str, explode: _Explode, depth: int) -> None:
        """Record a value that is not None, and all values in it. Called for each value."""
        kind = _KINDS[type(value)]
        if (seen := node.kinds.get(kind)) is None:
            node.kinds[kind] = [1, job_id]
        else:
            seen[0] += 1
        if kind == "text":
            if self._dates:
                node.all_dates = node.all_dates and parse_date(value) is not None
                node.all_times = node.all_times and parse_time(value) is not None
        elif kind == "number":
            _measure(node, value)
        elif kind == "integer":
            node.largest = max(node.largest, abs(value))
        elif depth >= _MAX_DEPTH and kind in _CONTAINERS:
            node.is_too_large = True
        elif kind == "object":
            self._observe_object(node, value, job_id, explode, depth)
        elif kind == "array":
            self._observe_array(node, value, job_id, explode, depth)

    def _observe_array(
        self, node: Node, value: Json, job_id: str, explode: _Explode, depth: int
    ) -> None:
        """Record the elements of an array, except nulls, in the node `node.items`."""
        if node.is_too_large:
            return
        items = node.items = node.items or Node()
        for item in value:
            if item is not None:
                self._observe(items, item, job_id, explode, depth + 1)

    def _observe_object(
        self, node: Node, value: Json, job_id: str, explode: _Explode, depth: int
    ) -> None:
        """Record the values of an object in the children of `node`; forget them if too many."""
        if node.is_too_large:
            return
        children = node.children
        for key, item in value.items():
            below = explode.below.get(key, _NOTHING) if explode.below else _NOTHING
            child = children.get(key)
            if child is None:
                if len(children) >= _MAX_KEYS or self._nodes >= _MAX_NODES:
                    node.is_too_large = True
                    children.clear()
                    return
                self._nodes += 1
                child = children[key] = Node(exploded=below.here)
            if item is not None and (below.below or not child.exploded):
                self._observe(child, item, job_id, below, depth + 1)

    def has_seen(self, path: KeyPath) -> bool:
        """Return True if a value had this path; keys of objects in lists count, too."""
        nodes = [self.root]
        for key in path:
            waiting, nodes = nodes, []
            while waiting:
                node = waiting.pop()
                if key in node.children:
                    nodes.append(node.children[key])
                if node.items is not None:
                    waiting.append(node.items)
        return bool(nodes)

    def lists(self) -> list[str]:
        """Return the paths of all lists that are not inside other lists."""
        return [format_path(path) for path, node in _leaves(self.root) if "array" in node.kinds]

    def columns(
        self,
        *,
        root: str,
        reserved: Collection[str],
        get: Callable[[Any], Json],
        within: str = "",
    ) -> tuple[list[Column], list[TypeConflict]]:
        """Return the columns, and the conflicts between values.

        Args:
            root: Name of the only column if the values are not objects. Also the prefix of a path
                that begins with a reserved name.
            reserved: Names of the other columns of the table.
            get: Returns the observed value from the object that a row is made of.
            within: Prefix of the paths in conflicts, such as ``references.``.
        """
        return _Resolver(dates=self._dates, within=within).columns(
            self.root, root, frozenset(reserved), get
        )


def _measure(node: Node, value: float | Decimal) -> None:
    """Record the digits of a number before and after its decimal point."""
    text = str(value)
    before, _, after = text.partition(".")
    if type(value) is float and "e" not in text:  # much faster than a `Decimal`
        digits, scale = len(before.lstrip("-0")), len(after)
    else:
        _, found, exponent = Decimal(text).as_tuple()
        digits, scale = len(found) + int(exponent), -int(exponent)
        node.is_inexact = node.is_inexact or isinstance(value, Decimal)
    node.digits = max(node.digits, digits)
    node.scale = max(node.scale, scale)


@define(eq=False)
class _Resolver:
    """Decides the type of each node of a tree, and collects conflicts."""

    dates: bool
    within: str
    conflicts: list[TypeConflict] = field(factory=list)

    def columns(
        self, node: Node, root: str, reserved: frozenset[str], get: Callable[[Any], Json]
    ) -> tuple[list[Column], list[TypeConflict]]:
        found: list[Column] = []
        others = node
        if node.children:  # some of the values are objects
            others = node.without_objects()
            get_object = _only(get, is_object=True) if others.kinds else get
            for path, child in _leaves(node):
                full = (root, *path) if path[0] in reserved else path
                name = format_path(full)
                kind = self.type_of(child, name)
                found.append(_column(name, kind, _getter(path, get_object)))
        if others.kinds:
            kind = self.type_of(others, root)
            if others is not node:
                reason = "values of several types"
                self._report(node, root, reason, f"a column for each key, and {name_of(kind)}")
                get = _only(get, is_object=False)
            found.append(_column(root, kind, get))
        return found, self.conflicts

    def type_of(self, node: Node, path: str) -> ColumnType:  # noqa: PLR0911 - one return statement for each type
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
            return self._conflict(node, path, "values of several types", Scalar.TEXT)
        if len(kinds) > 1:
            return self._conflict(node, path, "values of several types", Scalar.JSON)
        if node.is_too_large:
            reason = "too many keys or levels"
            return self._conflict(node, path, reason, Scalar.JSON)
        if "array" in kinds:
            item = node.items or Node()
            return ListType(self.type_of(item, f"{path}[]"))
        fields = {
            key: self.type_of(child, f"{path}.{format_path((key,))}")
            for key, child in node.children.items()
            if not child.exploded
        }
        return StructType(fields) if fields else Scalar.JSON

    def _number(self, node: Node, path: str) -> ColumnType:
        """Return the smallest column type that represents all numbers of a node exactly."""
        if node.kinds.keys() == {"integer"}:
            if node.largest < _MAX_INT:
                return Scalar.INTEGER
        elif not node.is_inexact and node.largest <= _MAX_EXACT_INT:
            return Scalar.DOUBLE
        digits = max(node.digits, len(str(node.largest)) if node.largest < 10**MAX_DIGITS else 99)
        if digits + node.scale <= MAX_DIGITS:
            return DecimalType(digits + node.scale, node.scale)
        reason = f"numbers with more than {MAX_DIGITS} digits"
        return self._conflict(node, path, reason, Scalar.TEXT)

    def _conflict(self, node: Node, path: str, reason: str, kind: Scalar) -> Scalar:
        self._report(node, path, reason, name_of(kind))
        return kind

    def _report(self, node: Node, path: str, reason: str, written_as: str) -> None:
        """Record that the values at a path have no common type."""
        found = {kind: (count, job) for kind, (count, job) in node.kinds.items()}
        self.conflicts.append(
            TypeConflict(path=self.within + path, found=found, reason=reason, type=written_as)
        )


def _column(name: str, kind: ColumnType, get: Callable[[Any], Json]) -> Column:
    return Column(name=name, type=kind, get=get, convert=converter(kind))


def _leaves(node: Node, before: KeyPath = ()) -> Iterator[tuple[KeyPath, Node]]:
    """Yield path and node for each node below `node` that becomes a column."""
    for key, child in node.children.items():
        path = (*before, key)
        if child.exploded:
            continue
        if child.decided() == "object" and child.children:
            yield from _leaves(child, path)
        else:
            yield path, child


def _only(get: Callable[[Any], Json], *, is_object: bool) -> Callable[[Any], Json]:
    """Return a function that calls `get`, and returns its value or None.

    If `is_object` is True, only objects are returned; if it is False, only other values are.
    """

    def get_only(row: Any) -> Json:
        value = get(row)
        return value if isinstance(value, dict) is is_object else None

    return get_only


def _getter(path: KeyPath, get: Callable[[Any], Json]) -> Callable[[Any], Json]:
    """Return a function that returns the value of a row at a path; None if there is none."""
    if len(path) == 1:
        (only,) = path

        def get_child(row: Any) -> Json:
            value = get(row)
            return None if value is None else value.get(only)

        return get_child

    def get_at(row: Any) -> Json:
        value = get(row)
        for key in path:
            if value is None:
                return None
            value = value.get(key)
        return value

    return get_at
