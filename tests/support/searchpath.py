"""The search path of processes that start `adepoll` by its name."""

import os
import shlex
import sys
from pathlib import Path

import forkclient


def search_path(folder, *, descriptor=None):
    """Return a `PATH` whose `adepoll` and `python` are those that run the tests.

    The tests may run from a checkout that nobody installed, so the command is written to `folder`.
    With the `descriptor` of a fork server, which processes must inherit, `adepoll` is forked.
    """
    start = [sys.executable, "-m", "adepoll"]
    if descriptor is not None:
        start[1:1] = ["-I", "-S", forkclient.__file__, str(descriptor)]
    command = Path(folder, "adepoll")
    command.write_text(f'#!/bin/sh\nexec {shlex.join(start)} "$@"\n', "utf-8")
    command.chmod(0o755)
    return os.pathsep.join([str(folder), str(Path(sys.executable).parent), os.environ["PATH"]])
