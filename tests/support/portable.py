"""A pytest plugin that takes from adepoll what Windows does not have: ``pytest -p portable``.

It must be loaded before adepoll, so `nox -s portable` does that. The modules of adepoll see `os`,
`signal` and `select` without some names and no `fcntl`; pytest, the tests and other packages keep
them. Event loops refuse signal handlers. A file that this process has open can be neither renamed
nor removed. A test with the marker `posix` is left out.
"""

import asyncio
import builtins
import contextlib
import errno
import functools
import importlib
import os
import stat
import sys
from pathlib import Path

MISSING_MODULES = {"fcntl", "resource", "pwd", "grp", "termios", "uvloop"}
MISSING_NAMES = {
    "os": """
        pread preadv pwrite pwritev fdatasync fchmod fchown chown lchown mkfifo sysconf statvfs
        fork forkpty register_at_fork getuid geteuid getgid getegid getpgid getpgrp killpg
        getxattr setxattr removexattr setsid sched_getaffinity
        O_DIRECTORY O_NOFOLLOW O_NONBLOCK O_CLOEXEC O_SYNC O_DSYNC
    """,
    "signal": """
        SIGHUP SIGKILL SIGPIPE SIGQUIT SIGUSR1 SIGUSR2 SIGALRM SIGTSTP SIGCONT SIGCHLD SIGWINCH
        setitimer pthread_sigmask sigwait siginterrupt
    """,
    "select": """
        PIPE_BUF poll epoll
    """,
}


class WithoutNames:
    """Stands for a module; some of its names are missing."""

    def __init__(self, name):
        self._module = importlib.import_module(name)
        self._missing = MISSING_NAMES[name].split()

    def __getattr__(self, name):
        if name in self._missing:
            raise AttributeError(name)
        return getattr(self._module, name)


def install():
    """Take the names away for good; adepoll must not be imported yet."""
    assert "adepoll" not in sys.modules
    modules = {name: WithoutNames(name) for name in MISSING_NAMES}
    real_import = builtins.__import__

    def import_for_adepoll(name, globals=None, *others, **options):  # noqa: A002 - as in builtins
        if ((globals or {}).get("__name__") or "").partition(".")[0] == "adepoll":
            if name in MISSING_MODULES:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            if name in modules:
                return modules[name]
        return real_import(name, globals, *others, **options)

    builtins.__import__ = import_for_adepoll
    asyncio.SelectorEventLoop.add_signal_handler = _refuse
    asyncio.SelectorEventLoop.remove_signal_handler = _refuse
    for name in ("rename", "replace", "unlink", "remove"):  # and not by SQLite
        setattr(os, name, _unless_open(getattr(os, name)))


def _refuse(*_arguments):
    raise NotImplementedError


def _unless_open(function):
    @functools.wraps(function)
    def guarded(path, *others, **options):
        if not options:  # with dir_fd=, which Windows does not have, shutil removes a tree
            for name in (path, *others):
                if _is_open(name):
                    raise PermissionError(errno.EACCES, "the file is open", os.fspath(name))
        return function(path, *others, **options)

    return guarded


def _is_open(path):
    """Return whether this process has the regular file open."""
    try:
        found = os.lstat(path)
    except (OSError, ValueError):
        return False
    if not stat.S_ISREG(found.st_mode):
        return False
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if os.path.samestat(found, link.stat()):
                return True
    return False


def pytest_collection_modifyitems(config, items):
    config.hook.pytest_deselected(items=[*filter(_is_posix, items)])
    items[:] = [item for item in items if not _is_posix(item)]


def _is_posix(item):
    return item.get_closest_marker("posix") is not None


install()
