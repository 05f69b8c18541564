"""Decides when a job is polled next, by pure functions. `schedules` is the entry point.

Internal: `adepoll` exports the public names.
"""
