"""How many connections a download should use, and how much each asks for. Pure."""

from typing import Final

from attrs import define, field

PART_BYTES: Final = 2**23
"""The first range that is asked for."""

_MOST_AT_ONCE: Final = 2**26
_MOST_AT_ONCE_OF_FAST: Final = 2**27  # each takes a connection of its own (`bulk`)
_LEAST_AT_ONCE: Final = 2**20
_SECONDS_AT_ONCE: Final = 2.0

_FAST: Final = 1e8  # bytes a second at which one connection is enough
_JUDGED_AFTER: Final = 2**20  # bytes
_JUDGED_FROM: Final = 0.2  # seconds; a fast line is slow at its very beginning
_JUDGED_AGAIN_AFTER: Final = 2.0  # seconds
_WORTH_IT: Final = 1.25


@define(eq=False)
class Width:
    """Judges by the bytes that come.

    One connection that alone is slow gets company, up to the most that are allowed. If two
    seconds later all of them together are not a quarter faster, one is left: then it is the line
    that is full, and others want to use it too.

    Attributes:
        most: Most connections that may be used.
        since: When counting began, in seconds; all times are of that clock.
        wanted: Connections that should be in use.
    """

    most: int
    since: float
    wanted: int = field(default=1, init=False)
    _came: int = field(default=0, init=False)
    _alone: float | None = field(default=None, init=False)
    _settled: bool = field(default=False, init=False)
    _before: float = field(
        default=0.0, init=False
    )  # bytes a second, when one alone was counted last

    def count(self, size: int) -> None:
        """Take in that so many bytes came."""
        self._came += size

    def judge(self, now: float) -> int:
        """Give how many connections should be in use from now."""
        elapsed = now - self.since
        if self._settled or self.most == 1 or elapsed <= 0:
            return self.wanted
        rate = self._came / elapsed
        if self._alone is None:
            if self._came < _JUDGED_AFTER or elapsed < _JUDGED_FROM:
                return self.wanted
            if rate < _FAST:
                self._alone = rate
                self._restart(self.most, now)
            elif elapsed >= _JUDGED_AGAIN_AFTER:
                self._restart(1, now)  # or what was fast at first would count for ever
                self._before = rate
        elif elapsed >= _JUDGED_AGAIN_AFTER:
            self._settled = True
            if rate < _WORTH_IT * self._alone:
                self._restart(1, now)
        return self.wanted

    def is_fast(self, now: float) -> bool:
        """Tell whether one connection is so fast that what is done for each byte is what counts."""
        return self.wanted == 1 and self._rate(now) >= _FAST

    def narrow(self, wanted: int) -> None:
        """Say that the storage serves no more connections than so many."""
        self.wanted = self.most = wanted

    def stretch(self, missing: int, now: float) -> int:
        """Give how many bytes to ask for at once.

        Long requests lose little time between them; short ones let all end together.
        """
        rate = self._rate(now)
        if not rate:
            return PART_BYTES if self.wanted == 1 else _LEAST_AT_ONCE
        if self.wanted > 1:
            most = min(missing // (2 * self.wanted), _MOST_AT_ONCE)
        elif rate >= _FAST:
            most = _MOST_AT_ONCE_OF_FAST
        elif self._alone is None and self.most > 1:
            return PART_BYTES  # or nothing would be left for the company that is to come
        else:
            most = _MOST_AT_ONCE
        wish = int(_SECONDS_AT_ONCE * rate / self.wanted)
        return max(_LEAST_AT_ONCE, min(most, wish))

    def _rate(self, now: float) -> float:
        """Give the bytes a second of all connections; 0 while that is not known."""
        elapsed = now - self.since
        if self._came >= PART_BYTES and elapsed > 0:
            return self._came / elapsed
        return self._before

    def _restart(self, wanted: int, now: float) -> None:
        self.wanted = wanted
        self._before = 0.0
        self.since = now
        self._came = 0
