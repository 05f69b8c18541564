"""More connections where one alone is slow, as long as they bring more together."""

from hypothesis import given
from hypothesis import strategies as st

from adepoll.fetcher.width import PART_BYTES, Width

MIB = 2**20
SECONDS = st.integers(0, 10**7).map(lambda number: number / 1_000)


def play(width, *spells, since=0.0):
    """Let bytes come at these rates for so many seconds each, and give what was wanted after."""
    now, wanted = since, []
    for rate, seconds in spells:
        for _ in range(int(seconds * 10)):
            now += 0.1
            width.count(int(rate / 10))
            width.judge(now)
        wanted.append(width.wanted)
    return wanted


def test_one_connection_begins():
    assert Width(8, 0.0).wanted == 1


def test_a_slow_one_gets_all_the_company_that_is_allowed():
    assert play(Width(8, 0.0), (2 * MIB, 2)) == [8]


def test_a_fast_one_stays_alone():
    assert play(Width(8, 0.0), (500 * MIB, 20)) == [1]


def test_company_that_brings_nothing_is_sent_away_for_good():
    width = Width(8, 0.0)
    assert play(width, (2 * MIB, 1), (2 * MIB, 3), (MIB, 60)) == [8, 1, 1]


def test_company_that_brings_a_quarter_more_stays_for_good():
    width = Width(8, 0.0)
    assert play(width, (2 * MIB, 1), (4 * MIB, 3), (MIB, 60)) == [8, 8, 8]


def test_nothing_is_judged_by_a_few_bytes():
    assert play(Width(8, 0.0), (MIB // 100, 90)) == [1]
    assert play(Width(8, 0.0), (MIB // 100, 101)) == [8]


def test_company_is_not_judged_before_it_had_time_to_come():
    width = Width(8, 0.0)
    play(width, (2 * MIB, 1))
    assert width.wanted == 8
    assert play(width, (0, 0.5), since=1.0) == [8]


def test_one_that_was_fast_and_slows_down_gets_company_soon():
    assert play(Width(8, 0.0), (500 * MIB, 60), (2 * MIB, 3)) == [1, 8]


def test_no_more_than_are_served_are_wanted_again():
    width = Width(8, 0.0)
    play(width, (2 * MIB, 1))
    width.narrow(2)
    assert play(width, (2 * MIB, 1), since=1.0) == [2]
    assert play(width, (2 * MIB, 5), since=2.0) == [1]


@given(most=st.integers(1, 64), steps=st.lists(st.tuples(st.integers(0, 2**30), SECONDS)))
def test_never_more_than_allowed_and_never_none(most, steps):
    width, now = Width(most, 0.0), 0.0
    for size, seconds in steps:
        now += seconds
        width.count(size)
        assert 1 <= width.judge(now) <= most
        assert width.wanted in {1, most}


@given(
    most=st.integers(1, 64),
    missing=st.integers(0, 2**40),
    steps=st.lists(st.tuples(st.integers(0, 2**30), SECONDS)),
)
def test_what_is_asked_for_at_once_is_never_tiny_and_never_endless(most, missing, steps):
    width, now = Width(most, 0.0), 0.0
    assert width.stretch(missing, now) == PART_BYTES
    for size, seconds in steps:
        now += seconds
        width.count(size)
        width.judge(now)
        assert MIB <= width.stretch(missing, now) <= 128 * MIB


def test_a_fast_connection_is_asked_for_more_at_once_than_a_slow_one():
    fast, slow = Width(1, 0.0), Width(1, 0.0)
    play(fast, (30 * MIB, 5))
    play(slow, (3 * MIB, 5))
    assert fast.stretch(2**33, 5.0) > 5 * slow.stretch(2**33, 5.0)


def test_near_the_end_several_connections_are_asked_for_less_so_that_all_end_together():
    width = Width(4, 0.0)
    play(width, (20 * MIB, 1), (60 * MIB, 1))
    assert width.wanted == 4
    far, near = width.stretch(2**33, 2.0), width.stretch(40 * MIB, 2.0)
    assert near <= 40 * MIB // 8 < far
    assert width.stretch(1, 2.0) == MIB


def test_a_connection_that_is_slow_in_its_first_moment_is_not_judged_by_that():
    width = Width(8, 0.0)
    width.count(2 * MIB)
    assert width.judge(0.1) == 1
    width.count(98 * MIB)
    assert width.judge(0.2) == 1


def test_one_that_is_fast_is_known_to_be_and_stays_so_while_counting_begins_anew():
    width = Width(8, 0.0)
    assert not width.is_fast(0.0)
    for tenths in range(1, 50):
        width.count(50 * MIB)
        width.judge(tenths / 10)
        assert width.is_fast(tenths / 10)
        assert width.stretch(2**33, tenths / 10) == 128 * MIB


def test_several_are_not_fast():
    width = Width(8, 0.0)
    play(width, (20 * MIB, 1))
    assert width.wanted == 8
    width.count(2**30)
    assert not width.is_fast(1.1)


def test_nothing_is_taken_from_company_that_may_be_to_come():
    """Of a result of some parts, the first connection would else have all before it is judged."""
    width = Width(4, 0.0)
    width.count(PART_BYTES)
    width.judge(0.15)
    assert width.stretch(64 * MIB, 0.15) == PART_BYTES
    width.count(PART_BYTES // 2)
    assert width.judge(0.2) == 4


def test_one_that_is_to_stay_alone_is_asked_for_much():
    width = Width(1, 0.0)
    width.count(PART_BYTES)
    assert width.stretch(2**33, 0.15) == 64 * MIB
