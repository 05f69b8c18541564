"""Numbers are written as people read them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adepoll.report import formats


def plain(text):
    return text.replace("\N{NO-BREAK SPACE}", " ").replace("\N{NARROW NO-BREAK SPACE}", "")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.0123, "12 ms"),
        (0.5, "0.5 s"),
        (2.0, "2 s"),
        (9.94, "9.9 s"),
        (59.94, "60 s"),
        (59.99, "1 min"),
        (125, "2 min 05 s"),
        (3599.9, "1 h"),
        (5400, "1 h 30 min"),
        (86_399, "1 d"),
        (90_000, "1 d 1 h"),
        (86_400 * 20_000, "20,000 d"),
    ],
)
def test_durations_have_two_units_at_most(seconds, text):
    assert plain(formats.show_duration(seconds)) == text


@given(st.floats(0, 1e300))
def test_no_duration_is_too_long_for_a_chart(seconds):
    assert len(formats.show_duration(seconds)) <= 20


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [
        (0, 5, "0 %"),
        (5, 5, "100 %"),
        (99_999, 100_000, "99.9 %"),
        (1, 100_000, "<0.1 %"),
        (1, 3, "33.3 %"),
        (0, 0, "0 %"),
    ],
)
def test_only_all_are_100_per_cent_and_only_none_are_0(part, whole, text):
    assert plain(formats.show_share(part, whole)) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1_000, "1.00 kB"), (999_999, "1.00 MB"), (3.2e15, "3,200 TB")],
)
def test_sizes_are_decimal(size, text):
    assert plain(formats.show_bytes(size)) == text


@pytest.mark.parametrize(
    ("amount", "text"),
    [(0, "0"), (0.0125, "0.0125"), (3, "3.00"), (18_656.5, "18,656.50"), (1e300, "1.00e+300")],
)
def test_credits_keep_what_tells_them_from_nothing(amount, text):
    assert formats.show_credits(amount) == text


@pytest.mark.parametrize("at", [1e18, -1e18, float("inf")])
def test_a_time_that_no_calendar_has_is_told(at):
    assert formats.show_time(at) == "at no time of the calendar"


@pytest.mark.parametrize(
    ("at", "step", "text"),
    [
        (45_015, 15, "12:30:15"),
        (45_000, 900, "12:30"),
        (86_400, 21_600, "Fri 02 Jan"),
        (0, 1e8, "1970"),
    ],
)
def test_marks_of_a_time_axis_are_as_short_as_they_may_be(at, step, text):
    assert plain(formats.show_tick(at, step)) == text
