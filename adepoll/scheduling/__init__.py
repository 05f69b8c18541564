"""Decides when a job is polled next, without I/O. `schedules` is the entry point.

Internal: `adepoll` exports the public names.
"""
