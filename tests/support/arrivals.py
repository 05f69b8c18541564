"""Whether servers, in other processes, have read the requests that a client has sent to them."""

from pathlib import Path

import aiohttp
from waiting import until

_TCP = Path("/proc/net/tcp")  # proc(5)
_ESTABLISHED = "01"


class Arrivals:
    """Counts requests. Pass `traces` to the `aiohttp.ClientSession` that sends them."""

    def __init__(self):
        self._sent = 0
        trace = aiohttp.TraceConfig()
        trace.on_request_headers_sent.append(self._count)
        self.traces = [trace]

    async def _count(self, *_):
        self._sent += 1

    async def until_read(self, port, tasks):
        """Wait until the requests of new tasks are sent to a port, and its servers have read them.

        Call this before the tasks take their first step.
        """
        expected = self._sent + len(tasks)
        await until(lambda: self._sent == expected and not _unread(port))


def _unread(port):
    """Return the number of connections to this port that are not accepted, or have unread bytes."""
    if not _TCP.exists():
        return 0
    count = 0
    for line in _TCP.read_text("ascii").splitlines()[1:]:
        _, local, _, state, queues, *_, inode = line.split()[:10]
        if local.endswith(f":{port:04X}") and state == _ESTABLISHED:
            count += int(inode) == 0 or int(queues.partition(":")[2], 16) > 0
    return count
