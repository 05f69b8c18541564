"""What is there, what is claimed and what is missing always make up the whole."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from adepoll.fetcher.spans import Spans

SIZE = 60
SPAN = st.tuples(st.integers(0, SIZE), st.integers(0, SIZE))


def bytes_of(spans):
    return {at for start, stop in spans for at in range(start, stop)}


@given(done=st.lists(SPAN))
def test_spans_are_kept_in_order_and_apart_whatever_they_are_made_of(done):
    spans = Spans(SIZE, done)
    assert bytes_of(spans.done) == bytes_of(done)
    flat = [edge for span in spans.done for edge in span]
    assert flat == sorted(set(flat))  # no two of them touch, and none is empty


@given(done=st.lists(SPAN))
def test_missing_counts_the_bytes_and_the_frontier_is_the_first_of_them(done):
    spans = Spans(SIZE, done)
    gaps = set(range(SIZE)) - bytes_of(done)
    assert spans.missing == len(gaps)
    assert spans.frontier == min(gaps, default=SIZE)


@given(done=st.lists(SPAN), most=st.integers(1, 2 * SIZE))
def test_claims_cover_just_what_is_missing_first_bytes_first(done, most):
    spans = Spans(SIZE, done)
    claims = []
    while claim := spans.claim(most):
        claims.append((claim.start, claim.stop))
    assert claims == sorted(claims)
    assert all(0 < stop - start <= most for start, stop in claims)
    assert sum(stop - start for start, stop in claims) == spans.missing  # none of them twice
    assert bytes_of(claims) == set(range(SIZE)) - bytes_of(done)


@pytest.mark.parametrize("size", [0, 1])
def test_nothing_is_claimed_of_what_is_all_there(size):
    spans = Spans(size, [(0, size)])
    assert spans.claim(5) is None
    assert (spans.missing, spans.frontier) == (0, size)


def test_what_is_released_is_the_first_to_be_claimed_again():
    spans = Spans(30)
    first, second = spans.claim(10), spans.claim(10)
    spans.advance(first, 4)
    spans.advance(second, 10)
    spans.release(first)
    spans.release(second)
    again = spans.claim(10)
    assert (again.start, again.stop) == (4, 10)  # up to what is there, not a byte further
    assert (spans.claim(99).start, spans.frontier) == (20, 4)


class Download(RuleBasedStateMachine):
    """Connections that come, bring bytes, break off and leave, in any order."""

    @initialize(size=st.integers(0, SIZE), done=st.lists(SPAN, max_size=3))
    def begin(self, size, done):
        done = [(start, stop) for start, stop in done if stop <= size]
        self.there = bytes_of(done)
        self.spans = Spans(size, done)
        self.claims = []

    @rule(most=st.integers(1, 20))
    def claim(self, most):
        claimed = bytes_of((claim.start, claim.stop) for claim in self.claims)
        claim = self.spans.claim(most)
        free = set(range(self.spans.size)) - self.there - claimed
        if claim is None:
            assert not free
            return
        assert claim.start == min(free)
        assert bytes_of([(claim.start, claim.stop)]) <= free
        self.claims.append(claim)

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def advance(self, data):
        claim = data.draw(st.sampled_from(self.claims))
        count = data.draw(st.integers(0, claim.stop - claim.start))
        self.there |= set(range(claim.start, claim.start + count))
        self.spans.advance(claim, count)

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def release(self, data):
        claim = data.draw(st.sampled_from(self.claims))
        self.claims.remove(claim)
        self.spans.release(claim)

    @invariant()
    def nothing_is_lost(self):
        if hasattr(self, "spans"):
            assert bytes_of(self.spans.done) == self.there
            assert self.spans.missing == self.spans.size - len(self.there)


TestDownload = Download.TestCase
