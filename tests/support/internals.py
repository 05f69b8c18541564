"""What tests can only see from inside: no public interface shows what must not be left behind.

All such accesses are in this module, so that a change of the implementation meets one file.
"""

import asyncio


def timers():
    """Return the timers that are set on the running loop; asyncio lists tasks, but no timers."""
    return [timer for timer in asyncio.get_running_loop()._scheduled if not timer.cancelled()]
