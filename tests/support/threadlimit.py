"""The limit of threads of a system, as if it were reached."""

import threading
from contextlib import contextmanager

import pytest


@contextmanager
def no_thread():
    """Make every start of a thread fail."""

    def refuse(_thread):
        raise RuntimeError("can't start new thread")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        yield
