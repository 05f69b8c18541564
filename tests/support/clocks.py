"""A clock for emulators that stands still until a test moves it."""

T0 = 1_750_000_000.5
"""Unix seconds at which every `Clock` starts: 2025-06-15 15:06:40 UTC, and half a second."""


class Clock:
    """Unix seconds that stand still until they are moved."""

    def __init__(self):
        self.now = T0

    def __call__(self):
        return self.now
