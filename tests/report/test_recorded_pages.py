"""A report of the same jobs is the same page in each version, unless the change is intended."""

from recorded_pages import FILE, pages


def test_pages_are_the_recorded_ones():
    for line, expected in zip(
        pages().splitlines(), FILE.read_text("utf-8").splitlines(), strict=True
    ):
        assert line == expected
