"""Raises the limit of open files for tests with many sockets."""

import resource
from contextlib import contextmanager

import pytest


@contextmanager
def many_files(count):
    """Let this process open `count` files; skip the test where the system does not allow this."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        pytest.skip(f"only {hard} files may be open here")
    is_enough = soft == resource.RLIM_INFINITY or soft >= count
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft if is_enough else count, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
