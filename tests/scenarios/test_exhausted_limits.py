"""A process at a limit of files, file sizes or memory: typed errors that say what to do."""

import errno
import os
import resource
import shlex
import sqlite3
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from commandline import adepoll

from adepoll import AdeClient, RetryPolicy
from adepoll.cli.run import run_sync
from adepoll.errors import (
    ConnectionFailedError,
    JournalAccessError,
    JournalError,
    JournalWriteError,
    StorageError,
)
from adepoll.journal import Journal
from adepoll.journal.sqlite_errors import reading_error, writing_error

ADVICE = "Too many open files.*ulimit -n"
ENDPOINT = "https://api.va.landing.ai"


@contextmanager
def files_left(count):
    """Let this process open so many more files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free + count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_client_that_cannot_open_a_connection_says_why():
    retry = RetryPolicy(attempts=1)
    async with AdeClient("key", base_url="http://127.0.0.1:9", retry=retry) as client:
        with files_left(0), pytest.raises(ConnectionFailedError, match=ADVICE):
            await client.get_job("job-1")


async def test_a_download_that_cannot_open_a_file_says_why(
    bucket, result_body, fetch, stored, tmp_path
):
    bucket.body = result_body(3_000)
    fetcher, job = fetch(), stored(bucket.url())
    await fetcher.download(job, tmp_path / "first")  # leaves an open connection
    with files_left(0), pytest.raises(StorageError, match=ADVICE) as caught:
        await fetcher.download(job, tmp_path / "second")
    assert caught.value.errno == errno.EMFILE
    assert [path.name for path in tmp_path.iterdir()] == ["first"]


async def test_a_journal_that_cannot_be_opened_says_why(tmp_path):
    """Whichever of its files is the first that cannot be opened; later it can be opened."""
    errors = []
    for count in range(6):
        with files_left(count):
            try:
                journal = await Journal.open(tmp_path / "a.db", endpoint=ENDPOINT)
            except JournalAccessError as error:
                errors.append((error.errno, "ulimit -n" in str(error)))
            else:
                await journal.aclose()
    assert len(errors) >= 3
    assert {*errors} == {(errno.EMFILE, True)}
    async with await Journal.open(tmp_path / "a.db", endpoint=ENDPOINT) as journal:
        assert journal.path.name == "a.db"


@contextmanager
def files_of_at_most(size):
    """Let this process write no file beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_journal_that_has_reached_the_size_limit_of_files_says_why(tmp_path):
    advice = "File too large.*ulimit -f"
    with files_of_at_most(4_096), pytest.raises(JournalAccessError, match=advice) as caught:
        await Journal.open(tmp_path / "new.db", endpoint=ENDPOINT)
    assert caught.value.errno == errno.EFBIG
    async with await Journal.open(tmp_path / "a.db", endpoint=ENDPOINT) as journal:
        many = [f"job-{number}" for number in range(10_000)]
        with files_of_at_most(2**17), pytest.raises(JournalWriteError, match=advice) as caught:
            await journal.add(many)
        assert caught.value.errno == errno.EFBIG
        assert await journal.add(many) == 10_000


COMMANDS = {
    "get": ["get", "job-1"],
    "list": ["list"],
    "fetch": ["fetch", "job-1"],
    "watch": ["watch", "job-1", "--journal", "new.db"],
    "resume": ["resume", "a.db"],
    "report": ["report", "a.db"],
    "demo": ["demo"],
    "emulate": ["emulate", "--port", "0"],
}


@pytest.mark.parametrize("arguments", COMMANDS.values(), ids=COMMANDS)
async def test_a_command_that_may_open_12_files_says_why_it_fails(tmp_path, arguments):
    async with await Journal.open(tmp_path / "a.db", endpoint=ENDPOINT):
        pass
    limited = ("sh", "-c", f'ulimit -n 12; cd {shlex.quote(str(tmp_path))}; exec "$@"', "--")
    service = SimpleNamespace(base_url="http://127.0.0.1:9")
    code, out, err = await adepoll(service, *arguments, wrapper=limited, real=True)
    assert (code, out) == (74, "")
    assert err.startswith("adepoll: Too many open files; raise the limit of this process")
    assert "bug" not in err
    assert "Task" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["a.db"]


NO_MEMORY = "adepoll: out of memory; free some memory"
LIMITS = {
    MemoryError(): NO_MEMORY,
    ImportError("uvloop/loop.so: failed to map segment from shared object"): NO_MEMORY,
    RuntimeError("can't start new thread"): "adepoll: the system cannot start another thread",
    OSError(errno.EMFILE, os.strerror(errno.EMFILE)): "adepoll: Too many open files; raise",
    ImportError("no such name"): "adepoll: this is a bug in adepoll: ImportError",
}


@pytest.mark.parametrize(("error", "text"), LIMITS.items(), ids=str)
def test_a_command_names_the_limit_that_is_exhausted(error, text, capsys):
    def fail():
        raise error

    with pytest.raises(SystemExit) as ended:
        run_sync(fail)
    assert ended.value.code == (70 if "bug" in text else 74)
    assert capsys.readouterr().err.startswith(text)


@pytest.mark.parametrize("error_of", [reading_error, writing_error])
def test_a_journal_that_gets_no_memory_says_so(error_of, tmp_path):
    cause = sqlite3.OperationalError("out of memory")
    cause.sqlite_errorcode = sqlite3.SQLITE_NOMEM
    error = error_of(cause, tmp_path / "a.db")
    assert isinstance(error, JournalError)
    assert "ulimit -v" in str(error)
    assert error.errno == errno.ENOMEM
