"""The process of `forkserver` that has imported adepoll and forks.

``python forking.py FD [MODULE]...``: the descriptor for requests, and what else it imports.
"""

import atexit
import contextlib
import gc
import importlib
import io
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import sys
import threading
import time
import types
from pathlib import Path

from forkclient import ANSWER, is_open

# pyarrow, which only exports need, changes the filters of warnings and need not be installed.
NOT_PRELOADED = ("adepoll.__main__", "adepoll.contrib", "adepoll.tables.arrow")


def preload(names):
    """Import what a command may need, but nothing that only tests or other programs import."""
    sys.path[0] = str(Path.cwd())  # as with -m
    import adepoll  # noqa: PLC0415 - the tests' side does not need it

    for module in pkgutil.walk_packages(adepoll.__path__, "adepoll."):
        if not module.name.startswith(NOT_PRELOADED):
            importlib.import_module(module.name)
    for name in ("ijson", "rich.live", "rich.progress", "rich.table", "uvloop", *names):
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # the collector of a child leaves the shared memory alone


def serve(control):
    """Fork for each request; return in the child, when it is like a new process."""
    signals = signal.valid_signals() - {signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # until a child has its own handlers
    woken, waking = socket.socketpair()
    woken.setblocking(False)
    waking.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(waking.fileno())
    connections = {}  # by pid
    poll = select.poll()
    poll.register(control, select.POLLIN)
    poll.register(woken, select.POLLIN)
    while True:
        ready = {fd for fd, _ in poll.poll()}
        if woken.fileno() in ready:
            woken.recv(4096)
            _reap(connections, poll)
        for pid in [pid for pid, connection in connections.items() if connection in ready]:
            os.kill(pid, signal.SIGKILL)  # nobody waits for it; it is reaped later
            poll.unregister(connections[pid])
        if control.fileno() not in ready:
            continue
        descriptors = _request(control, connections)
        pid = os.fork()
        if not pid:
            for end in (control, woken, waking):
                end.detach()
            _become_new(descriptors)
            return
        connection, *streams = descriptors
        for fd in streams:
            os.close(fd)
        connections[pid] = connection
        poll.register(connection, select.POLLHUP)
        _tell(connection, pid)


def _request(control, connections):
    """Return what comes next: a connection, and the standard streams; or end with the parent."""
    message, descriptors, _, _ = socket.recv_fds(control, 1, 4)
    if not message:
        for pid in connections:
            os.kill(pid, signal.SIGKILL)
        sys.exit()  # as usual, so that coverage is written
    return descriptors


def _reap(connections, poll):
    while connections:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        connection = connections.pop(pid)
        with contextlib.suppress(KeyError):
            poll.unregister(connection)
        _tell(connection, status)
        os.close(connection)


def _tell(connection, number):
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        os.write(connection, ANSWER.pack(number))


def _become_new(descriptors):
    connection, *given = descriptors
    with open(connection, "rb", closefd=False) as stream:
        request = json.loads(stream.readline())
    streams = dict(zip(request["streams"], given, strict=True))
    for number in range(3):
        if number in streams:
            os.dup2(streams[number], number)
        else:
            os.close(number)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.chdir(request["cwd"])
    os.umask(request["umask"])
    os.environ.clear()
    os.environ.update(request["env"])
    time.tzset()
    sys.path[0] = request["cwd"]
    sys.argv[:] = request["arguments"]
    sys.orig_argv[1:] = [*sys.orig_argv[1 : sys.orig_argv.index(__file__)], *sys.argv]
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = _stream(number, name)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if signal.getsignal(number) is not None:  # else faulthandler has it, with -X dev
            signal.signal(number, _disposition(number))
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def _disposition(number):
    """Return what an interpreter that inherits nothing sets."""
    if number == signal.SIGINT:
        return signal.default_int_handler
    return signal.SIG_IGN if number in {signal.SIGPIPE, signal.SIGXFSZ} else signal.SIG_DFL


def _stream(number, name):
    """Open a standard stream as the interpreter does: ``create_stdio`` in ``pylifecycle.c``."""
    before = getattr(sys, name)
    if not is_open(number):
        return None
    mode = "w" if number else "r"
    unbuffered = bool(number) and before.write_through  # by PYTHONUNBUFFERED
    buffer = open(number, f"{mode}b", 0 if unbuffered else -1, closefd=False)  # noqa: SIM115 - it stays
    getattr(buffer, "raw", buffer).name = f"<{name}>"
    stream = io.TextIOWrapper(
        buffer,
        before.encoding,
        before.errors,
        newline="\n",
        line_buffering=not unbuffered and (buffer.isatty() or number == 2),
        write_through=before.write_through,
    )
    stream.mode = mode
    return stream


def run_command():
    """Run what the command line names in a new ``__main__``."""
    what = sys.argv[0]
    module = sys.modules["__main__"] = types.ModuleType("__main__")
    if what == "-m":
        name = sys.argv.pop(1)
        runpy._run_module_as_main(name)
        return
    if what == "-c":
        code = compile(sys.argv.pop(1), "<string>", "exec")
        sys.path[0] = ""
    else:
        code = compile(Path(what).read_bytes(), what, "exec")
        module.__file__ = what
        sys.path[0] = str(Path(what).resolve().parent)
    exec(code, module.__dict__)  # what a command line does


def end(status):
    """End the process as the interpreter does, but without freeing all modules first.

    That takes ten times as long as the rest of a short command. What the command itself has left is
    freed, with its warnings. If anything fails, return: the interpreter tries and reports it again.
    """
    with contextlib.suppress(OSError, ValueError, KeyboardInterrupt):
        threading._shutdown()
        atexit._run_exitfuncs()
        vars(sys.modules["__main__"]).clear()
        gc.collect()
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
        os._exit(status & 0xFF)


def main():
    """Serve; in a child, run the command."""
    with socket.socket(fileno=int(sys.argv[1])) as control:
        preload(sys.argv[2:])
        serve(control)
    try:
        run_command()
    except SystemExit as stop:
        status = 0 if stop.code is None else stop.code
        if not isinstance(status, int):
            raise
    else:
        status = 0
    end(status)
    sys.exit(status)


if __name__ == "__main__":
    main()
