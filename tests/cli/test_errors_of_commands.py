"""The line that a command prints for an error, its exit code, and what happens before."""

import errno
import os

import pytest

from adepoll import errors
from adepoll.cli import cli, main, run
from adepoll.cli.exit_codes import ExitCode
from adepoll.cli.run import run_sync

USAGE = errors.ConfigurationError("the region is wrong")
UNRESOLVED = errors.ServerError(status=500)
NO_MEMORY = "out of memory; free some memory, or raise the limit of this process (ulimit -v)"
BUG = "this is a bug in adepoll: "


@pytest.fixture(autouse=True)
def closed(monkeypatch):
    """The streams that were redirected to the null device."""
    streams = []
    monkeypatch.setattr(run, "discard", streams.append)
    return streams


def end_of(error, capsys):
    """Return the exit code and what is printed, with "on_error" for that call."""

    def fail():
        raise error

    with pytest.raises(SystemExit) as ended:
        run_sync(fail, on_error=lambda: print("on_error", file=run.sys.stderr))
    return ended.value.code, capsys.readouterr().err.splitlines()


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (UNRESOLVED, 3, str(UNRESOLVED)),
        (OSError(errno.ENOSPC, "full", "a.json"), 74, "cannot read or write a.json: full"),
        (OSError(errno.ENOSPC, "full", b"a\x1b"), 74, r"cannot read or write a\x1b: full"),
        (OSError(errno.EIO, "broken"), 74, "cannot read or write: broken"),
        (OSError(errno.EAGAIN, "again"), 74, "again"),
        (OSError(errno.EAGAIN, "again", "a"), 74, "cannot read or write a: again"),
        (FileNotFoundError(errno.ENOENT, "gone"), 74, "cannot read or write: gone"),
        (MemoryError(), 74, NO_MEMORY),
        (ImportError("x.so: failed to map segment from shared object"), 74, NO_MEMORY),
        (ImportError("no such name"), 70, f"{BUG}ImportError in "),
        (RuntimeError("no such name"), 70, f"{BUG}RuntimeError in "),
        (RuntimeError("can't start new thread"), 74, "the system cannot start another thread"),
        (ExceptionGroup("", [UNRESOLVED, OSError("x")]), 3, str(UNRESOLVED)),
        (ExceptionGroup("", [UNRESOLVED, KeyError("secret")]), 70, f"{BUG}KeyError"),
        (
            ExceptionGroup("", [UNRESOLVED, ExceptionGroup("", [OSError("x"), KeyError("x")])]),
            70,
            f"{BUG}KeyError",
        ),
        (ExceptionGroup("", [KeyError("x"), IndexError("x")]), 70, f"{BUG}KeyError"),
    ],
    ids=repr,
)
def test_an_error_is_one_line_before_the_advice(error, code, text, capsys, closed):
    found, (line, advice) = end_of(error, capsys)
    assert (found, advice) == (code, "on_error")
    assert line.startswith(f"adepoll: {text}")
    assert "secret" not in line
    assert len(closed) == ("cannot read" in line or "again" in line or "another thread" in line)


def test_a_usage_error_is_printed_last(capsys):
    assert end_of(USAGE, capsys) == (2, ["on_error", f"adepoll: {USAGE}"])


def test_a_closed_stdout_is_no_error(capsys, closed):
    assert end_of(BrokenPipeError(), capsys) == (141, [])
    assert len(closed) == 1


def test_an_interrupted_command_prints_nothing(capsys):
    assert end_of(KeyboardInterrupt(), capsys) == (130, [])


def test_a_command_ends_with_its_code(capsys):
    with pytest.raises(SystemExit) as ended:
        run_sync(lambda: ExitCode.PARTIAL)
    assert ended.value.code == 5
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("returned", "code"), [(3, 3), (0, 0), (None, 0), (ExitCode.PARTIAL, 5)])
def test_the_process_ends_with_the_code_that_a_command_returns(monkeypatch, returned, code):
    monkeypatch.setattr(cli, "main", lambda **_: returned)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == code


@pytest.mark.posix
@pytest.mark.parametrize("name", [None, "a.json"])
def test_a_deleted_folder_is_only_the_cause_of_errors_without_a_name(
    name, tmp_path, monkeypatch, capsys
):
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path / "folder")
    (tmp_path / "folder").rmdir()
    error = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
    code, (line, _) = end_of(error, capsys)
    reason = "the current folder has been deleted" if name is None else f" {name}: No such file"
    assert code == 74
    assert reason in line
    assert ("deleted" in line) == (name is None)
