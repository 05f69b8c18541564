"""adepoll for programs without asyncio: `wait`, `watch`, `download`, and a `Session` with batches.

A session runs the asyncio library in one background thread. It works in scripts and threads, and in
notebooks, where it does not use the event loop of the notebook.
"""

from adepoll.sync.functions import download, wait, watch
from adepoll.sync.session import Batch, Session

__all__ = ["Batch", "Session", "download", "wait", "watch"]
