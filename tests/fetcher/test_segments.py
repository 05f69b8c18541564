"""Present, claimed and missing bytes always make up the whole file."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from adepoll.fetcher.segments import Segments

SIZE = 60
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
