"""The kinds of jobs of the service: one module for each kind, with its `KindRules`.

For a kind of your own, pass your own `kind_rules.KindRules` to ``AdeClient(kinds=[...])``.
"""
