"""Measurements of a server process: how long its event loop was blocked, and its memory."""

import asyncio
import gc
import os
import sys
import time
from pathlib import Path

TICK = 0.002  # seconds


class LoopBlocking:
    """Longest time for which the event loop was blocked, in seconds.

    It is measured by the clock and by the thread's CPU time. On a machine that is busy with other
    processes, only the CPU time depends on the server alone.
    """

    def __init__(self):
        """Measure nothing before `start`."""
        self._max = self._max_cpu = 0.0
        self._due = self._cpu = 0.0
        self._timer = None

    def start(self):
        """Start to measure."""
        self._due, self._cpu = asyncio.get_running_loop().time(), time.thread_time()
        self._tick()

    def stop(self):
        """Stop to measure."""
        self._timer.cancel()

    def _tick(self):
        self._measure()
        self._due += TICK
        self._timer = asyncio.get_running_loop().call_at(self._due, self._tick)

    def _measure(self):
        now, cpu = asyncio.get_running_loop().time(), time.thread_time()
        self._max = max(self._max, now - self._due)
        self._max_cpu = max(self._max_cpu, cpu - self._cpu)
        self._due, self._cpu = now, cpu

    def take(self):
        """Return the longest times by clock and by CPU since the last call, and reset them."""
        self._measure()
        longest, self._max, self._max_cpu = (self._max, self._max_cpu), 0.0, 0.0
        return longest


def tune_garbage_collector():
    """Shorten the pauses of the garbage collector, as docs/servers.md advises."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 1_000)


def resident_bytes():
    """Return the resident memory of this process, including what its allocator keeps."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def allocated_blocks():
    """Return the number of allocated memory blocks after a garbage collection."""
    gc.collect()
    return sys.getallocatedblocks()


def connections(port):
    """Return the number of accepted connections to this port (proc(5))."""
    lines = Path("/proc/net/tcp").read_text("ascii").splitlines()[1:]
    sockets = [line.split() for line in lines]
    return sum(
        1
        for _, local, _, state, *_, inode in (fields[:10] for fields in sockets)
        if local.endswith(f":{port:04X}") and state != _LISTENING and int(inode)
    )


_LISTENING = "0A"
