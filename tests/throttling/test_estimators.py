import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from limited_service import TokenBucket

from adepoll.throttling.estimators import SLOWEST, Rate, Window

# --- the window ---------------------------------------------------------------------------------


def fill(window):
    while not window.full:
        window.sent()
    return window.in_flight


def sizes_of(window, round_trips):
    sizes = []
    for _ in range(round_trips):
        sizes.append(fill(window))
        for _ in range(sizes[-1]):
            window.ended(window.epoch, succeeded=True)
    return sizes


def test_a_full_window_grows_by_half_with_each_round_trip_up_to_the_limit():
    assert sizes_of(Window(50), 9) == [4, 6, 9, 13, 20, 30, 45, 50, 50]


def test_a_restarted_window_doubles_with_each_round_trip():
    window = Window(50)
    window.restart()
    assert sizes_of(window, 8) == [1, 2, 4, 8, 16, 32, 50, 50]


def test_an_unused_window_does_not_grow():
    window = Window(50)
    for _ in range(100):
        window.sent()
        window.ended(0, succeeded=True)
    assert window.size == 4


def test_failures_do_not_make_a_window_grow():
    window = Window(50)
    for _ in range(fill(window)):
        window.ended(0)
    assert window.size == 4


def test_a_restarted_window_has_size_one_and_ignores_earlier_requests():
    window = Window(50)
    fill(window)
    window.restart()
    assert fill(window) == 5
    window.ended(0, succeeded=True)
    assert window.full
    assert not window.is_at_limit
    assert window.size == 1
    window.ended(1, succeeded=True)
    assert window.size == 2


def test_a_probe_counts_only_against_the_limit():
    window = Window(3)
    assert fill(window) == 3
    assert window.is_at_limit
    window.ended(0)
    assert not window.is_at_limit
    window.sent(is_probe=True)
    assert window.is_at_limit


def test_requests_sent_before_a_restart_count_against_the_limit():
    window = Window(4)
    fill(window)
    window.restart()
    assert window.full
    window.ended(0)
    assert not window.full


def test_the_room_of_a_window_depends_on_its_size_and_the_limit():
    window = Window(5)
    assert window.room == 4
    window.sent()
    window.sent()
    assert window.room == 2
    fill(window)
    window.restart()
    assert window.room == 1  # 4 of 5 are in flight, and the size is 1
    window.sent()
    assert window.room == 0


def test_a_window_has_no_room_while_the_limit_is_in_flight():
    window = Window(4)
    fill(window)
    window.restart()
    assert (window.size, window.in_flight, window.room) == (1, 4, 0)


def test_a_window_starts_with_4_or_a_smaller_limit():
    assert [Window(limit).size for limit in (1, 3, 4, 5, 100)] == [1, 3, 4, 4, 4]


def test_a_new_epoch_keeps_the_size_and_its_growth():
    window = Window(50)
    fill(window)
    window.begin_epoch()
    assert (window.size, window.room) == (4, 4)
    window.ended(0, succeeded=True)
    window.ended(0, succeeded=True)
    assert (window.size, window.room) == (5, 5)


@pytest.mark.parametrize(("concurrent", "size"), [(1, 4), (2, 5)])
def test_a_window_grows_if_at_least_half_of_it_is_used(concurrent, size):
    window = Window(50)
    for _ in range(concurrent):
        window.sent()
    for _ in range(concurrent):
        window.ended(0, succeeded=True)
    assert window.size == size


def test_a_window_grows_at_most_by_the_number_of_concurrent_requests():
    window = Window(50)
    window.restart()
    sizes_of(window, 3)
    for _ in range(4):
        window.sent()
    for _ in range(4):
        window.ended(1, succeeded=True)
    for _ in range(3):
        window.sent()
        window.ended(1, succeeded=True)
    assert window.size == 12


EVENTS = ["send", "probe", "success", "failure", "restart", "new epoch"]


@given(st.integers(1, 40), st.lists(st.sampled_from(EVENTS)))
def test_a_window_is_never_exceeded_and_forgets_no_request(limit, events):
    window, epochs, probes = Window(limit), [], []
    for event in events:
        if event == "restart":
            window.restart()
        elif event == "new epoch":
            window.begin_epoch()
        elif event == "send" and not window.full:
            window.sent()
            epochs.append(window.epoch)
        elif event == "probe" and not window.is_at_limit:
            window.sent(is_probe=True)
            probes.append(window.epoch)
        elif event in {"success", "failure"} and epochs:
            window.ended(epochs.pop(0), succeeded=event == "success")
        assert window.in_flight == len(epochs) + len(probes) <= limit
        assert window.room == min(
            window.size - epochs.count(window.epoch), limit - window.in_flight
        )
        assert 1 <= window.size <= limit
    for epoch in epochs:
        window.ended(epoch)
    for epoch in probes:
        window.ended(epoch, is_probe=True)
    assert window.room == window.size
    window.restart()
    assert window.in_flight == 0
    assert not window.full


# --- the rate -----------------------------------------------------------------------------------


def at_full_speed(rate, start, seconds, most=math.inf):
    """Send as many requests as the rate allows, all successful; return all rates and the time.

    Stop when the rate reaches `most` requests per second.
    """
    values, now = [], start
    while now < start + seconds and rate.value is not None and rate.value < most:
        values.append(rate.value)
        now += 1 / rate.value
        rate.sent(now, held_back=True)
        rate.granted += 1
    return values, now


def found(limit=10.0, seconds=120.0):
    """Return a rate that has found a limit of `limit`, and the time at which its gate opens.

    Each 429 closes the gate for a second. The bucket of the service holds tokens for a second.
    """
    rate, bucket, now = Rate(), TokenBucket(limit, limit), 0.0
    while True:
        now += 1 / (rate.value or 5 * limit)
        rate.sent(now, held_back=rate.value is not None)
        if bucket.admits(now):
            rate.granted += 1
            continue
        rate.throttled(now, sent_at=now, gate_opens_at=now + 1)
        now += 1
        if now > seconds:
            return rate, now


def test_requests_of_an_earlier_epoch_count_towards_the_limit_of_a_window():
    window = Window(4)
    assert window.size == 4
    for _ in range(3):
        window.sent()
    window.begin_epoch()
    assert not window.full
    window.sent()
    assert window.full


def test_the_first_429_sets_the_rate_to_what_was_granted():
    rate = Rate()
    for n in range(100):
        assert not rate.sent(n / 10, held_back=True)
        rate.granted += 1
    assert rate.value is None
    rate.throttled(10.0, sent_at=9.9, gate_opens_at=10.0)
    assert rate.value == pytest.approx(10.0, rel=0.02)
    assert rate.interval == 1 / rate.value
    assert rate.sent(10.1, held_back=True)
    assert rate.interval == 1 / rate.value


def test_the_first_rate_is_lower_if_the_gate_is_closed_for_longer_than_requests_were_sent():
    """A bucket that was full has granted many requests in a short time."""
    rate = Rate()
    for n in range(50):
        rate.sent(n / 50, held_back=True)
        rate.granted += 1
    rate.throttled(1.0, sent_at=0.99, gate_opens_at=5.0)
    assert rate.value < 0.5 * 50


@pytest.mark.parametrize("limit", [1.0, 10.0, 100.0])
def test_a_limit_is_found(limit):
    rate, _ = found(limit)
    assert 0.85 * limit < rate.value < 1.1 * limit


def test_the_rate_hardly_grows_and_then_faster_and_faster():
    rate, now = found()
    values, _ = at_full_speed(rate, now, 1_000, most=3 * rate.value)
    rises = [later - value for value, later in pairwise(values)]
    assert rises == sorted(rises)
    assert values[len(values) // 4] < 1.1 * values[0]


def test_a_limit_without_further_429s_is_forgotten_within_five_minutes():
    rate, now = found()
    _, then = at_full_speed(rate, now, 1_000)
    assert rate.value is None
    assert 10 < then - now < 300


def test_a_rate_that_delays_no_request_stays_the_same():
    rate, now = found()
    value = rate.value
    for n in range(1_000):
        assert not rate.sent(now + n, held_back=False)
    assert rate.value == value


def test_the_rate_does_not_grow_during_idle_time():
    rate, now = found()
    value = rate.value
    rate.sent(now, held_back=True)
    rate.sent(now + 3_600, held_back=True)
    assert rate.value == pytest.approx(value, rel=0.01)


def test_a_429_at_a_steady_limit_lowers_the_rate_slightly():
    rate, now = found()
    _, now = at_full_speed(rate, now, 60, most=1.05 * rate.value)
    before = rate.value
    rate.throttled(now, sent_at=now, gate_opens_at=now + 1)
    assert 0.9 * before < rate.value < before


def test_a_gate_that_opens_too_early_lowers_the_rate_only_if_that_happens_again():
    rate, now = found()
    before = rate.value
    rates = []
    for _ in range(3):
        now += 1
        rate.sent(now, held_back=True)
        rate.throttled(now, sent_at=now, gate_opens_at=now + 1)
        rates.append(rate.value)
    assert rates[0] == pytest.approx(before, rel=0.01)
    assert rates[1] < 0.7 * before
    assert rates[2] < 0.7 * rates[1]


def test_429s_in_quick_succession_lower_the_rate_strongly():
    rate, now = found(100.0)
    start = rate.value
    for _ in range(6):
        before = rate.value
        for _ in range(3):
            now += 1 / rate.value
            rate.sent(now, held_back=True)
            rate.granted += 1
        rate.throttled(now, sent_at=now, gate_opens_at=now + 2.0)
        now += 2.0
        assert rate.value < 0.75 * before
    assert rate.value < start / 10


def test_the_rate_recovers_after_many_429s():
    rate, now = found()
    start = rate.value
    for _ in range(1_000):
        rate.sent(now, held_back=False)
        rate.throttled(now, sent_at=now, gate_opens_at=now + 30)
        now += 30
    assert rate.value >= start / 10
    values, _ = at_full_speed(rate, now, 60)
    assert values[-1] > 0.8 * start


@given(
    st.lists(
        st.tuples(st.sampled_from(["sent", "held", "granted", "refused"]), st.floats(0, 100)),
        max_size=80,
    )
)
def test_a_rate_is_never_slower_than_the_slowest_and_always_a_number(events):
    rate, now = Rate(), 0.0
    sent = False
    for event, passed in events:
        now += passed
        if event in {"sent", "held"}:
            rate.sent(now, held_back=event == "held")
            sent = True
        elif event == "granted":
            rate.granted += 1
        elif sent:
            rate.throttled(now, sent_at=now - min(passed, 1.0), gate_opens_at=now + passed)
        assert rate.value is None or SLOWEST <= rate.value < math.inf


def test_a_longer_closed_gate_delays_the_next_search():
    def steady_for(wait):
        rate, now = found()
        _, now = at_full_speed(rate, now, 60, most=1.02 * rate.value)
        rate.throttled(now, sent_at=now, gate_opens_at=now + wait)
        values, _ = at_full_speed(rate, now + wait, 400, most=1.05 * rate.value)
        return len(values)

    assert steady_for(4.0) > 1.5 * steady_for(0.5)


# --- the rate, by its formulas ------------------------------------------------------------------


class Sender:
    """Sends requests at given times, and remembers what the formulas of `Rate` need.

    The first 429 comes after `granted` requests, one every `every` seconds from the time 100 on.
    """

    def __init__(self, granted=20, every=0.5):
        self.rate, self.now = Rate(), 100.0
        self.rate.sent(self.now, held_back=False)
        for _ in range(granted):
            self.now += every
            self.rate.sent(self.now, held_back=False)
            self.rate.granted += 1

    def throttle(self, closed_for=0.0, *, after=0.0, sent_ago=0.0):
        self.now += after
        self.rate.throttled(
            self.now, sent_at=self.now - sent_ago, gate_opens_at=self.now + closed_for
        )
        return self.rate.value

    def go_on(self, count, *, every=None, held_back=True, granted=True):
        """Send requests at the interval of the rate; return its values."""
        values = []
        for _ in range(count):
            self.now += self.rate.interval if every is None else every
            self.rate.sent(self.now, held_back=held_back)
            self.rate.granted += granted
            values.append(self.rate.value)
        return values


@pytest.mark.parametrize("closed_for", [0.0, 3.0, 60.0])
@pytest.mark.parametrize(("granted", "after"), [(20, 0.0), (20, 2.0), (0, 0.5)])
def test_the_first_rate_is_that_of_the_granted_requests_for_the_time_with_an_open_gate(
    granted, after, closed_for
):
    sender = Sender(granted)
    # Time without requests counts for one second at most, or a round trip at least.
    lasted = 0.5 * granted + max(after, 0.01)
    share = (lasted / (lasted + closed_for)) ** 0.6
    expected = max(granted, 1) / lasted * share
    assert sender.throttle(closed_for, after=after) == pytest.approx(max(expected, 0.1))
    assert sender.rate.interval == pytest.approx(1 / sender.rate.value)


def test_of_a_pause_between_requests_one_second_counts_before_a_rate_is_known():
    sender = Sender(1, every=0.5)
    sender.rate.sent(sender.now + 30.0, held_back=False)
    sender.now += 30.0
    assert sender.throttle() == pytest.approx(1 / (0.5 + 1.0 + 0.01))


def rise_of(*, base, lasted, closed_for, decrease):
    """Return the seconds in which the rate doubles."""
    rise = max(11.0 + 40.0 * max(closed_for - 1.1, 0.0), 12.0 / base) * 0.06 / decrease
    return min(rise, 200.0, max(8.0 * lasted, 4.0))


@pytest.mark.parametrize(
    ("every", "closed_for", "rise"),
    [
        (0.5, 0.0, 4.0),  # the first rate lasted for no time
        (0.5, 9.0, 4.0),
    ],
)
def test_the_rate_grows_with_the_fourth_power_of_the_time(every, closed_for, rise):
    sender = Sender(20, every)
    base = sender.throttle(closed_for)
    sender.now += closed_for
    grown, expected = 0.0, []
    for _ in range(8):
        grown += 1 / (base * (1 + (grown / rise) ** 4))
        expected.append(base * (1 + (grown / rise) ** 4))
    assert sender.go_on(8) == pytest.approx(expected)


def test_after_the_limit_was_disproved_the_next_rate_grows_like_the_first_one():
    sender = Sender()
    sender.throttle()
    sender.go_on(9)
    sender.throttle()
    while sender.rate.value is not None:
        sender.go_on(1)
    base, grown, expected = sender.throttle(), 0.0, []
    for _ in range(99):
        grown += 1 / (base * (1 + (grown / 4.0) ** 4))
        expected.append(base * (1 + (grown / 4.0) ** 4))
    assert sender.go_on(99) == pytest.approx(expected)


def test_requests_that_are_not_held_back_do_not_raise_the_rate_nor_its_average():
    sender = Sender()
    base = sender.throttle()
    assert sender.go_on(50, held_back=False) == [base] * 50
    assert sender.go_on(1) == pytest.approx([base * (1 + (1 / base / 4.0) ** 4)])


def test_of_a_pause_two_intervals_count_for_the_growth():
    sender = Sender()
    base = sender.throttle()
    assert sender.go_on(1, every=99.0) == pytest.approx([base * (1 + (2 / base / 4.0) ** 4)])
    assert sender.rate.sent(sender.now, held_back=True) is False, "no time has passed"
    assert sender.rate.sent(sender.now - 1.0, held_back=True) is False


def average_of(base, values, intervals):
    """Return the recent average of the rate; `values` are those before each step."""
    average, grown = base, 0.0
    for value, passed in zip(values, intervals, strict=True):
        grown += passed
        average += (value - average) * min(1.0, passed / min(0.4 * grown, 2.0))
    return average


@pytest.mark.parametrize("closed_for", [0.0, 4.0])
@pytest.mark.parametrize("steps", [5, 9])
def test_a_429_lowers_the_recent_average_of_the_rate(steps, closed_for):
    sender = Sender()
    base = sender.throttle()
    values = [base, *sender.go_on(steps)]
    intervals = [1 / value for value in values[:-1]]
    average = average_of(base, values[:-1], intervals)
    deviation = (0.5 + abs(math.log(average / base))) / 2
    decrease = min(max(deviation, 0.01), 0.06)
    # The new `closed_for` is recorded afterwards: that of the last 429 was 0.
    assert sender.throttle(closed_for) == pytest.approx(average * (1 - decrease))
    lasted = max(sum(intervals), steps / values[-1])
    base = sender.rate.value
    rise = rise_of(base=base, lasted=lasted, closed_for=closed_for, decrease=decrease)
    sender.now += closed_for
    (value,) = sender.go_on(1)
    assert value == pytest.approx(base * (1 + (1 / base / rise) ** 4))


@pytest.mark.parametrize("steps", [1, 3, 40])
def test_a_quick_429_after_a_closed_gate_lowers_the_rate_by_up_to_40_percent(steps):
    sender, closed_for = Sender(), 2.0
    base = sender.throttle(closed_for)
    sender.now += closed_for
    sender.go_on(steps, held_back=False)
    lasted = steps / base
    counted = closed_for * min(1.0, 3.0 / lasted)
    share = math.sqrt(lasted / (lasted + counted))
    assert sender.throttle() == pytest.approx(base * min(0.94, max(share, 0.6)))


def test_the_more_the_estimates_agree_the_less_a_429_lowers_the_rate():
    sender, deviation, decreases = Sender(), 0.5, []
    estimate = sender.throttle()
    for _ in range(16):
        values = [sender.rate.value]
        while values[-1] < 1.06 * values[0]:
            values += sender.go_on(1)
        intervals = [1 / value for value in values[:-1]]
        average = average_of(values[0], values[:-1], intervals)
        deviation = (deviation + abs(math.log(average / estimate))) / 2
        estimate = average
        decreases.append(min(max(deviation, 0.01), 0.06))
        assert sender.throttle() == pytest.approx(average * (1 - decreases[-1]))
    assert decreases[0] == 0.06
    assert min(decreases) < 0.03


@pytest.mark.parametrize(("sent_ago", "lasted"), [(0.0, 5.0), (1.5, 3.5), (99.0, 0.5)])
def test_the_time_after_a_throttled_request_was_sent_does_not_count(sent_ago, lasted):
    """At least the time that the granted requests take counts: half a second here."""
    sender = Sender()
    base = sender.throttle(2.0)
    sender.now += 2.0
    for _ in range(10):
        sender.now += 5.0 / 10
        sender.rate.sent(sender.now, held_back=False)
    sender.rate.granted = 1
    lasted = max(lasted, 1 / base)
    share = math.sqrt(lasted / (lasted + 2.0 * min(1.0, 3.0 / lasted)))
    assert sender.throttle(sent_ago=sent_ago) == pytest.approx(base * min(0.94, max(share, 0.6)))


def test_without_a_granted_request_the_second_429_lowers_the_rate_to_65_percent():
    sender = Sender()
    base = sender.throttle()
    values = []
    for _ in range(12):
        sender.go_on(1, granted=False)
        before = sender.rate.value
        values.append(sender.throttle())
        if len(values) == 1:
            assert values[0] == before
    # Down to a quarter of the last rate at which a request was granted.
    assert values[1] == pytest.approx(0.65 * values[0], rel=0.01)
    assert values[-1] < values[-2] or values[-1] == pytest.approx(0.25 * base)
    assert min(values) >= 0.25 * base * 0.65


@pytest.mark.parametrize(("open_for", "most"), [(30.0, 64.0), (90.0, 8.0)])
def test_a_limit_is_forgotten_at_a_multiple_of_the_last_rate(open_for, most):
    """At 8 times after a minute with requests, and at 64 times before."""
    sender = Sender(granted=5, every=1.0)
    base = sender.throttle()
    steps = math.ceil(open_for * base)
    sender.go_on(steps, held_back=False)
    values = []
    while sender.rate.value is not None and len(values) < 10_000:
        values += sender.go_on(1)
    last = [value for value in values if value is not None][-1]
    assert values[-1] is None
    assert sender.rate.interval == 0.0
    assert last <= most * base
    assert last > most / 2 * base


def test_the_gate_can_stay_closed_for_longer():
    sender = Sender()
    first = sender.throttle(1.0)
    sender.go_on(10, held_back=False)
    base = sender.throttle(1.0)
    sender.rate.gate_closed_until(sender.now + 3.0)
    sender.now += 3.0
    rise = rise_of(base=base, lasted=10 / first, closed_for=3.0, decrease=0.06)
    assert sender.go_on(1) == pytest.approx([base * (1 + (1 / base / rise) ** 4)])
