"""The columns of a table about jobs, and what a `repr` shows of long values."""

from collections.abc import Mapping
from types import SimpleNamespace

import pytest

from adepoll.api.shown import show_first, show_keys, show_size, show_text, show_url
from adepoll.api.table_row import FACTS, TableRow, document_of, facts_of

BITS = 2**63


def job(**facts):
    defaults = {"page_count": 3, "credits": 1.5, "failed_pages": (), "partial": False}
    own = {name: facts.pop(name, value) for name, value in defaults.items()}
    is_terminal = facts.pop("is_terminal", True)
    return SimpleNamespace(**own, is_terminal=is_terminal, facts=SimpleNamespace(**facts))


def columns(**facts):
    return dict(zip(FACTS, facts_of(job(**facts)), strict=True))


def test_the_duration_is_in_seconds():
    assert columns(duration_ms=2_500)["seconds"] == 2.5
    assert columns()["seconds"] is None
    assert columns(duration_ms=None)["seconds"] is None


@pytest.mark.parametrize(
    ("pages", "shown"),
    [(BITS - 1, BITS - 1), (BITS, None), (-BITS, None), (1 - BITS, 1 - BITS), (0, 0), (None, None)],
)
def test_whole_numbers_of_more_than_64_bits_are_not_shown(pages, shown):
    assert columns(page_count=pages)["pages"] == shown
    if pages is not None:
        assert columns(failed_pages=(pages, 7))["failed_pages"] == [
            *([] if shown is None else [shown]), 7,
        ]  # fmt: skip
    assert columns(failed_pages=(BITS,))["failed_pages"] is None
    seconds = columns(duration_ms=pages)["seconds"]
    assert seconds == (None if shown is None else shown / 1000)


@pytest.mark.parametrize(
    ("is_terminal", "partial", "shown"),
    [(True, False, False), (True, True, True), (False, False, None), (False, True, None)],
)
def test_only_a_settled_job_is_partial_or_not(is_terminal, partial, shown):
    assert columns(is_terminal=is_terminal, partial=partial)["partial"] is shown


def test_the_name_of_the_document_is_none_if_the_service_does_not_say():
    assert document_of(job(filename="a.pdf")) == "a.pdf"
    assert document_of(job()) is None


class Row(TableRow):
    """A row with a result."""

    def to_dict(self):
        return {"job_id": "<j>", "output": {"a": 1}, "markdown": None, "pages": None}


def test_a_row_is_a_mapping_and_its_html_shows_no_result():
    row = Row()
    assert isinstance(row, Mapping)
    assert (len(row), [*row], [*row.keys()]) == (4, [*row.to_dict()], [*row.to_dict()])
    assert row["output"] == {"a": 1}
    html = row._repr_html_()
    assert "&lt;j&gt;" in html
    assert "&lt;dict of 1&gt;" in html
    assert "None" not in html
    assert html.count("<tr>") == 2
    with pytest.raises(NotImplementedError):
        TableRow().to_dict()


@pytest.mark.parametrize(
    ("count", "more"), [(0, ""), (20, ""), (21, " and 1 more"), (25, " and 5 more")]
)
def test_a_repr_shows_twenty_items(count, more):
    items = tuple(range(count))
    assert show_first(items) == f"{items[:20]!r}{more}"
    names = [f"n{number}" for number in range(count)]
    shown = [*names[:20], *([f"{count - 20} more"] if more else [])]
    assert show_keys(dict.fromkeys(names, "secret")) == (f"<{', '.join(shown)}>" if names else "{}")


def test_a_repr_shows_the_size_of_a_value_and_no_secret():
    assert (show_size([1, 2]), show_size("abc"), show_size(1)) == (
        "<list of 2>", "<str of 3>", "<...>",
    )  # fmt: skip
    assert show_url("https://h/x?token=secret") == "'https://h/x?REDACTED'"
    assert (show_url(None), show_text(None), show_text("a\nb")) == ("None", "None", "'a\\\\nb'")
