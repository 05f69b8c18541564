"""Segments always make up the whole file; several connections are used if they are faster."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from adepoll.fetcher.segments import FIRST_SEGMENT, ConnectionPlan, Segments

SIZE = 60
MIB = 2**20
SECONDS = st.integers(0, 10**7).map(lambda number: number / 1_000)
SPAN = st.tuples(st.integers(0, SIZE), st.integers(0, SIZE))


def bytes_of(spans):
    return {at for start, stop in spans for at in range(start, stop)}


@given(present=st.lists(SPAN))
def test_spans_are_sorted_and_disjoint(present):
    segments = Segments(SIZE, present)
    assert bytes_of(segments.present) == bytes_of(present)
    flat = [edge for span in segments.present for edge in span]
    assert flat == sorted(set(flat))  # no two spans touch, and none is empty


@given(present=st.lists(SPAN))
def test_missing_bytes_are_counted_and_the_prefix_ends_at_the_first(present):
    segments = Segments(SIZE, present)
    gaps = set(range(SIZE)) - bytes_of(present)
    assert segments.missing == len(gaps)
    assert segments.present_prefix == min(gaps, default=SIZE)


@given(present=st.lists(SPAN), max_bytes=st.integers(1, 2 * SIZE))
def test_claims_cover_exactly_the_missing_bytes_in_order(present, max_bytes):
    segments = Segments(SIZE, present)
    claims = []
    while claim := segments.claim(max_bytes):
        claims.append((claim.start, claim.stop))
    assert claims == sorted(claims)
    assert all(0 < stop - start <= max_bytes for start, stop in claims)
    assert sum(stop - start for start, stop in claims) == segments.missing  # none twice
    assert bytes_of(claims) == set(range(SIZE)) - bytes_of(present)


@pytest.mark.parametrize("size", [0, 1])
def test_nothing_is_claimed_of_a_complete_file(size):
    segments = Segments(size, [(0, size)])
    assert segments.claim(5) is None
    assert (segments.missing, segments.present_prefix) == (0, size)


def test_released_bytes_are_claimed_again_first():
    segments = Segments(30)
    first, second = segments.claim(10), segments.claim(10)
    segments.advance(first, 4)
    segments.advance(second, 10)
    segments.release(first)
    segments.release(second)
    again = segments.claim(10)
    assert (again.start, again.stop) == (4, 10)  # up to the present bytes
    assert (segments.claim(99).start, segments.present_prefix) == (20, 4)


class Download(RuleBasedStateMachine):
    """Connections that start, receive bytes, break and end, in any order."""

    @initialize(size=st.integers(0, SIZE), present=st.lists(SPAN, max_size=3))
    def begin(self, size, present):
        present = [(start, stop) for start, stop in present if stop <= size]
        self.present = bytes_of(present)
        self.segments = Segments(size, present)
        self.claims = []

    @rule(max_bytes=st.integers(1, 20))
    def claim(self, max_bytes):
        claimed = bytes_of((claim.start, claim.stop) for claim in self.claims)
        claim = self.segments.claim(max_bytes)
        free = set(range(self.segments.size)) - self.present - claimed
        if claim is None:
            assert not free
            return
        assert claim.start == min(free)
        assert bytes_of([(claim.start, claim.stop)]) <= free
        self.claims.append(claim)

    @precondition(lambda self: any(claim.start < claim.stop for claim in self.claims))
    @rule(data=st.data())
    def advance(self, data):
        incomplete = [claim for claim in self.claims if claim.start < claim.stop]
        claim = data.draw(st.sampled_from(incomplete))
        count = data.draw(st.integers(1, claim.stop - claim.start))
        self.present |= set(range(claim.start, claim.start + count))
        self.segments.advance(claim, count)

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def release(self, data):
        claim = data.draw(st.sampled_from(self.claims))
        self.claims.remove(claim)
        self.segments.release(claim)

    @invariant()
    def nothing_is_lost(self):
        if hasattr(self, "segments"):
            assert bytes_of(self.segments.present) == self.present
            assert self.segments.missing == self.segments.size - len(self.present)


TestDownload = Download.TestCase


def play(plan, *spells, since=0.0):
    """Simulate (bytes per second, seconds) in turn; return the wanted connections after each."""
    now, wanted = since, []
    for rate, seconds in spells:
        for _ in range(int(seconds * 10)):
            now += 0.1
            plan.received += int(rate / 10)
            plan.update(now)
        wanted.append(plan.wanted)
    return wanted


def test_a_download_starts_with_one_connection():
    assert ConnectionPlan(8, 0.0).wanted == 1


def test_a_slow_connection_is_joined_by_all_allowed_ones():
    assert play(ConnectionPlan(8, 0.0), (2 * MIB, 2)) == [8]


def test_a_new_measurement_begins_without_bytes():
    plan = ConnectionPlan(8, 0.0)
    plan.received = 2 * MIB
    assert plan.update(1.0) == 8
    assert (plan.received, plan.since) == (0, 1.0)


def test_a_fast_connection_stays_single():
    assert play(ConnectionPlan(8, 0.0), (500 * MIB, 20)) == [1]


def test_connections_without_speedup_are_closed_for_good():
    plan = ConnectionPlan(8, 0.0)
    assert play(plan, (2 * MIB, 1), (2 * MIB, 3), (MIB, 60)) == [8, 1, 1]


def test_connections_with_a_speedup_of_a_quarter_stay_for_good():
    plan = ConnectionPlan(8, 0.0)
    assert play(plan, (2 * MIB, 1), (4 * MIB, 3), (MIB, 60)) == [8, 8, 8]


def test_no_time_gives_no_rate():
    plan = ConnectionPlan(8, 0.0)
    plan.received = FIRST_SEGMENT
    assert plan.segment_size(MIB, 0.0) == FIRST_SEGMENT
    assert plan.update(0.0) == 1


def test_less_than_a_mebibyte_decides_nothing():
    assert play(ConnectionPlan(8, 0.0), (MIB // 100, 90)) == [1]
    assert play(ConnectionPlan(8, 0.0), (MIB // 100, 101)) == [8]


def test_new_connections_are_not_judged_in_their_first_seconds():
    plan = ConnectionPlan(8, 0.0)
    play(plan, (2 * MIB, 1))
    assert plan.wanted == 8
    assert play(plan, (0, 0.5), since=1.0) == [8]


def test_a_connection_that_slows_down_is_joined_within_seconds():
    assert play(ConnectionPlan(8, 0.0), (500 * MIB, 60), (2 * MIB, 3)) == [1, 8]


def test_a_limit_of_the_storage_is_not_exceeded_again():
    plan = ConnectionPlan(8, 0.0)
    play(plan, (2 * MIB, 1))
    plan.limit(2)
    assert play(plan, (2 * MIB, 1), since=1.0) == [2]
    assert play(plan, (2 * MIB, 5), since=2.0) == [1]


def test_a_limit_never_adds_connections():
    plan = ConnectionPlan(8, 0.0)
    plan.limit(4)
    assert (plan.wanted, plan.allowed) == (1, 4)
    plan.limit(6)
    assert (plan.wanted, plan.allowed) == (1, 4)
    assert play(plan, (2 * MIB, 1)) == [4]


@given(allowed=st.integers(1, 64), steps=st.lists(st.tuples(st.integers(0, 2**30), SECONDS)))
def test_there_is_at_least_one_connection_and_at_most_the_allowed_number(allowed, steps):
    plan, now = ConnectionPlan(allowed, 0.0), 0.0
    for size, seconds in steps:
        now += seconds
        plan.received += size
        assert 1 <= plan.update(now) <= allowed
        assert plan.wanted in {1, allowed}


@given(
    allowed=st.integers(1, 64),
    missing=st.integers(0, 2**40),
    steps=st.lists(st.tuples(st.integers(0, 2**30), SECONDS)),
)
def test_segments_have_1_to_128_mebibytes(allowed, missing, steps):
    plan, now = ConnectionPlan(allowed, 0.0), 0.0
    assert plan.segment_size(missing, now) == FIRST_SEGMENT
    for size, seconds in steps:
        now += seconds
        plan.received += size
        plan.update(now)
        assert MIB <= plan.segment_size(missing, now) <= 128 * MIB


def test_a_fast_connection_gets_larger_segments_than_a_slow_one():
    fast, slow = ConnectionPlan(1, 0.0), ConnectionPlan(1, 0.0)
    play(fast, (30 * MIB, 5))
    play(slow, (3 * MIB, 5))
    assert fast.segment_size(2**33, 5.0) > 5 * slow.segment_size(2**33, 5.0)


def test_near_the_end_several_connections_get_smaller_segments():
    plan = ConnectionPlan(4, 0.0)
    play(plan, (20 * MIB, 1), (60 * MIB, 1))
    assert plan.wanted == 4
    far, near = plan.segment_size(2**33, 2.0), plan.segment_size(40 * MIB, 2.0)
    assert near <= 40 * MIB // 8 < far
    assert plan.segment_size(1, 2.0) == MIB


def test_the_first_moments_of_a_connection_decide_nothing():
    plan = ConnectionPlan(8, 0.0)
    plan.received += 2 * MIB
    assert plan.update(0.1) == 1
    plan.received += 98 * MIB
    assert plan.update(0.2) == 1


def test_a_fast_connection_counts_as_fast_while_the_measurement_restarts():
    plan = ConnectionPlan(8, 0.0)
    assert not plan.is_fast(0.0)
    for tenths in range(1, 50):
        plan.received += 50 * MIB
        plan.update(tenths / 10)
        assert plan.is_fast(tenths / 10)
        assert plan.segment_size(2**33, tenths / 10) == 128 * MIB


def test_several_connections_do_not_count_as_fast():
    plan = ConnectionPlan(8, 0.0)
    play(plan, (20 * MIB, 1))
    assert plan.wanted == 8
    plan.received += 2**30
    assert not plan.is_fast(1.1)


def test_an_unmeasured_connection_leaves_work_for_others():
    """Otherwise the first connection would claim all of a small result before it is measured."""
    plan = ConnectionPlan(4, 0.0)
    plan.received += FIRST_SEGMENT
    plan.update(0.15)
    assert plan.segment_size(64 * MIB, 0.15) == FIRST_SEGMENT
    plan.received += FIRST_SEGMENT // 2
    assert plan.update(0.2) == 4


def test_a_single_allowed_connection_gets_large_segments():
    plan = ConnectionPlan(1, 0.0)
    plan.received += FIRST_SEGMENT
    assert plan.segment_size(2**33, 0.15) == 64 * MIB


def measured(received, seconds, *, allowed=8, single_rate=None):
    """Return a plan after one measurement of a single connection, or of all after a slow one."""
    plan = ConnectionPlan(allowed, 0.0)
    if single_rate is not None:
        plan.received = single_rate
        plan.update(1.0)
        assert plan.wanted == allowed
        plan.received = received
        plan.update(1.0 + seconds)
        return plan
    plan.received = received
    plan.update(seconds)
    return plan


@pytest.mark.parametrize(
    ("received", "seconds", "wanted"),
    [
        (MIB, 0.25, 8),
        (MIB - 1, 0.25, 1),
        (MIB, 0.19, 1),
        (MIB, 0.2, 8),
        (10**8, 1.0, 1),  # just fast
        (10**8 - 1, 1.0, 8),
    ],
)
def test_a_measured_slow_connection_is_joined_by_others(received, seconds, wanted):
    assert measured(received, seconds).wanted == wanted


@pytest.mark.parametrize(
    ("received", "seconds", "wanted"),
    [(20 * MIB, 1.9, 8), (20 * MIB, 2.0, 8), (20 * MIB - 1, 2.0, 1), (20 * MIB - 1, 1.9, 8)],
)
def test_others_stay_if_they_are_faster_by_a_quarter(received, seconds, wanted):
    assert measured(received, seconds, single_rate=8 * MIB).wanted == wanted


@pytest.mark.parametrize(
    ("received", "seconds", "is_fast"),
    [(10**8, 1.0, True), (10**8 - 1, 1.0, False), (FIRST_SEGMENT - 1, 0.01, False)],
)
def test_a_single_connection_is_fast_from_100_megabytes_per_second_on(received, seconds, is_fast):
    assert measured(received, seconds, allowed=1).is_fast(seconds) is is_fast
    assert ConnectionPlan(1, 0.0).update(5.0) == 1


@pytest.mark.parametrize(
    ("allowed", "received", "seconds", "size"),
    [
        (1, FIRST_SEGMENT, 1.0, 2 * FIRST_SEGMENT),  # what arrives in two seconds
        (1, FIRST_SEGMENT, 16.0, MIB),
        (1, FIRST_SEGMENT, 32.0, MIB),  # and at least one mebibyte
        (1, FIRST_SEGMENT, 0.2, 64 * MIB),  # at most 64 mebibytes
        (1, 10**8, 1.0, 128 * MIB),  # or 128 of a fast connection
        (8, FIRST_SEGMENT, 0.1, FIRST_SEGMENT),  # until the connection is measured
    ],
)
def test_the_size_of_a_segment_follows_the_rate(allowed, received, seconds, size):
    plan = ConnectionPlan(allowed, 0.0)
    plan.received = received
    assert plan.segment_size(2**40, seconds) == size


@pytest.mark.parametrize(
    ("missing", "size"), [(2**40, 5 * MIB), (80 * MIB, 5 * MIB), (48 * MIB, 3 * MIB), (0, MIB)]
)
def test_several_connections_share_the_rate_and_the_missing_bytes(missing, size):
    plan = measured(20 * MIB, 1.0, single_rate=8 * MIB)
    assert plan.wanted == 8
    assert plan.segment_size(missing, 2.0) == size
