"""`adepoll emulate` with faults, a settings file, and a line of statistics on a terminal."""

import asyncio
import contextlib
import json
import os
import pty
import signal
import socket
import sys
import urllib.error
import urllib.request

import forkserver
import pytest
from click.testing import CliRunner
from waiting import supervised

import adepoll
from adepoll.cli import cli, emulate
from adepoll.emulator import Emulator, JobPlan


@contextlib.asynccontextmanager
async def emulating(*options, stderr=asyncio.subprocess.PIPE):
    """Run the command; yield the process, and a function that sends a request to its API."""
    process = await forkserver.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-m", "adepoll", "emulate", "--port", "0", *options),
        stdout=asyncio.subprocess.PIPE,
        stderr=stderr,
    )
    async with supervised(process):
        lines = [(await process.stdout.readline()).decode().split() for _ in range(4)]
        env = dict(word.split("=", 1) for _, word in lines)
        request = urllib.request.Request(
            f"{env['LANDINGAI_ADE_BASE_URL']}/v1/ade/extract/jobs?pageSize=100",
            headers={"Authorization": f"Bearer {env['VISION_AGENT_API_KEY']}"},
        )

        def request_list():
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:
                    return answer.status, answer.read()
            except urllib.error.HTTPError as error:
                with error:
                    return error.status, error.read()

        yield process, lambda: asyncio.to_thread(request_list)


async def ended(process):
    process.send_signal(signal.SIGTERM)
    out, err = await process.communicate()
    assert out == b""
    assert process.returncode == 143
    return err


async def test_options_override_the_settings_file(tmp_path):
    file = tmp_path / "ade.toml"
    file.write_text(
        'jobs = 3\nlist_order = "oldest"\n[profile]\nmedian = 1e6\n'
        '[[faults]]\nname = "payment-required"\ntimes = 1\n'
    )
    options = ["--profile", str(file), "--jobs", "5", "--fault", "endless-list"]
    async with emulating(*options, "--fault", "html:0") as (process, request_list):
        assert (await request_list())[0] == 402
        status, body = await request_list()
        page = json.loads(body)
        err = await ended(process)
    assert (status, len(page["jobs"]), page["has_more"]) == (200, 5, True)
    assert {job["status"] for job in page["jobs"]} == {"pending"}
    assert err.count(b"\n") == 1


async def test_the_jobs_at_the_start_can_have_several_kinds():
    options = ["--jobs", "5", "--kind", "v2-parse", "--kind", "v1-extract", "--api-key", "mine"]
    async with emulating(*options, "--api-key", "other") as (process, request_list):
        status, body = await request_list()
        err = await ended(process)
    assert (status, len(json.loads(body)["jobs"])) == (200, 2)
    assert b"with 5 jobs" in err


async def test_a_terminal_shows_one_line_of_statistics_that_is_redrawn(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    ours, theirs = pty.openpty()
    try:
        async with emulating("--jobs", "2", "--fault", "html", stderr=theirs) as (
            process,
            request_list,
        ):
            os.close(theirs)
            await request_list()
            shown = b""
            while b"1 list" not in shown:
                shown += await asyncio.to_thread(os.read, ours, 4_096)
            await ended(process)
            rest = b""
            while b"\n" not in rest:  # a shell shows its prompt below the statistics
                rest += await asyncio.to_thread(os.read, ours, 4_096)
    finally:
        os.close(ours)
    lines = shown.decode().split("\r\x1b[K")
    assert len(lines) >= 2
    begin = "2 active, 0 settled | 0 get, 1 list, 0 create, 0 result | 1 faults"
    assert lines[-1].split("\r")[0] == begin[:59]  # a line of 60 characters could wrap
    assert rest.endswith(b"\r\n")


def test_verbose_prints_a_line_every_ten_seconds_if_stderr_is_no_terminal(capsys):
    async def main():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(25):
                await emulate._serve(Emulator(), verbose=True)

    adepoll.emulator.run(main())
    assert capsys.readouterr().err.splitlines() == 2 * [
        "adepoll: 0 active, 0 settled | 0 get, 0 list, 0 create, 0 result"
    ]


def test_pending_and_processing_jobs_are_active(clock):
    emulator = Emulator(clock=clock)
    for queue_time, processing_time in ((9.0, 0.0), (0.0, 9.0), (0.0, 9.0), (0.0, 0.0)):
        emulator.submit(JobPlan(queue_time=queue_time, processing_time=processing_time))
    clock.now += 1.0
    assert emulate._summary(emulator).startswith("3 active, 1 settled | 0 get, 0 list, ")


@pytest.fixture
def emulators(monkeypatch):
    """The emulators that the command creates: the options of each, and the kinds of its jobs."""
    created = []

    class Recording(Emulator):
        def __init__(self, **options):
            super().__init__(**options)
            self.options, self.kinds = options, []
            created.append(self)

        def submit(self, **options):
            self.kinds.append(options["kind"])
            return super().submit(**options)

    monkeypatch.setattr(emulate, "Emulator", Recording)
    return created


def run(*options, port="0"):
    """Run the command in this process; it ends at the end of its standard input."""
    return CliRunner().invoke(cli, ["emulate", "--port", port, "--until-eof", *options])


def test_the_environment_directs_clients_to_the_emulator(emulators):
    done = run("--api-key", "a'key", "--api-key", "b")
    assert done.exit_code == 0
    url = done.stdout.splitlines()[0].partition("=")[2]
    assert url.startswith("http://127.0.0.1:")
    assert done.stdout.splitlines() == [
        f"export LANDINGAI_ADE_BASE_URL={url}",
        f"export LANDINGAI_ADE_V2_BASE_URL={url}",
        "export LANDINGAI_ADE_ENVIRONMENT=",
        """export VISION_AGENT_API_KEY='a'"'"'key'""",
    ]
    assert done.stderr == f"adepoll: emulating ADE at {url} with 0 jobs; press Ctrl-C to stop\n"
    assert (emulators[0].options["api_key"], emulators[0].options["more_keys"]) == ("a'key", ("b",))


SETTINGS = """
jobs = 3
seed = 7
kinds = ["v1-parse", "v2-parse"]
list_lag = 2.0
[profile]
median = 5.0
failed = 0.5
[[faults]]
name = "html"
"""


def test_the_settings_file_holds_where_no_option_is_given(emulators, tmp_path):
    file = tmp_path / "ade.toml"
    file.write_text(SETTINGS)
    assert run("--profile", str(file)).exit_code == 0
    options = ["--jobs", "2", "--seed", "1", "--median", "9", "--kind", "v1-extract"]
    assert run("--profile", str(file), *options, "--fault", "nan").exit_code == 0
    assert run("--jobs", "1").exit_code == 0
    facts = [
        (
            found.options["seed"],
            found.options["profile"].median,
            found.options["profile"].failed,
            found.options["list_lag"],
            [fault.name for fault in found.options["faults"]],
            found.kinds,
        )
        for found in emulators
    ]
    assert facts == [
        (7, 5.0, 0.5, 2.0, ["html"], ["v1-parse", "v2-parse", "v1-parse"]),
        (1, 9.0, 0.5, 2.0, ["html", "nan"], ["v1-extract", "v1-extract"]),
        (0, 8.0, 0.03, 0.0, [], ["v1-extract"]),
    ]


def test_an_error_of_several_addresses_is_named(monkeypatch):
    async def fail(_self):
        raise OSError("Multiple exceptions: [Errno 98] 1, [Errno 98] 2")

    monkeypatch.setattr(Emulator, "__aenter__", fail)
    done = run(port="4711")
    assert done.exit_code == 2
    assert "cannot listen on 127.0.0.1, port 4711: Multiple exceptions: [Errno 98]" in done.stderr


def test_a_port_in_use_is_named():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        begin = "adepoll: cannot listen on 127.0.0.1, port "
        done = run(port=port)
        assert done.exit_code == 2
        assert done.stdout == ""
        assert done.stderr.startswith(f"{begin}{port}: ")
        done = run("--results-port", port)
        assert done.stderr.startswith(f"{begin}{port}: ")
        with socket.create_server(("127.0.0.1", 0)) as closed_soon:
            other = str(closed_soon.getsockname()[1])
        done = run("--results-port", other, port=port)
        assert done.stderr.startswith(f"{begin}{port} or port {other}: ")
        assert "in use" in done.stderr
        assert "[Errno" not in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--fault", "fire"], "no fault is named 'fire'"),
        (["--fault", "nan:2"], "'chance' must be <= 1: 2.0"),
        (["--fault", "nan:often"], "'often' is not a chance from 0 to 1"),
        (["--kind", "v3-parse"], "'v3-parse' is not one of 'v1-extract', 'v1-parse'"),
        (["--profile", "nowhere.toml"], "No such file"),
        (["--profile", "{bad}"], "unknown key sed"),
        (["--profile", "{huge}"], "it has more than 1,048,576 bytes"),
        (["--api-key", ""], "use printable ASCII characters, without spaces"),
        (["--api-key", "a b"], "use printable ASCII characters, without spaces"),
        (["--api-key", "é"], "use printable ASCII characters, without spaces"),
        (["--api-key", "a\x7f"], "use printable ASCII characters, without spaces"),
        (["--median", "0"], "0.0 is not"),
    ],
)
def test_an_error_names_the_wrong_option(tmp_path, options, message):
    bad = tmp_path / "bad.toml"
    bad.write_text("sed = 1")
    huge = tmp_path / "huge.toml"
    huge.touch()
    os.truncate(huge, 2**40)  # without blocks on the disk
    result = CliRunner().invoke(cli, ["emulate", *(o.format(bad=bad, huge=huge) for o in options)])
    assert result.exit_code == 2
    assert f"Invalid value for '{options[0]}'" in result.output
    assert message in " ".join(result.output.split())
