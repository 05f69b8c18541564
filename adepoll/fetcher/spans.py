"""Which bytes of a file are there, and which are being fetched. Pure."""

from collections.abc import Iterable

from attrs import define, field


def merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Give the same bytes in spans that are in order, and apart from each other."""
    apart: list[tuple[int, int]] = []
    for start, stop in sorted(span for span in spans if span[0] < span[1]):
        if apart and start <= apart[-1][1]:
            apart[-1] = (apart[-1][0], max(stop, apart[-1][1]))
        else:
            apart.append((start, stop))
    return apart


@define(eq=False)
class Claim:
    """Bytes that somebody fetches.

    Attributes:
        start: The next that is to come.
        stop: The one after the last.
    """

    start: int
    stop: int


@define(eq=False)
class Spans:
    """The bytes of a file of known size: there, claimed, or missing.

    Attributes:
        size: Bytes in all.
        done: Spans that are there, each as (start, stop), in order, apart from each other.
    """

    size: int
    done: list[tuple[int, int]] = field(factory=list, converter=merged)
    _claims: list[Claim] = field(factory=list, init=False)

    @property
    def missing(self) -> int:
        """How many bytes are not there yet."""
        return self.size - sum(stop - start for start, stop in self.done)

    @property
    def frontier(self) -> int:
        """Up to where all is there from the first byte on."""
        return self.done[0][1] if self.done and self.done[0][0] == 0 else 0

    def claim(self, most: int) -> Claim | None:
        """Give the first bytes that nobody fetches, so many at most; None where there are none."""
        taken = merged([*self.done, *((claim.start, claim.stop) for claim in self._claims)])
        at = 0
        for start, stop in [*taken, (self.size, self.size)]:
            if at < start:
                claim = Claim(at, min(start, at + most))
                self._claims.append(claim)
                return claim
            at = stop
        return None

    def advance(self, claim: Claim, count: int) -> None:
        """Say that the next bytes of a claim are there."""
        self.done = merged([*self.done, (claim.start, claim.start + count)])
        claim.start += count

    def release(self, claim: Claim) -> None:
        """Say that nobody fetches what is left of a claim."""
        self._claims.remove(claim)
