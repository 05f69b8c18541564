"""Ports of loopback for servers that get their port as an argument, and keep it over a restart."""

import random
import socket

# Below those that Linux and macOS give to whoever asks for any port, so nobody gets it meanwhile.
_PORTS = range(20_000, 32_000)
_RANDOM = random.SystemRandom()  # with a seed, all processes that run tests would try the same


def free_port():
    """Return a port that is free now, and that no process gets by binding port 0."""
    while True:
        port = _RANDOM.choice(_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
