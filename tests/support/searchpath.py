"""The search path of processes that start `adepoll` by its name."""

import os
import shlex
import sys
from pathlib import Path


def search_path(folder):
    """Return a `PATH` whose `adepoll` and `python` are those that run the tests.

    The tests may run from a checkout that nobody installed, so the command is written to `folder`.
    """
    command = Path(folder, "adepoll")
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m adepoll "$@"\n', "utf-8")
    command.chmod(0o755)
    return os.pathsep.join([str(folder), str(Path(sys.executable).parent), os.environ["PATH"]])
