"""The kinds of jobs that adepoll can poll: one module per kind, each with its `KindRules`.

A kind of your own is a `kind_rules.KindRules`, passed to ``AdeClient(kinds=[...])``.
"""
