"""More connections where one alone is slow, as long as they bring more together."""

from hypothesis import given
from hypothesis import strategies as st

from adepoll.fetcher.segments import FIRST_SEGMENT, ConnectionPlan

MIB = 2**20
SECONDS = st.integers(0, 10**7).map(lambda number: number / 1_000)


def play(plan, *spells, since=0.0):
    """Let bytes come at these rates for so many seconds each, and give what was wanted after."""
    now, wanted = since, []
    for rate, seconds in spells:
        for _ in range(int(seconds * 10)):
            now += 0.1
            plan.received += int(rate / 10)
            plan.update(now)
        wanted.append(plan.wanted)
    return wanted


def test_one_connection_begins():
    assert ConnectionPlan(8, 0.0).wanted == 1


def test_a_slow_one_gets_all_the_company_that_is_allowed():
    assert play(ConnectionPlan(8, 0.0), (2 * MIB, 2)) == [8]


def test_a_fast_one_stays_alone():
    assert play(ConnectionPlan(8, 0.0), (500 * MIB, 20)) == [1]


def test_company_that_brings_nothing_is_sent_away_for_good():
    plan = ConnectionPlan(8, 0.0)
    assert play(plan, (2 * MIB, 1), (2 * MIB, 3), (MIB, 60)) == [8, 1, 1]


def test_company_that_brings_a_quarter_more_stays_for_good():
    plan = ConnectionPlan(8, 0.0)
    assert play(plan, (2 * MIB, 1), (4 * MIB, 3), (MIB, 60)) == [8, 8, 8]


def test_nothing_is_judged_by_a_few_bytes():
    assert play(ConnectionPlan(8, 0.0), (MIB // 100, 90)) == [1]
    assert play(ConnectionPlan(8, 0.0), (MIB // 100, 101)) == [8]


def test_company_is_not_judged_before_it_had_time_to_come():
    plan = ConnectionPlan(8, 0.0)
    play(plan, (2 * MIB, 1))
    assert plan.wanted == 8
    assert play(plan, (0, 0.5), since=1.0) == [8]


def test_one_that_was_fast_and_slows_down_gets_company_soon():
    assert play(ConnectionPlan(8, 0.0), (500 * MIB, 60), (2 * MIB, 3)) == [1, 8]


def test_no_more_than_are_served_are_wanted_again():
    plan = ConnectionPlan(8, 0.0)
    play(plan, (2 * MIB, 1))
    plan.limit(2)
    assert play(plan, (2 * MIB, 1), since=1.0) == [2]
    assert play(plan, (2 * MIB, 5), since=2.0) == [1]


@given(allowed=st.integers(1, 64), steps=st.lists(st.tuples(st.integers(0, 2**30), SECONDS)))
def test_never_more_than_allowed_and_never_none(allowed, steps):
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
def test_what_is_asked_for_at_once_is_never_tiny_and_never_endless(allowed, missing, steps):
    plan, now = ConnectionPlan(allowed, 0.0), 0.0
    assert plan.segment_size(missing, now) == FIRST_SEGMENT
    for size, seconds in steps:
        now += seconds
        plan.received += size
        plan.update(now)
        assert MIB <= plan.segment_size(missing, now) <= 128 * MIB


def test_a_fast_connection_is_asked_for_more_at_once_than_a_slow_one():
    fast, slow = ConnectionPlan(1, 0.0), ConnectionPlan(1, 0.0)
    play(fast, (30 * MIB, 5))
    play(slow, (3 * MIB, 5))
    assert fast.segment_size(2**33, 5.0) > 5 * slow.segment_size(2**33, 5.0)


def test_near_the_end_several_connections_are_asked_for_less_so_that_all_end_together():
    plan = ConnectionPlan(4, 0.0)
    play(plan, (20 * MIB, 1), (60 * MIB, 1))
    assert plan.wanted == 4
    far, near = plan.segment_size(2**33, 2.0), plan.segment_size(40 * MIB, 2.0)
    assert near <= 40 * MIB // 8 < far
    assert plan.segment_size(1, 2.0) == MIB


def test_a_connection_that_is_slow_in_its_first_moment_is_not_judged_by_that():
    plan = ConnectionPlan(8, 0.0)
    plan.received += 2 * MIB
    assert plan.update(0.1) == 1
    plan.received += 98 * MIB
    assert plan.update(0.2) == 1


def test_one_that_is_fast_is_known_to_be_and_stays_so_while_counting_begins_anew():
    plan = ConnectionPlan(8, 0.0)
    assert not plan.is_fast(0.0)
    for tenths in range(1, 50):
        plan.received += 50 * MIB
        plan.update(tenths / 10)
        assert plan.is_fast(tenths / 10)
        assert plan.segment_size(2**33, tenths / 10) == 128 * MIB


def test_several_are_not_fast():
    plan = ConnectionPlan(8, 0.0)
    play(plan, (20 * MIB, 1))
    assert plan.wanted == 8
    plan.received += 2**30
    assert not plan.is_fast(1.1)


def test_nothing_is_taken_from_company_that_may_be_to_come():
    """Of a result of some parts, the first connection would else have all before it is judged."""
    plan = ConnectionPlan(4, 0.0)
    plan.received += FIRST_SEGMENT
    plan.update(0.15)
    assert plan.segment_size(64 * MIB, 0.15) == FIRST_SEGMENT
    plan.received += FIRST_SEGMENT // 2
    assert plan.update(0.2) == 4


def test_one_that_is_to_stay_alone_is_asked_for_much():
    plan = ConnectionPlan(1, 0.0)
    plan.received += FIRST_SEGMENT
    assert plan.segment_size(2**33, 0.15) == 64 * MIB
