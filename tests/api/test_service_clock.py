import math
from email.utils import formatdate
from math import floor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adepoll.api import service_clock
from adepoll.api.service_clock import ServiceClock

NOON = 1_782_907_200  # Wed, 01 Jul 2026 12:00:00 GMT


def dated(unix_time: float) -> str:
    return formatdate(floor(unix_time), usegmt=True)


@pytest.fixture
def service():
    return ServiceClock()


def test_the_time_is_unknown_before_the_first_date(service):
    assert service.unix_time(0.0) is None
    service.record(None, 0.0, 0.1)
    assert service.unix_time(1.0) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "Thu, 01 Jan 1970 00:00:00 GMT",
        "Fri, 31 Dec 9999 23:59:59 GMT",
        "Fri, 31 Dec 9999 23:59:59 -2359",
        "Fri, 31 Dec 1999 23:59:59 GMT",
        "Wed, 01 Jul 99999999999 12:00:00 GMT",
    ],
)
def test_unreadable_and_absurd_dates_are_ignored(service, text):
    service.record(text, 0.0, 0.1)
    assert service.unix_time(1.0) is None


def test_one_date_is_accurate_to_half_a_second_and_the_latency(service):
    service.record(dated(NOON), 100.0, 100.2)
    assert service.unix_time(100.2) == pytest.approx(NOON + 0.6)
    assert service.unix_time(200.2) == pytest.approx(NOON + 100.6)


def test_dates_around_a_change_of_the_second_are_accurate(service):
    service.record(dated(NOON), 100.96, 100.98)
    service.record(dated(NOON + 1), 101.02, 101.04)
    assert service.unix_time(101.0) == pytest.approx(NOON + 1, abs=0.05)


def test_a_clock_that_was_set_is_followed_with_the_next_date(service):
    for second in range(10):
        service.record(dated(NOON + second), 100.0 + second, 100.1 + second)
    service.record(dated(NOON - 3600), 110.0, 110.1)
    assert service.unix_time(110.1) == pytest.approx(NOON - 3600, abs=1.1)


def test_after_a_jump_the_clock_is_in_the_middle_of_the_new_bounds(service):
    service.record(dated(NOON), 100.0, 100.0)
    service.record(dated(NOON - 3600), 110.0, 110.5)
    # The header was made between 110.0 and 110.5, in the second that it names.
    assert service.unix_time(110.5) == NOON - 3600 + (0.0 + 1.5) / 2


def test_drift_is_followed(service):
    """A drift of ten parts per million adds up to 0.86 s in a day."""
    for minute in range(24 * 60):
        for now in (60.0 * minute + 0.37 * (minute % 3), 60.0 * minute + 30.0):
            service.record(dated(NOON + now * (1 + 10e-6)), now - 0.01, now + 0.01)
    assert service.unix_time(now) == pytest.approx(NOON + now * (1 + 10e-6), abs=0.6)


def test_each_date_text_is_parsed_once(service, monkeypatch):
    parsed = []
    service_clock._unix_time.cache_clear()
    service_clock.parse_http_date.cache_clear()
    parse = service_clock.parsedate_to_datetime
    monkeypatch.setattr(
        service_clock, "parsedate_to_datetime", lambda text: parsed.append(text) or parse(text)
    )
    for poll in range(100):
        service.record(dated(NOON + poll / 40), poll / 40, poll / 40)
    assert parsed == [dated(NOON), dated(NOON + 1), dated(NOON + 2)]


def test_one_date_per_hundredth_of_a_second_is_enough(service):
    assert service.enough_until == -math.inf
    service.record("no date", 99.0, 100.0)
    assert service.enough_until == -math.inf
    service.record(dated(NOON), 99.0, 100.0)
    assert service.enough_until == 99.01
    service.record(dated(NOON), 98.0, 100.1)  # sent before, and slow
    assert service.enough_until == 99.01


@given(
    offset=st.floats(1e9, 4e9),
    answers=st.lists(
        st.tuples(st.floats(0, 5), st.floats(0, 2), st.floats(0, 2)), min_size=1, max_size=60
    ),
)
def test_the_error_of_the_estimate_is_bounded_by_the_narrowest_response(offset, answers):
    """It is at most half of the narrowest bound, for any responses."""
    service, now, narrowest = ServiceClock(), 0.0, math.inf
    for pause, there, back in answers:
        sent_at = now + pause
        received_at = sent_at + there + back
        service.record(dated(offset + sent_at + there), sent_at, received_at)
        now = received_at
        narrowest = min(narrowest, 1.0 + there + back)
        off = abs(service.unix_time(now) - offset - now)
        assert off <= narrowest / 2 + 50e-6 * now + 1e-5


@given(
    offset=st.floats(1e9, 4e9),
    most=st.floats(0.01, 0.3),
    latencies=st.lists(st.tuples(st.floats(0, 0.5), st.floats(0, 0.5)), min_size=150, max_size=150),
)
def test_after_150_dates_the_error_is_at_most_the_latency(offset, most, latencies):
    """Responses every 20 ms for three seconds: some just before a change of the second."""
    service = ServiceClock()
    for number, (there, back) in enumerate(latencies):
        sent_at = number * 0.02
        made_at, received_at = sent_at + there * most, sent_at + (there + back) * most
        service.record(dated(offset + made_at), sent_at, received_at)
    assert abs(service.unix_time(3.0) - offset - 3.0) <= most + 0.02 + 50e-6 * 3 + 1e-5


@pytest.mark.parametrize(
    ("text", "is_used"),
    [
        ("Sat, 01 Jan 2000 00:00:00 GMT", True),
        ("Tue, 31 Dec 2199 23:59:59 GMT", True),
        ("Wed, 01 Jan 2200 00:00:00 GMT", False),
        ("Sat, 01 Jan 2000 00:00:00", True),  # without a zone
    ],
)
def test_dates_of_two_centuries_are_plausible(service, text, is_used):
    service.record(text, 100.0, 100.0)
    assert (service.unix_time(100.0) is not None) is is_used


@pytest.mark.parametrize("passed", [4_000.0, 20_000.0])
def test_bounds_widen_by_50_microseconds_per_second(service, passed):
    """The second date agrees with the first one only if a clock has drifted by half a second."""
    service.record(dated(NOON), 100.0, 100.0)
    late = 100.5 + passed
    service.record(dated(NOON + passed), late, late)
    drift = 50e-6 * (passed + 0.5)
    lower, upper = max(-drift, -0.5), min(1.0 + drift, 0.5)
    assert service.unix_time(late) - (NOON + passed + 0.5) == pytest.approx((lower + upper) / 2)


def test_a_response_that_arrived_before_the_last_one_widens_no_bounds(service):
    service.record(dated(NOON), 100.0, 100.0)
    service.record(dated(NOON), 100.75, 100.75)
    assert service.unix_time(100.0) == pytest.approx(NOON + 0.125)
    service.record(dated(NOON - 10_000), -9_900.25, -9_900.25)  # its bounds are wider
    assert service.unix_time(100.0) == pytest.approx(NOON + 0.125)
