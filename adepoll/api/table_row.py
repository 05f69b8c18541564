"""TableRow: an object that pandas and polars accept as a row of a table.

`api.models` says how to add a field.
"""

from collections.abc import Iterator, KeysView, Mapping
from typing import Any, Final, Protocol, TypeGuard

from adepoll.api.json_fields import Model
from adepoll.api.shown import show_size
from adepoll.common.html_tables import html_table

FACTS: Final = ("seconds", "credits", "pages", "failed_pages", "partial")
"""Names of the columns whose values `facts_of` returns, in the same order."""
RESULTS: Final = ("extraction", "markdown", "output")
"""Names of the columns that can contain the result. A job has a value in at most two of them."""
_MAX_INTEGER: Final = 2**63  # whole numbers in tables have 64 bits


class TableRow(Model):
    """An object that is also a mapping from column names to values.

    Therefore, ``pandas.DataFrame(rows)``, ``polars.DataFrame(rows)`` and ``dict(row)`` work. Two
    rows are compared by the attributes of their class, and not as mappings.
    """

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the names of the columns with their values."""
        raise NotImplementedError

    def _repr_html_(self) -> str:
        """Return an HTML table for notebooks. It shows the sizes of results, not the results."""
        rows = [
            (name, show_size(value) if name in RESULTS and value is not None else value)
            for name, value in self.to_dict().items()
        ]
        return html_table(type(self).__name__, rows)

    def keys(self) -> KeysView[str]:
        """Return the names of the columns."""
        return self.to_dict().keys()

    def __getitem__(self, name: str) -> Any:
        """Return the value of a column."""
        return self.to_dict()[name]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the columns."""
        return iter(self.to_dict())

    def __len__(self) -> int:
        """Return the number of columns."""
        return len(self.to_dict())


Mapping.register(TableRow)


class HasFacts(Protocol):
    """The attributes of a `JobSnapshot` that `facts_of` and `document_of` read."""

    @property
    def facts(self) -> object:
        """The metadata of the job, or of its result; None if both are missing."""

    @property
    def credits(self) -> float | None:
        """Price of the job in credits; None if the service does not say."""

    @property
    def page_count(self) -> int | None:
        """Number of pages of the document; None if the service does not say."""

    @property
    def failed_pages(self) -> tuple[int, ...]:
        """Pages that could not be parsed, counted from 0."""

    @property
    def partial(self) -> bool:
        """True if the job has completed, but its result is incomplete or violates the schema."""

    @property
    def is_terminal(self) -> bool:
        """True if the job has completed, has failed or was cancelled, so it cannot change again."""


def facts_of(job: HasFacts) -> tuple[Any, ...]:
    """Return a job's values for the columns in `FACTS`, in the same order.

    A whole number that does not fit into 64 bits (with its sign) becomes None. Among the failed
    pages, it is left out.
    """
    milliseconds = getattr(job.facts, "duration_ms", None)
    pages = job.page_count
    return (
        milliseconds / 1000 if _fits(milliseconds) else None,
        job.credits,
        pages if _fits(pages) else None,
        [page for page in job.failed_pages if _fits(page)] or None,
        job.partial if job.is_terminal else None,
    )


def _fits(number: int | None) -> TypeGuard[int]:
    """Return True if a whole number is known, and fits into 64 bits (with its sign)."""
    return number is not None and abs(number) < _MAX_INTEGER


def document_of(job: HasFacts) -> str | None:
    """Return the name of a job's document; None if the service does not say."""
    name: str | None = getattr(job.facts, "filename", None)
    return name
