"""Lists the open files of this process, and raises their limit for tests with many sockets."""

import contextlib
import resource
from pathlib import Path

import pytest


@contextlib.contextmanager
def many_files(count):
    """Let this process open `count` files; skip the test where the system does not allow this."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        pytest.skip(f"only {hard} files may be open here")
    is_enough = soft == resource.RLIM_INFINITY or soft >= count
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft if is_enough else count, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def open_files_in(folder):
    """Return the files of that folder that this process has open."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            path = link.readlink()
            if path.is_relative_to(folder):
                found.append(path)
    return found
