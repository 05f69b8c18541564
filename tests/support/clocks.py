"""Clocks for emulators, which stand still or leap, and a loop that does not wait."""

import asyncio
import selectors
import time

T0 = 1_750_000_000.5
"""Unix seconds at which every `Clock` starts: 2025-06-15 15:06:40 UTC, and half a second."""


class Clock:
    """Unix seconds that stand still until they are moved."""

    def __init__(self):
        self.now = T0

    def __call__(self):
        return self.now


class LeapingClock:
    """Unix seconds, and `ahead` seconds more."""

    def __init__(self):
        self.ahead = 0.0

    def __call__(self):
        return time.time() + self.ahead


class _SkippingSelector(selectors.DefaultSelector):
    """Waits for at most `GRACE` real seconds, and counts the others as `skipped`."""

    GRACE = 0.02

    def __init__(self):
        super().__init__()
        self.skipped = 0.0

    def select(self, timeout=None):
        if timeout is None or timeout <= self.GRACE:
            return super().select(timeout)
        events = super().select(self.GRACE)
        if not events:
            self.skipped += timeout - self.GRACE
        return events


class IdleSkippingLoop(asyncio.SelectorEventLoop):
    """A loop with real sockets and real time, which does not wait for timers.

    When no socket has been ready for 0.02 s, the next timer fires immediately. All peers must run
    in this loop, and no thread: another process or a thread might be working meanwhile.
    """

    def __init__(self):
        self._skipping = _SkippingSelector()
        super().__init__(self._skipping)

    def time(self):
        return time.monotonic() + self._skipping.skipped
