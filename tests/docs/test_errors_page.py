"""The page of errors lists every class, with its base class and its two attributes."""

import re
from pathlib import Path

import pytest

from adepoll import errors

PAGE = (Path(__file__).parents[2] / "docs" / "errors.md").read_text("utf-8")
ROW = re.compile(r"^\| ((?:> )*)`(\w+)` \| .* \| (yes|no) \| (yes|no) \|$", re.MULTILINE)


def rows():
    """Yield each class of the page, the name of the class above it, and its two attributes."""
    above = []
    for marks, name, transient, fatal in ROW.findall(PAGE):
        depth = marks.count(">")
        above[depth:] = [name]
        base = above[depth - 1] if depth else "AdePollError"
        yield pytest.param(name, base, transient == "yes", fatal == "yes", id=name)


ROWS = list(rows())


def test_every_class_has_one_row():
    names = [row.id for row in ROWS]
    assert sorted(names) == sorted({*errors.__all__} - {"AdePollError", "ClosedError"})


@pytest.mark.parametrize(("name", "base", "transient", "fatal"), ROWS)
def test_a_row_says_what_the_class_is(name, base, transient, fatal):
    cls = getattr(errors, name)
    assert (cls.transient, cls.fatal) == (transient, fatal)
    assert getattr(errors, base) in cls.__bases__
