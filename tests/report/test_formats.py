"""Formats of numbers, durations, sizes and times."""

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
        (0.00001, "0.1 ms"),
        (0.0123, "12 ms"),
        (0.0994, "99 ms"),
        (0.0995, "0.1 s"),
        (0.25, "0.25 s"),
        (0.5, "0.5 s"),
        (1.25, "1.2 s"),
        (2.0, "2 s"),
        (9.94, "9.9 s"),
        (9.95, "10 s"),
        (10.4, "10 s"),
        (59.94, "60 s"),
        (59.95, "1 min"),
        (59.99, "1 min"),
        (125, "2 min 05 s"),
        (3599.4, "59 min 59 s"),
        (3599.5, "1 h"),
        (3599.9, "1 h"),
        (3900, "1 h 05 min"),
        (5400, "1 h 30 min"),
        (86_369, "23 h 59 min"),
        (86_370, "1 d"),
        (86_399, "1 d"),
        (90_000, "1 d 1 h"),
        (86_400 * 999 + 82_800, "999 d 23 h"),
        (86_400 * 1_000 + 82_800, "1,000 d"),
        (86_400 * 20_000, "20,000 d"),
        (86_400 * (10**12 - 1), "999,999,999,999 d"),
        (86_400 * 10**12, "1.0e+12 d"),
    ],
)
def test_durations_have_at_most_two_units(seconds, text):
    assert plain(formats.format_duration(seconds)) == text


@given(st.floats(0, 1e300))
def test_the_text_of_a_duration_is_short(seconds):
    assert len(formats.format_duration(seconds)) <= 20


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [
        (0, 5, "0 %"),
        (5, 5, "100 %"),
        (99_999, 100_000, "99.9 %"),
        (9_995, 10_000, "99.9 %"),
        (1, 100_000, "<0.1 %"),
        (99, 100_000, "<0.1 %"),
        (1, 1_000, "0.1 %"),
        (1, 3, "33.3 %"),
        (0, 0, "0 %"),
    ],
)
def test_only_exact_shares_are_0_or_100_percent(part, whole, text):
    assert plain(formats.format_share(part, whole)) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1_000, "1.00 kB"),
        (9_994, "9.99 kB"),
        (9_995, "10.0 kB"),
        (99_940, "99.9 kB"),
        (99_950, "100 kB"),
        (999_499, "999 kB"),
        (999_500, "1.00 MB"),
        (999_999, "1.00 MB"),
        (2.5e9, "2.50 GB"),
        (1e12, "1.00 TB"),
        (3.2e15, "3,200 TB"),
    ],
)
def test_sizes_are_decimal(size, text):
    assert plain(formats.format_bytes(size)) == text


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (0, "0"),
        (0.00009, "9.00e-05"),
        (0.0001, "0.0001"),
        (0.0125, "0.0125"),
        (-0.5, "-0.5"),
        (0.99999, "1"),
        (1, "1.00"),
        (-2.5, "-2.50"),
        (3, "3.00"),
        (18_656.5, "18,656.50"),
        (10**12 - 1, "999,999,999,999.00"),
        (10**12, "1.00e+12"),
        (1e300, "1.00e+300"),
    ],
)
def test_small_amounts_of_credits_are_not_rounded_to_zero(amount, text):
    assert formats.format_credits(amount) == text


def test_times_are_in_utc():
    assert formats.format_time(86_399) == "1970-01-01 23:59:59"
    assert formats.format_iso_time(86_399) == "1970-01-01T23:59:59Z"


@pytest.mark.parametrize("at", [1e18, -1e18, float("inf")])
def test_a_time_outside_of_the_calendar_is_invalid(at):
    assert formats.format_time(at) == "invalid time"


@pytest.mark.parametrize(
    ("at", "step", "text"),
    [
        (45_015, 15, "12:30:15"),
        (45_000, 60, "12:30"),
        (45_000, 900, "12:30"),
        (45_000, 86_400, "Thu 01 Jan"),
        (86_400, 21_600, "Fri 02 Jan"),
        (86_400, 86_400 * 199, "Fri 02 Jan"),
        (86_400, 86_400 * 200, "1970"),
        (0, 1e8, "1970"),
    ],
)
def test_labels_of_a_time_axis_are_as_short_as_possible(at, step, text):
    assert plain(formats.format_tick(at, step)) == text
