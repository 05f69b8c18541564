"""Start Python commands by forking a process that has imported adepoll already.

A start costs 1 s of CPU, mostly for imports. `Popen` and `create_subprocess_exec` take the
command line of a real start, and give what the functions of the same names in `subprocess` and
`asyncio` give. The command runs in a process of its own, with its own pid, descriptors,
environment, folder and umask, and ends as usual: it joins threads, runs exit handlers and flushes
streams.

Each set of interpreter options and of modules to `preload` has one server, a single-threaded
process that starts with its first use. It kills a command whose `Popen` is gone, and ends with the
process that started it.
"""

import asyncio
import os
import select
import socket
import subprocess
import sys
import tempfile
from asyncio import base_subprocess
from pathlib import Path

import forkclient
import forking
from forkclient import is_open, receive

WITH_VALUE = {"-W", "-X"}  # options of the interpreter that take a value
READ_AT_START = ("PYTHON", "LC_", "LANG", "COVERAGE")  # variables that only a new process reads
PATIENCE = 120  # seconds until a server must have answered


class Popen(subprocess.Popen):
    """A `subprocess.Popen` whose process is forked; it takes no options about the start itself."""

    _connection = None

    def __init__(self, args, *, preload=(), **options):
        self._preload = tuple(preload)
        super().__init__(args, **options)

    def _execute_child(
        self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo,
        creationflags, shell, p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite,
        restore_signals, gid, gids, uid, umask, start_new_session, process_group,
    ):  # fmt: skip
        options = (
            executable, preexec_fn, gid, gids, uid, tuple(pass_fds), shell, start_new_session,
            process_group, close_fds, restore_signals,
        )  # fmt: skip
        defaults = (None, None, None, None, None, (), False, False, -1, True, True)
        assert options == defaults, "only a real start can do this"
        interpreter, *rest = map(os.fsdecode, args)
        assert interpreter == sys.executable
        options, rest = _split(rest)
        streams = [
            number if fd == -1 else fd for number, fd in enumerate((p2cread, c2pwrite, errwrite))
        ]
        streams = {number: fd for number, fd in enumerate(streams) if is_open(fd)}
        request = {
            "arguments": rest,
            "cwd": str(Path.cwd() / os.fsdecode(cwd or "")),
            "env": dict(os.environ) if env is None else _texts(env),
            "umask": _umask() if umask == -1 else umask,
            "streams": list(streams),
        }
        self._child_created = True
        self._connection = _Server.of(options, self._preload).fork(request, list(streams.values()))
        self.pid = receive(self._connection)
        self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)

    def fileno(self):
        """Return the descriptor that is readable when the process has ended."""
        return self._connection.fileno()

    def _try_wait(self, wait_flags):
        if wait_flags & os.WNOHANG and not select.select([self._connection], [], [], 0)[0]:
            return 0, 0
        self._connection.settimeout(None)  # as long as the caller of `wait` likes
        return self.pid, receive(self._connection)

    def _internal_poll(self, *_, **__):
        if self.returncode is None:
            pid, status = self._try_wait(os.WNOHANG)
            if pid:
                self._handle_exitstatus(status)
        return self.returncode

    def __del__(self, *_, **__):
        if self._connection is not None:
            self._connection.close()  # the server kills what still runs


class _Transport(base_subprocess.BaseSubprocessTransport):
    def _start(self, args, shell, stdin, stdout, stderr, bufsize, **options):
        self._proc = Popen(
            args, stdin=stdin, stdout=stdout, stderr=stderr, bufsize=bufsize, **options
        )
        self._loop.add_reader(self._proc.fileno(), self._ended, self._proc)

    def _ended(self, process):
        self._loop.remove_reader(process.fileno())
        self._process_exited(process.poll())


async def create_subprocess_exec(*command, limit=2**16, **options):
    """Fork a command of this interpreter; start others, and in other locales, for real."""
    command = [*map(os.fspath, command)]
    if not _can_fork(command, options.get("env")):
        options.pop("preload", None)
        return await asyncio.create_subprocess_exec(*command, limit=limit, **options)
    loop = asyncio.get_running_loop()
    protocol = asyncio.subprocess.SubprocessStreamProtocol(limit=limit, loop=loop)
    waiter = loop.create_future()
    streams = [options.pop(name, None) for name in ("stdin", "stdout", "stderr")]
    transport = _Transport(loop, protocol, command, False, *streams, 0, waiter=waiter, **options)
    await waiter
    return asyncio.subprocess.Process(transport, protocol, loop)


def run(command, **options):
    """Fork a command of this interpreter, and run it to its end as `subprocess.run` does."""
    assert _can_fork(command, options.get("env")), "only a real start can do this"
    is_checked = options.pop("check", False)
    if options.pop("capture_output", False):
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with Popen(command, **options) as process:
        out, err = process.communicate(timeout=PATIENCE)
    done = subprocess.CompletedProcess(command, process.returncode, out, err)
    if is_checked:
        done.check_returncode()
    return done


class _Server:
    """A process that forks, as its parent sees it."""

    _running = {}  # noqa: RUF012 - one for each set, until this process ends

    def __init__(self, options, preload):
        self._control, theirs = socket.socketpair()
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - for as long as the server lives
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, *options, forking.__file__, str(theirs.fileno()), *preload],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._said,
                env=ENVIRON,
            )

    @classmethod
    def of(cls, *what):
        if what not in cls._running:
            cls._running[what] = cls(*what)
        return cls._running[what]

    @classmethod
    def stop_all(cls):
        for server in cls._running.values():
            server._control.close()
            server._said.close()
            server.process.wait(PATIENCE)
        cls._running.clear()

    def fork(self, request, descriptors):
        """Return the connection on which the pid comes, and the status when it has ended."""
        ours = None
        try:
            ours = forkclient.ask(self._control, request, descriptors)
            ours.settimeout(PATIENCE)
            select.select([ours], [], [], PATIENCE)
            assert ours.recv(1, socket.MSG_PEEK), "the server has ended"
        except (OSError, AssertionError):
            if ours is not None:
                ours.close()
            said = os.pread(self._said.fileno(), 2**16, 0).decode(errors="replace")
            raise RuntimeError(f"the fork server did not fork; it said: {said}") from None
        return ours


stop_servers = _Server.stop_all


def descriptor(*options):
    """Return the descriptor of the server for these interpreter options, for `forkclient`."""
    return _Server.of(options, ())._control.fileno()


def _split(arguments):
    """Split the arguments of the interpreter into its options, and the rest."""
    position = 0
    while arguments[position].startswith("-") and arguments[position] not in {"-c", "-m"}:
        position += 1 + (arguments[position] in WITH_VALUE)
    return tuple(arguments[:position]), arguments[position:]


def _texts(env):
    return {os.fsdecode(name): os.fsdecode(value) for name, value in env.items()}


def _read_at_start(env):
    env = os.environ if env is None else _texts(env)
    return {name: value for name, value in env.items() if name.startswith(READ_AT_START)}


# What the servers start with. The streams of a command have buffers, as in most shells.
ENVIRON = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
AT_START = _read_at_start(ENVIRON), os.geteuid()


def _can_fork(command, env):
    return command[0] == sys.executable and (_read_at_start(env), os.geteuid()) == AT_START


def _umask():
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
