"""The command ``adepoll`` of a shell in a test: ``python -I -S forkclient.py FD ARGUMENT...``.

It inherits the descriptor FD of a fork server, and has it fork ``python ARGUMENT...``. It passes
signals on, and ends as the forked process does. A real start of the command takes 1 s of CPU and
this one 0.05 s, so it must import little.
"""

import json
import os
import signal
import socket
import struct
import sys

ANSWER = struct.Struct("!q")  # a pid, or a wait status
PASSED_ON = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


def is_open(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def ask(control, request, descriptors):
    """Ask a fork server for a process; return the connection on which it answers."""
    ours, theirs = socket.socketpair()
    try:
        with theirs:
            socket.send_fds(control, [b"f"], [theirs.fileno(), *descriptors])
        ours.sendall(json.dumps(request).encode() + b"\n")
    except OSError:
        ours.close()
        raise
    return ours


def receive(connection):
    return ANSWER.unpack(connection.recv(ANSWER.size, socket.MSG_WAITALL))[0]


def main():
    control = socket.socket(fileno=int(sys.argv[1]))
    mask = os.umask(0o077)
    streams = [fd for fd in range(3) if is_open(fd)]
    request = {
        "arguments": sys.argv[2:],
        "cwd": os.getcwd(),  # noqa: PTH109 - pathlib takes as long as all the rest
        "env": dict(os.environ),
        "umask": mask,
        "streams": streams,
    }
    connection = ask(control, request, streams)
    pid = receive(connection)
    for number in PASSED_ON:
        signal.signal(number, lambda number, _: os.kill(pid, number))
    status = os.waitstatus_to_exitcode(receive(connection))
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


if __name__ == "__main__":
    main()
