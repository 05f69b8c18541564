"""How a command ends: first and second signals, errors, bugs, and closed pipes."""

import asyncio
import functools
import os
import pty
import signal
import sys
from contextlib import asynccontextmanager

import forkserver
import pytest
from terminals import read_all
from waiting import supervised

from adepoll.cli.signals import StopSignals

KEY = "canary-key-8f2e1"
STOPS = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]

BEGIN = """
import asyncio, logging, os, signal, sys, threading, time
from adepoll.cli import cli
from adepoll.cli.exit_codes import ExitCode
from adepoll.cli.messages import say
from adepoll.cli.run import run, run_sync
from adepoll.cli.stdout_writer import write_line
from adepoll.errors import AdePollError, ConfigurationError
logging.getLogger("asyncio").addFilter(lambda r: "Executing" not in r.msg)  # slow machines
sys.modules["uvloop"] = None if {without_uvloop} else __import__("uvloop")
"""

COMMAND = """
async def main():
    write_line("ready")
    try:
        await asyncio.Event().wait()
    finally:
        write_line("cleaning")
        {cleanup}
        write_line("clean")

run(main, on_stop=lambda: say("continue with: adepoll resume"))
"""

PLAIN_COMMAND = """
def main():
    try:
        write_line("ready")
        while True: time.sleep(0.01)
    finally:
        write_line("cleaning")
        {cleanup}
        write_line("clean")

run_sync(main)
"""

HANGING = {
    "await": "await asyncio.Event().wait()",
    # Short sleeps: a signal that arrives just before a sleep is handled only after it.
    "busy": "\n        while True: time.sleep(0.01)",
    "spinning": "\n        while True: pass",
    "thread": "asyncio.get_running_loop().run_in_executor(None, time.sleep, 3600)",
    "lock": "lock = threading.Lock()\n        while True: lock.acquire(timeout=0.01)",
}


@pytest.fixture(params=[True, False], ids=["asyncio", "uvloop"])
def begin(request):
    if not request.param:
        pytest.importorskip("uvloop")
    return BEGIN.format(without_uvloop=request.param)


BEGIN_PLAIN = BEGIN.format(without_uvloop=True)


@asynccontextmanager
async def running(code, *arguments, **options):
    process = await forkserver.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-X", "dev", "-c", code, *arguments),
        env={**os.environ, "VISION_AGENT_API_KEY": KEY},
        **{"stdout": -1, "stderr": -1} | options,
    )
    async with supervised(process):
        yield process


async def line_of(process):
    return (await process.stdout.readline()).decode().strip()


def output_of(code, *arguments):
    done = forkserver.run(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        env={**os.environ, "VISION_AGENT_API_KEY": KEY},
        capture_output=True,
        text=True,
        check=False,
    )
    assert KEY not in done.stderr
    return done.returncode, done.stdout, done.stderr


# --- signals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), STOPS)
async def test_the_first_signal_cancels_the_command_and_prints_how_to_continue(begin, number, code):
    async with running(begin + COMMAND.format(cleanup="await asyncio.sleep(0)")) as process:
        assert await line_of(process) == "ready"
        process.send_signal(number)
        out, err = await process.communicate()
    assert out.decode().split() == ["cleaning", "clean"]
    assert err.decode() == "continue with: adepoll resume\n"
    assert process.returncode == code


@pytest.mark.parametrize(
    ("hanging", "number", "code"),
    [("await", signal.SIGTERM, 143), *((hanging, signal.SIGINT, 130) for hanging in HANGING)],
)
async def test_the_second_signal_ends_the_process_immediately_even_if_cleanup_hangs(
    begin, hanging, number, code
):
    async with running(begin + COMMAND.format(cleanup=HANGING[hanging])) as process:
        assert await line_of(process) == "ready"
        process.send_signal(signal.SIGINT)
        assert await line_of(process) == "cleaning"
        process.send_signal(number)
        _, err = await process.communicate()
    assert err.decode() == ""
    assert process.returncode == code


async def test_a_signal_that_another_thread_receives_wakes_the_command(begin):
    main = """
async def main():
    def stop():
        time.sleep(0.1)  # by then, the loop probably waits
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
    threading.Thread(target=stop).start()
    await asyncio.Event().wait()

run(main)
"""
    async with running(begin + main) as process:
        await process.wait()
    assert process.returncode == 143


@pytest.mark.parametrize(("number", "code"), STOPS)
async def test_a_signal_also_ends_a_command_without_an_event_loop(number, code):
    program = BEGIN_PLAIN + PLAIN_COMMAND.format(cleanup="pass")
    async with running(program) as process:
        assert await line_of(process) == "ready"
        process.send_signal(number)
        out, err = await process.communicate()
    assert (out.decode().split(), err.decode()) == (["cleaning", "clean"], "")
    assert process.returncode == code


@pytest.mark.parametrize(("number", "code"), STOPS[:2])
async def test_the_second_signal_ends_a_command_without_an_event_loop_too(number, code):
    program = BEGIN_PLAIN + PLAIN_COMMAND.format(cleanup=HANGING["busy"])
    async with running(program) as process:
        assert await line_of(process) == "ready"
        process.send_signal(signal.SIGHUP)
        assert await line_of(process) == "cleaning"
        process.send_signal(number)
        _, err = await process.communicate()
    assert (process.returncode, err.decode()) == (code, "")


async def test_a_second_sighup_does_not_interrupt_the_cleanup(begin):
    cleanup = "signal.raise_signal(signal.SIGHUP); await asyncio.sleep(0)"
    async with running(begin + COMMAND.format(cleanup=cleanup)) as process:
        assert await line_of(process) == "ready"
        process.send_signal(signal.SIGHUP)
        out, err = await process.communicate()
    assert out.decode().split() == ["cleaning", "clean"]
    assert err.decode() == "continue with: adepoll resume\n"
    assert process.returncode == 129


async def test_messages_to_a_closed_terminal_are_ignored(begin):
    ours, theirs = pty.openpty()
    async with running(
        begin + COMMAND.format(cleanup='say("standing"); await asyncio.sleep(0)'), stderr=theirs
    ) as process:
        os.close(theirs)
        assert await line_of(process) == "ready"
        os.close(ours)
        process.send_signal(signal.SIGHUP)
        out, _ = await process.communicate()
    assert out.decode().split() == ["cleaning", "clean"]
    assert process.returncode == 129


async def test_a_signal_that_was_ignored_at_the_start_stays_ignored(begin):
    code = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    code += begin + COMMAND.format(cleanup="pass")
    async with running(code) as process:
        assert await line_of(process) == "ready"
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        out, _ = await process.communicate()
    assert out.decode().split() == ["cleaning", "clean"]  # SIGTERM was not the second signal
    assert process.returncode == 143


def test_a_signal_after_the_end_of_the_command_is_recorded():
    with StopSignals() as signals:
        with asyncio.Runner() as runner:
            runner.run(signals.run_cancellable(functools.partial(asyncio.sleep, 0)))
        signal.raise_signal(signal.SIGTERM)
    assert signals.received is signal.SIGTERM


async def test_a_signal_before_the_command_starts_stops_it(begin):
    code = begin + COMMAND.format(cleanup="pass").replace(
        "run(main",
        "running = sys.modules['adepoll.cli.run']\n"
        "old = running._loop_factory\n"
        "def factory():\n"
        "    signal.raise_signal(signal.SIGTERM)\n"
        "    return old()\n"
        "running._loop_factory = factory\n"
        "run(main",
    )
    async with running(code) as process:
        out, err = await process.communicate()
    assert (out, err.decode()) == (b"", "continue with: adepoll resume\n")
    assert process.returncode == 143


async def test_the_cursor_is_shown_again_after_an_immediate_exit(begin):
    ours, theirs = pty.openpty()
    async with running(begin + COMMAND.format(cleanup=HANGING["busy"]), stderr=theirs) as process:
        os.close(theirs)
        assert await line_of(process) == "ready"
        process.send_signal(signal.SIGINT)
        assert await line_of(process) == "cleaning"
        process.send_signal(signal.SIGINT)
        await process.wait()
    assert b"\x1b[?25h" in read_all(ours)
    os.close(ours)


# --- errors and bugs -----------------------------------------------------------------------------

FAILING = """
import click

@cli.command()
def fail():
    async def main():
        {failing}
    run(main)

cli(prog_name="adepoll")
"""


def failing(what):
    return BEGIN_PLAIN + FAILING.format(failing=what)


@pytest.mark.parametrize(
    ("what", "code", "said"),
    [
        ('raise AdePollError("no")', 3, "adepoll: no"),
        ('raise ConfigurationError("no")', 2, "adepoll: no"),
        ('raise ExceptionGroup("g", [ConfigurationError("no")])', 2, "adepoll: no"),
        ('open("/no/such\\x1b")', 74, "adepoll: cannot read or write /no/such\\x1b: No such file"),
        ("raise BrokenPipeError", 141, ""),
        ('raise ExceptionGroup("g", [BrokenPipeError()])', 141, ""),
    ],
)
def test_an_error_is_printed_as_one_line(what, code, said):
    got, out, err = output_of(failing(what), "fail")
    assert (got, out) == (code, "")
    assert err.startswith(said)
    assert err.count("\n") == bool(said)
    assert "\x1b" not in err


def test_debug_shows_where_an_error_was_raised():
    code, _, err = output_of(failing('raise AdePollError("no")'), "--debug", "fail")
    assert code == 3
    assert "Traceback" in err
    assert err.splitlines()[-1] == "adepoll: no"


BUG = """
        url = "https://storage/x?X-Amz-Signature=canary-signature"
        text = f"{os.environ['VISION_AGENT_API_KEY']} {url} \\x1b[31m"
        raise ExceptionGroup("g", [AdePollError("no"), KeyError(text), ValueError(text)])
"""


def test_a_bug_is_printed_as_one_line_with_a_hint_at_debug():
    code, _, err = output_of(failing(BUG), "fail")
    assert code == 70
    assert err.count("\n") == 1
    assert err.startswith("adepoll: this is a bug in adepoll: KeyError")
    assert "--debug" in err
    assert "canary" not in err


def test_debug_shows_the_traceback_of_a_bug_without_secrets_and_control_characters():
    code, _, err = output_of(failing(BUG), "--debug", "fail")
    assert code == 70
    assert "Traceback" in err
    assert "in main" in err
    assert "REDACTED" in err
    assert "canary" not in err
    assert "\x1b" not in err


def test_a_click_error_raised_by_the_command_is_printed_by_click():
    code, _, err = output_of(failing('raise click.BadParameter("no")'), "fail")
    assert code == 2
    assert "Error: Invalid value: no" in err


def test_a_command_without_an_event_loop_has_the_same_exit_codes():
    plain = BEGIN_PLAIN + "def main():\n    {}\nrun_sync(main)\n"
    assert output_of(plain.format('say("x"); return ExitCode.FAILED_OR_CANCELLED')) == (
        1,
        "",
        "x\n",
    )
    code, _, err = output_of(plain.format('raise AdePollError("no")'))
    assert (code, err) == (3, "adepoll: no\n")
    code, _, err = output_of(plain.format("signal.raise_signal(signal.SIGINT)"))
    assert (code, err) == (130, "")


def test_a_deleted_current_folder_is_named():
    plain = (
        BEGIN_PLAIN
        + """
import pathlib, tempfile
folder = tempfile.mkdtemp()
os.chdir(folder)
os.rmdir(folder)
def main():
    pathlib.Path("b.db").absolute()
run_sync(main)
"""
    )
    code, _, err = output_of(plain)
    assert (code, err) == (
        74,
        "adepoll: cannot read or write: the current folder has been deleted\n",
    )


async def test_a_closed_stderr_does_not_end_the_command(begin):
    read_end, write_end = os.pipe()
    os.close(read_end)
    code = begin + (
        'async def main():\n    say("x"); say("y"); write_line("done"); return ExitCode.COMPLETED\n'
        "run(main)"
    )
    async with running(code, stderr=write_end) as process:
        os.close(write_end)
        out, _ = await process.communicate()
    assert out == b"done\n"
    assert process.returncode == 0
