"""Clocks for emulators: one stands still until a test moves it, one leaps."""

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
