"""Records the kinds, the sizes and the numbers of the values at each path of the results.

Several results are observed together: first all their values at one path, then those at the next
path. This is several times faster than one result after another. What was observed is kept in a
tree with one `Node` for each path. Memory is limited: the tree has at most 10,000 nodes, and an
object with more than 1,000 different keys becomes one column of JSON text.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from decimal import Decimal
from itertools import chain
from typing import Any, Final

from attrs import define, evolve, field

from adepoll.api.json_text import CONTAINERS, Json
from adepoll.tables.column_types import parse_date, parse_time
from adepoll.tables.key_paths import KeyPath, format_path

_MAX_KEYS: Final = 1_000  # maximum number of different keys of one object
_MAX_NODES: Final = 10_000
_MAX_DEPTH: Final = 30

_KINDS: Final = {
    bool: "boolean",
    int: "integer",
    float: "number",
    Decimal: "number",
    str: "text",
    list: "array",
    dict: "object",
}
# The text of a float in this range has no exponent.
_PLAIN_FLOATS: Final = (1e-4, 1e16)


@define(eq=False)
class _Explode:
    """One key in the paths of the lists that become separate tables. The keys form a tree.

    Attributes:
        here: True if the path of such a list ends at this key.
        below: The keys that follow this key in the paths, each with its own `_Explode`.
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
        kinds: For each kind of value, such as "text": a list of two items, the number of values and
            the id of the first job that has one (None until it is known).
        children: The values at each key of the objects at this path.
        items: The elements of the lists at this path; None before the first list.
        elements: Largest number of elements, nulls included, that the lists at this path have had
            in one call of `Observer.observe`.
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
    elements: int = 0
    is_too_large: bool = False
    largest: int = 0
    digits: int = 0
    scale: int = 0
    is_inexact: bool = False
    all_dates: bool = True
    all_times: bool = True

    def only_kind(self) -> str | None:
        """Return the kind of all values; "" if their kinds differ, None if there are no values."""
        if not self.kinds:
            return None
        return next(iter(self.kinds)) if len(self.kinds) == 1 else ""

    def without_objects(self) -> "Node":
        """Return a copy that describes only the values that are not objects."""
        kinds = {kind: seen for kind, seen in self.kinds.items() if kind != "object"}
        return evolve(self, kinds=kinds, children={})


class Observer:
    """Observes values, and keeps what it has observed as a tree of nodes.

    Attributes:
        root: What was observed of the values that were passed to `observe`. Its `children` and
            `items` are the nodes of the values within these values.
        dates: True if texts that are all dates or times become dates and times.
    """

    def __init__(self, *, explode: Collection[KeyPath] = (), dates: bool = False) -> None:
        """Create an observer that has seen nothing.

        Args:
            explode: Paths of lists that are left out, because they become separate tables.
            dates: If True, record whether all texts at a path are ISO 8601 dates, or times with an
                offset.
        """
        self._explode = _Explode()
        for path in explode:
            self._explode.add(path)
        self._nodes = 0
        self._unnamed = 0  # items of `Node.kinds` whose first job is not known yet
        self.dates = dates
        self.root = Node()

    def observe(self, values: Sequence[Json], job_ids: Sequence[str]) -> None:
        """Record, in the tree at `root`, which types of values occur. Ignore values that are None.

        The values within objects and arrays are recorded, too.

        Args:
            values: JSON values, one for each result.
            job_ids: For each value, the id of its job.
        """
        self._observe(self.root, _present(values), 0, self._explode)
        # Search for the first jobs only now, for all nodes together: a search for each node would
        # take too long if a result has many keys and a long list.
        for value, job_id in zip(values, job_ids, strict=True):
            if not self._unnamed:
                break
            self._unnamed -= _name_first_job(self.root, value, job_id)
        self._unnamed = 0

    def _observe(self, node: Node, values: Sequence[Json], depth: int, explode: _Explode) -> None:
        """Observe all values at one path of several results, and all values within them.

        Args:
            node: The node of this path, in which to record what is observed.
            values: The values at this path; none of them is None.
            depth: Number of objects and arrays that contain each of the values.
            explode: The keys below this path that lead to lists with a table of their own.
        """
        types = Counter(map(type, values))
        for found, count in types.items():
            kind = _KINDS[found]
            if (seen := node.kinds.get(kind)) is None:
                node.kinds[kind] = [count, None]
                self._unnamed += 1
            else:
                seen[0] += count
        for found in types:
            group: Sequence[Any] = values
            if len(types) > 1:
                group = [value for value in values if type(value) is found]
            if found in CONTAINERS:
                self._observe_containers(node, group, depth, explode)
            else:
                self._observe_scalars(node, found, group)

    def _observe_scalars(self, node: Node, found: type, values: Sequence[Any]) -> None:
        """Record in `node` what values have in common that are neither objects nor arrays.

        For example: all texts are dates, or the largest of the integers. All values have the Python
        type `found`.
        """
        if found is str:
            if self.dates:
                node.all_dates = node.all_dates and None not in map(parse_date, values)
                node.all_times = node.all_times and None not in map(parse_time, values)
        elif found is int:
            node.largest = max(map(abs, chain([node.largest], values)))
        elif found is float:
            _measure_floats(node, values)
        elif found is Decimal:
            node.is_inexact = True
            _measure_decimals(node, values)

    def _observe_containers(
        self, node: Node, values: Sequence[Json], depth: int, explode: _Explode
    ) -> None:
        """Observe values that are all objects or all arrays; see `_observe`."""
        if depth >= _MAX_DEPTH:
            node.is_too_large = True
        elif isinstance(values[0], dict):
            self._observe_objects(node, values, depth, explode)
        else:
            self._observe_arrays(node, values, depth, explode)

    def _observe_arrays(
        self, node: Node, arrays: Sequence[Json], depth: int, explode: _Explode
    ) -> None:
        """Observe the elements of arrays, except nulls, with `node.items`; see `_observe`."""
        node.items = node.items or Node()
        node.elements = max(node.elements, sum(map(len, arrays)))
        elements = _present(chain.from_iterable(arrays))
        self._observe(node.items, elements, depth + 1, explode)

    def _observe_objects(
        self, node: Node, objects: Sequence[Json], depth: int, explode: _Explode
    ) -> None:
        """Observe the values in objects with the nodes in `node.children`; see `_observe`.

        If the objects have too many different keys, remove these nodes: the objects become one
        column of JSON text.
        """
        if node.is_too_large:
            return
        children = node.children
        for key in chain.from_iterable(objects):
            if key not in children:
                if len(children) >= _MAX_KEYS or self._nodes >= _MAX_NODES:
                    node.is_too_large = True
                    children.clear()
                    return
                self._nodes += 1
                children[key] = Node(exploded=explode.below.get(key, _NOTHING).here)
        columns: dict[str, list[Json]] = {key: [] for key in children}
        for key, item in chain.from_iterable(map(dict.items, objects)):
            columns[key].append(item)
        for key, child in children.items():
            below = explode.below.get(key, _NOTHING)
            if columns[key] and (below.below or not child.exploded):
                self._observe(child, _present(columns[key]), depth + 1, below)

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
        return [format_path(path) for path, node in leaves(self.root) if "array" in node.kinds]


def leaves(node: Node, before: KeyPath = ()) -> Iterator[tuple[KeyPath, Node]]:
    """Yield each node below `node` whose values become a column, with its path.

    `before` is the path of `node` itself.
    """
    for key, child in node.children.items():
        path = (*before, key)
        if child.exploded:
            continue
        if child.only_kind() == "object" and child.children:
            yield from leaves(child, path)
        else:
            yield path, child


def _present(values: Iterable[Json]) -> list[Json]:
    return [value for value in values if value is not None]


def _name_first_job(node: Node, value: Json, job_id: str) -> int:
    """Record a job as the first job for those kinds of values that have no first job yet.

    Args:
        node: The node of the value.
        value: The value, which can contain other values.
        job_id: The job that has the value.

    Returns:
        The number of kinds, in this node and those below it, for which the job is the first one.
    """
    named = 0
    seen = node.kinds.get(_KINDS.get(type(value), ""))
    if seen is not None and seen[1] is None:
        seen[1] = job_id
        named = 1
    if isinstance(value, list) and node.items is not None:
        named += sum(_name_first_job(node.items, item, job_id) for item in value)
    elif isinstance(value, dict) and (children := node.children):
        for key, item in value.items():
            if key in children:
                named += _name_first_job(children[key], item, job_id)
    return named


def _measure_floats(node: Node, values: Iterable[float]) -> None:
    """Record in `node` how many digits the numbers have before and after the decimal point."""
    distinct = set(values)
    sizes = {*map(abs, distinct)} - {0.0}
    low, high = _PLAIN_FLOATS
    if sizes and not (low <= min(sizes) and max(sizes) < high):
        _measure_decimals(node, map(Decimal, map(repr, distinct)))
        return
    after = (len(text) - text.index(".") - 1 for text in map(repr, distinct))
    node.scale = max(chain([node.scale], after))
    largest = int(max(sizes, default=0))
    node.digits = max(node.digits, len(str(largest)) if largest else 0)


def _measure_decimals(node: Node, values: Iterable[Decimal]) -> None:
    """Record in `node` how many digits the numbers have before and after the decimal point."""
    for value in values:
        _, digits, exponent = value.as_tuple()
        node.digits = max(node.digits, len(digits) + int(exponent))
        node.scale = max(node.scale, -int(exponent))
