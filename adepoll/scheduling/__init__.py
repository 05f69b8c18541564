"""The schedules, and what adepoll learns about how long jobs take. No I/O.

`schedules` is the entry point. Internal: `adepoll` exports the public names.
"""
