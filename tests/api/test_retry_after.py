from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from multidict import CIMultiDict

from adepoll.api.retry_after import MAX_RETRY_AFTER, parse_retry_after

NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)


def retry_after(value: str, now: datetime | None = None, **headers: str) -> float | None:
    return parse_retry_after(CIMultiDict({"Retry-After": value, **headers}), now=now)


dates = st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1)).map(  # noqa: DTZ001 - zone added
    lambda when: format_datetime(when.replace(tzinfo=UTC), usegmt=True)
)
header_text = (
    st.text(st.characters(max_codepoint=255))
    | dates
    | st.sampled_from(
        [
            "Wed, 99 Foo 2026",
            "1 Jan 2026 25:61:61",
            "Mon, 1 Jan 99999 00:00:00 GMT",
            "0 0 0 0:0",
            ",",
        ]
    )
    | st.builds("{}{}".format, dates, st.text(max_size=5))
)


@given(header_text, header_text | st.none(), st.none() | st.just(NOON))
@example("Thu, 01 Jan 1970 00:00:00 -9999999", None, NOON)
@example("Fri, 31 Dec 9999 23:59:59 -2359", "Mon, 01 Jan 0001 00:00:00 +2359", None)
def test_any_retry_after_is_a_bounded_wait_or_none(value, date, now):
    wait = retry_after(value, now, **({} if date is None else {"Date": date}))
    assert wait is None or 0 <= wait <= MAX_RETRY_AFTER


@given(st.integers(0, 10**400))
def test_retry_after_in_seconds_is_limited_to_the_maximum(seconds):
    assert retry_after(str(seconds)) == min(seconds, MAX_RETRY_AFTER)


@given(st.integers(-(10**6), 10**6), st.integers(-(10**8), 10**8))
def test_a_retry_after_date_is_counted_from_the_date_header(wait, skew):
    theirs = NOON + timedelta(seconds=skew)
    until = format_datetime(theirs + timedelta(seconds=wait), usegmt=True)
    date = format_datetime(theirs, usegmt=True)
    assert retry_after(until, NOON, Date=date) == min(max(wait, 0), MAX_RETRY_AFTER)


@pytest.mark.parametrize(
    ("value", "wait"),
    [
        ("0", 0.0),
        (" 7 ", 7.0),
        ("1.5", 1.5),
        ("007", 7.0),
        ("301", 300.0),
        ("5, 9", 9.0),
        ("9,5,1.5", 9.0),
        ("5, 301", 300.0),
        ("5, soon", None),
        ("5,", None),
        ("Wed, 01 Jul 2026 12:00:30 GMT", 30.0),
        ("Wednesday, 01-Jul-26 12:00:30 GMT", 30.0),
        ("Wed Jul  1 12:00:30 2026", 30.0),
        ("Wed, 01 Jul 2026 14:00:30 +0200", 30.0),
        ("Wed, 01 Jul 2026 11:00:00 GMT", 0.0),
        ("", None),
        ("-5", None),
        ("+5", None),
        ("1e3", None),
        ("inf", None),
        ("nan", None),
        ("٣", None),
        ("5 seconds", None),
        ("soon", None),
        ("tomorrow, 12:00", None),
    ],
)
def test_retry_after_is_read_in_all_forms(value, wait):
    assert retry_after(value, NOON) == wait


def test_a_retry_after_date_is_ignored_if_no_clock_is_known():
    assert retry_after("Wed, 01 Jul 2026 12:00:30 GMT") is None
    broken = {"Date": "yesterday"}
    assert retry_after("Wed, 01 Jul 2026 12:00:30 GMT", **broken) is None
    assert retry_after("Wed, 01 Jul 2026 12:00:30 GMT", NOON, **broken) == 30.0


def test_without_the_header_there_is_no_wait():
    assert parse_retry_after(CIMultiDict()) is None
