"""A forked process is like one that was started: each test runs with both, and expects the same."""

import asyncio
import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import forkserver
import pytest
from commandline import adepoll, started
from terminals import read_all
from waiting import supervised, until

from adepoll.emulator import Emulator

SUPPORT = Path(__file__).parent / "support"

STATE = """
import asyncio, json, os, signal, sys, threading, time, warnings
before = os.umask(0)
print(json.dumps({
    "arguments": sys.argv,
    "original": sys.orig_argv,
    "cwd": os.getcwd(),
    "first on the path": sys.path[0],
    "umask": before,
    "environment": dict(os.environ),
    "zone": time.tzname,
    "descriptors": [fd for fd in range(100) if os.path.exists(f"/dev/fd/{fd}")],
    "inheritable": [os.get_inheritable(fd) for fd in range(3)],
    "streams": [
        (s.name, s.mode, s.encoding, s.errors, s.line_buffering, s.write_through, s.newlines,
        getattr(s.buffer, "raw", s.buffer).name, s.isatty(), s is getattr(sys, f"__{name}__"))
        for name in ("stdin", "stdout", "stderr") for s in [getattr(sys, name)]
    ],
    "dispositions": {number: repr(signal.getsignal(number)) for number in range(1, 32)},
    "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
    "wakeup": signal.set_wakeup_fd(-1),
    "warnings": sys.warnoptions,
    "filters": repr(warnings.filters[0]),
    "flags": repr(sys.flags),
    "threads": threading.active_count(),
    "loop": repr(asyncio._get_running_loop()),
    "main": [name for name in sorted(vars(sys.modules["__main__"])) if name[:2] != "__"],
    "name": __name__,
}))
"""


@pytest.fixture(params=["forked", "real"])
def start(request):
    forking = request.param == "forked"
    return forkserver.create_subprocess_exec if forking else asyncio.create_subprocess_exec


async def end_of(start, code, *arguments, **options):
    command = [sys.executable, "-W", "error", "-c", code, *arguments]
    process = await start(*command, **{"stdin": -1, "stdout": -1, "stderr": -1} | options)
    async with supervised(process):
        out, err = await process.communicate()
    return process.returncode, out, err


@pytest.mark.parametrize("options", [["-W", "error"], ["-W", "error", "-X", "dev"]])
async def test_a_forked_process_finds_itself_in_the_state_of_a_started_one(options, tmp_path):
    env = {**os.environ, "TZ": "Asia/Kathmandu", "LATER": "\udcff é"}
    found = []
    for start in (asyncio.create_subprocess_exec, forkserver.create_subprocess_exec):
        process = await start(
            *(sys.executable, *options, "-c", STATE, "one", "two words", "-W"),
            stdin=-1,
            stdout=-1,
            stderr=-1,
            cwd=tmp_path,
            env=env,
            umask=0o027,
        )
        async with supervised(process):
            out, err = await process.communicate()
        assert err == b""
        found.append(json.loads(out))
    real, forked = found
    assert forked == real
    assert real["umask"] == 0o027
    assert real["descriptors"][:3] == [0, 1, 2]


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("pass", 0),
        ("import sys; sys.exit(7)", 7),
        ("import sys; sys.exit('words')", 1),
        ("raise ValueError('words')", 1),
        ("raise KeyboardInterrupt", -signal.SIGINT),
        ("import os; os._exit(9)", 9),
        ("import os; os.abort()", -signal.SIGABRT),
        ("import os; os.kill(os.getpid(), 9)", -signal.SIGKILL),
        ("import os; os.kill(os.getpid(), 15)", -signal.SIGTERM),
    ],
)
async def test_its_status_is_that_of_its_end(start, code, status):
    found, _, err = await end_of(start, code)
    assert found == status
    assert (b"words" in err) == ("words" in code)


async def test_the_interpreter_ends_it_with_all_that_belongs_to_an_end(start):
    code = """
import atexit, logging, threading, time
atexit.register(print, "exit handler")
logging.warning("once")
def last():
    threading.main_thread().join(0.1)
    print("thread")
threading.Thread(target=last).start()
class Kept:
    def __del__(self):
        print("freed")
kept = Kept()
kept.itself = kept
print("main", end="")
"""
    assert await end_of(start, code) == (
        0,
        b"mainthread\nexit handler\nfreed\n",
        b"WARNING:root:once\n",
    )


@pytest.mark.parametrize("where", ["a full disk", "a closed pipe"])
async def test_what_cannot_be_flushed_at_its_end_gives_the_same_status(where):
    found = []
    for start in (asyncio.create_subprocess_exec, forkserver.create_subprocess_exec):
        if where == "a full disk":
            write = os.open("/dev/full", os.O_WRONLY)
        else:
            read, write = os.pipe()
            os.close(read)
        process = await start(
            *(sys.executable, "-W", "error", "-m", "adepoll", "--version"), stdout=write, stderr=-1
        )
        os.close(write)
        async with supervised(process):
            _, err = await process.communicate()
        found.append((process.returncode, err.splitlines()[-1:]))
    assert found[0] == found[1]
    assert found[0][0] > 0


async def test_its_streams_are_those_it_was_given(start, tmp_path):
    ours, theirs = pty.openpty()
    code = "import os; print([os.isatty(fd) for fd in range(3)]); os.write(2, b'to the file')"
    with (tmp_path / "err").open("wb") as file:
        status, _, _ = await end_of(start, code, stdin=theirs, stdout=theirs, stderr=file)
    os.close(theirs)
    assert status == 0
    assert read_all(ours) == b"[True, True, False]\r\n"
    os.close(ours)
    assert (tmp_path / "err").read_bytes() == b"to the file"
    _, out, _ = await end_of(
        start, "import os; os.write(2, b'one'); os.write(1, b'two')", stderr=-2
    )
    assert out == b"onetwo"


async def test_stdin_comes_and_ends(start):
    process = await start(
        *(sys.executable, "-W", "error", "-c", "import sys; print(len(sys.stdin.buffer.read()))"),
        stdin=-1,
        stdout=-1,
    )
    async with supervised(process):
        out, _ = await process.communicate(bytes(1_000_000))
    assert out == b"1000000\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGKILL])
async def test_a_signal_ends_it_from_its_first_moment_on(number):
    for _ in range(5):
        process = await forkserver.create_subprocess_exec(
            *(sys.executable, "-W", "error", "-c", "import time; time.sleep(3600)"),
            stderr=subprocess.DEVNULL,
        )
        async with supervised(process):
            process.send_signal(number)
            assert await process.wait() == -number


async def test_two_processes_share_no_random_numbers(start):
    code = "import os, random, uuid; print(random.random(), uuid.uuid4(), os.getpid())"
    outs = [(await end_of(start, code))[1].split() for _ in range(2)]
    assert not set(outs[0]) & set(outs[1])


async def test_a_script_is_run_as_by_its_path(start, tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import sys, beside; print(__file__, __name__, sys.argv, beside.__name__)")
    (tmp_path / "beside.py").touch()
    process = await start(sys.executable, "-W", "error", script, "argument", stdout=-1)
    async with supervised(process):
        out, _ = await process.communicate()
    assert out.decode() == f"{script} __main__ {[str(script), 'argument']} beside\n"


async def test_the_command_that_is_forked_is_the_command():
    async with Emulator() as ade:
        real = await adepoll(ade, "--version", real=True)
        assert await adepoll(ade, "--version") == real
        assert real[0] == 0
        real = await adepoll(ade, "watch", "--no-such-option", real=True)
        assert await adepoll(ade, "watch", "--no-such-option") == real
        assert real[0] == 2


def test_commands_are_forked_with_buffers_although_the_tests_run_without():
    """Real starts, which a difference in the environment causes, take a third of all CPU time."""
    assert "PYTHONUNBUFFERED" not in os.environ
    code = f"""
import os, sys
sys.path.insert(0, {str(SUPPORT)!r})
import forkserver
del os.environ["PYTHONUNBUFFERED"]
code = "import os, sys; print(os.getppid(), sys.stdout.write_through)"
done = forkserver.run([sys.executable, "-c", code], capture_output=True, check=True)
print(os.getpid(), done.stdout.decode())
forkserver.stop_servers()
"""
    env = {**os.environ, "PYTHONUNBUFFERED": "1"}
    out = subprocess.check_output([sys.executable, "-c", code], env=env, text=True)
    runner, parent, is_unbuffered = out.split()
    assert parent != runner
    assert is_unbuffered == "False"


async def test_another_locale_and_another_program_are_started_for_real():
    process = await forkserver.create_subprocess_exec(
        *(sys.executable, "-c", "import sys; print(sys.stdout.encoding, sys.orig_argv)"),
        stdout=-1,
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
    )
    async with supervised(process):
        out, _ = await process.communicate()
    assert out.startswith((b"iso8859-1 ", b"latin-1 "))
    process = await forkserver.create_subprocess_exec("echo", "words", stdout=-1)
    async with supervised(process):
        assert (await process.communicate())[0] == b"words\n"


def test_popen_and_run_are_those_of_subprocess():
    command = [
        sys.executable,
        "-W",
        "error",
        "-c",
        "import sys; print(sys.stdin.read()); sys.exit(3)",
    ]
    with forkserver.Popen(command, stdin=-1, stdout=-1, text=True) as process:
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        assert process.communicate("text")[0] == "text\n"
    assert process.returncode == process.poll() == 3
    with pytest.raises(subprocess.CalledProcessError):
        forkserver.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True)


async def test_a_process_that_nobody_has_is_killed(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    code = "import sys, time; held = open(sys.argv[1], 'w'); time.sleep(3600)"
    process = forkserver.Popen([sys.executable, "-W", "error", "-c", code, str(fifo)])
    with fifo.open() as held:
        del process
        assert await asyncio.wait_for(asyncio.to_thread(held.read), 60) == ""


async def test_processes_are_killed_when_the_one_that_had_them_forked_is(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    code = f"""
import sys, time
sys.path.insert(0, {str(SUPPORT)!r})
import forkserver
code = "import sys, time; held = open(sys.argv[1], 'w'); print(1, file=held, flush=True)"
process = forkserver.Popen([sys.executable, "-c", code + "; time.sleep(3600)", {str(fifo)!r}])
process.wait()
"""
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
    async with supervised(parent):
        held = await asyncio.wait_for(asyncio.to_thread(fifo.open), 60)
        with held:
            assert await asyncio.wait_for(asyncio.to_thread(held.readline), 60) == "1\n"
            parent.kill()
            assert await asyncio.wait_for(asyncio.to_thread(held.read), 60) == ""


@pytest.mark.parametrize("module", ["forkserver", "asyncio"])
def test_signals_reach_a_process_whose_runner_was_started_with_them_ignored(module):
    code = f"""
import asyncio, sys
sys.path.insert(0, {str(SUPPORT)!r})
import dispositions, forkserver
dispositions.reset_inherited()
async def main():
    for number in (1, 2, 3, 15):
        process = await {module}.create_subprocess_exec(
            sys.executable, "-c", "import os, sys; os.kill(os.getpid(), int(sys.argv[1]))",
            str(number), stderr=-3,
        )
        print(await process.wait())
asyncio.run(main())
forkserver.stop_servers()
"""
    ignoring = f"trap '' HUP INT QUIT TERM; exec {sys.executable} -c \"$0\""
    done = subprocess.run(
        ["bash", "-c", ignoring, code], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.stdout.split() == ["-1", "-2", "-3", "-15"], done.stderr


async def test_a_test_that_waits_too_long_fails_with_what_the_process_has_said(start, tmp_path):
    code = (
        "import os, sys, time; print('this far', flush=True); os.mkdir(sys.argv[1]);"
        "time.sleep(3600)"
    )
    has_said = tmp_path / "has said"
    process = await start(sys.executable, "-W", "error", "-c", code, has_said, stdout=-1)
    await until(has_said.exists)
    with pytest.raises(
        AssertionError, match=r"after 2 s the test still waits: process .* runs.*this far"
    ):
        async with supervised(process, longest=2):
            await process.wait()
    assert process.returncode == -signal.SIGKILL


async def test_a_condition_that_stays_false_is_named():
    with pytest.raises(
        AssertionError, match=r"still waits: for .*test_forkserver\.py:\d+ to be true"
    ):
        await until(lambda: False, longest=0.01)


async def test_a_command_that_a_test_leaves_running_is_killed():
    async with Emulator() as ade:
        with pytest.raises(ZeroDivisionError):
            async with started(ade, "watch") as process:
                raise ZeroDivisionError
    assert process.returncode == -signal.SIGKILL


# --- the command of a shell ----------------------------------------------------------------------


async def start_by_client(code, *arguments):
    descriptor = forkserver.descriptor("-W", "error")
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", SUPPORT / "forkclient.py", str(descriptor)),
        *("-c", code, *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        pass_fds=[descriptor],
    )


async def test_a_process_forked_for_a_shell_has_its_streams_arguments_and_status():
    code = "import sys; print(*sys.argv[1:], sys.stdin.read(), 'aiohttp' in sys.modules); exit(7)"
    process = await start_by_client(code, "two words")
    async with supervised(process):
        out, _ = await process.communicate(b"input")
    assert (process.returncode, out) == (7, b"two words input True\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_a_signal_ends_a_process_forked_for_a_shell(number):
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(3600)"
    process = await start_by_client(code)
    async with supervised(process):
        forked = int(await process.stdout.readline())
        process.send_signal(number)
        assert await process.wait() == -number
        assert await process.stdout.read() == b""  # the forked process, which had it, has ended
    assert forked != process.pid
