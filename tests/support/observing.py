"""What a server tells of itself: for how long its event loop was blocked, and what it holds."""

import asyncio
import gc
import os
import sys
import time
from pathlib import Path

TICK = 0.002


class Blocked:
    """How long the event loop was blocked at most, in seconds.

    By the clock, and by the time of the CPU: on a machine that is busy with other processes, the
    first says more of the machine than of the server.
    """

    def __init__(self):
        """Nothing yet."""
        self._most = self._most_cpu = 0.0
        self._due = self._cpu = 0.0
        self._timer = None

    def start(self):
        """Look on."""
        self._due, self._cpu = asyncio.get_running_loop().time(), time.thread_time()
        self._tick()

    def stop(self):
        """Look away."""
        self._timer.cancel()

    def _tick(self):
        self._note()
        self._due += TICK
        self._timer = asyncio.get_running_loop().call_at(self._due, self._tick)

    def _note(self):
        now, cpu = asyncio.get_running_loop().time(), time.thread_time()
        self._most = max(self._most, now - self._due)
        self._most_cpu = max(self._most_cpu, cpu - self._cpu)
        self._due, self._cpu = now, cpu

    def take(self):
        """Give both, and begin anew: what was done until now counts no more."""
        self._note()
        most, self._most, self._most_cpu = (self._most, self._most_cpu), 0.0, 0.0
        return most


def spare_the_collector():
    """Have the longest pauses of the garbage collector go, as docs/servers.md advises."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 1_000)


def resident():
    """Give the bytes of memory that this process holds, what its allocator keeps included."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def in_use():
    """Give how many blocks of memory are in use, when what nobody can reach is gone."""
    gc.collect()
    return sys.getallocatedblocks()


def connected(port):
    """Give how many sockets there are at the server's end of connections to this port (proc(5))."""
    lines = Path("/proc/net/tcp").read_text("ascii").splitlines()[1:]
    ends = [line.split() for line in lines]
    return sum(
        1
        for _, local, _, state, *_, inode in (end[:10] for end in ends)
        if local.endswith(f":{port:04X}") and state != _LISTENING and int(inode)
    )


_LISTENING = "0A"
