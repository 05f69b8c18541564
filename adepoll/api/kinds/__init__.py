"""The kinds of jobs that adepoll can poll: one module per kind.

A kind is a `job_kind.JobKind`, which is passed to `AdeClient(kind=...)`. Client and watcher use any
kind; fetcher and journal read and write the results of `v1_extract` only.
"""
