"""How much a test does by default, and how much `nox -s thorough` adds."""

import os

import pytest


def more(default, extra):
    """Return values for `parametrize`: `default` always run, `extra` only in `nox -s thorough`.

    A tuple holds the values of several parameters.
    """
    rows = [value if isinstance(value, tuple) else (value,) for value in extra]
    return [*default, *(pytest.param(*row, marks=pytest.mark.thorough) for row in rows)]


def seeds(variable, *, default, most):
    """Return the seeds in `default`, and for `nox -s thorough` the others below `most`.

    The environment variable of that name replaces `most`.
    """
    others = range(int(os.environ.get(variable, most)))
    return more(default, [seed for seed in others if seed not in default])


def counts(variable, *, default, most):
    """Return the count `default`, and for `nox -s thorough` the count `most`.

    The environment variable of that name replaces `most`.
    """
    return more([default], [int(os.environ.get(variable, most))])
