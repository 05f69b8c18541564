"""Decoders of files that somebody else may have written, in addition to those of `decoders`."""

import asyncio
import functools
import json
import os
import re
import sqlite3
import ssl
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import Mock, patch

from decoders import check_error, entry
from journalling import ENDPOINT, snapshot
from rich.console import Console

from adepoll import Journal, TransportOptions
from adepoll.api.result_folder import remove_unused
from adepoll.batch.learnt_durations import _durations_in
from adepoll.cli import status
from adepoll.cli.output_lines import error_line, json_line, text_line
from adepoll.common.file_system import HAS_FLOCK
from adepoll.emulator.settings import SettingsError, read_settings
from adepoll.errors import (
    AdePollError,
    ConfigurationError,
    JournalAccessError,
    JournalBusyError,
    JournalError,
)
from adepoll.fetcher.part_names import LeftoverRemoval
from adepoll.journal import (
    Acknowledged,
    Fetched,
    GivenUp,
    JournalReader,
    Settled,
    database_lock,
    file_lock,
)
from adepoll.journal.outcomes import ResultFile
from adepoll.journal.schema import OUT_DIR
from adepoll.report import write_report
from adepoll.tables import export

LOCKS = [(database_lock.DatabaseLock, database_lock)]
if HAS_FLOCK:
    LOCKS.append((file_lock.FileLock, file_lock))


@entry("lock-file", JournalAccessError, JournalBusyError)
def check_lock_file(body):
    refused = []
    for cls, module in LOCKS:
        with TemporaryDirectory() as folder:
            journal = Path(folder, "batch.db")
            path = Path(folder, "batch.db.lock")
            path.write_bytes(body)
            assert module.holder_of(journal) is None
            assert path.read_bytes() == body
            try:
                lock = cls.take(journal)
            except (JournalAccessError, JournalBusyError) as error:
                check_error(error)
                check_unchanged(path, body)  # it is a file of the user
                refused.append(error)
                continue
            assert module.holder_of(journal) == os.getpid()
            path.write_bytes(body)  # while it is locked
            pid = module.holder_of(journal)
            assert pid is None or 0 <= pid < 2**63
            assert str(JournalBusyError(path="a", pid=pid)).isprintable()
            lock.release()
            lock.release()
            assert not path.exists()
    if refused:
        raise refused[0]


def check_unchanged(path, body):
    assert path.read_bytes() == body


@functools.cache
def journal_bytes():
    """Return a journal with one job of each kind of outcome."""

    async def make(path):
        async with await Journal.open(path, endpoint=ENDPOINT) as journal:
            await journal.add(["waiting", "failed", "file", "given-up"])
            file = ResultFile(path=Path("/out/file.json"), bytes=2, sha256="ab" * 32)
            await journal.write(
                Settled(
                    snapshot("failed", "failed", failure_reason="bad scan"), 1.0, fetching=False
                ),
                Settled(snapshot("file"), 1.0, fetching=True),
                Fetched("file", file, 1, 1.0),
                GivenUp("given-up", AdePollError("no answer"), lasting=False, at=1.0),
                Acknowledged("file", 2.0),
            )
            await journal.set_note(OUT_DIR, "/out")

    with TemporaryDirectory() as folder:
        path = Path(folder, "batch.db")
        asyncio.run(make(path))
        return path.read_bytes()


class UnusableInputError(Exception):
    """The input cannot be stored in a journal."""


def write_values(path, body):
    """Write the values of a JSON object to a journal, without SQLite's checks of constraints.

    The keys of the object are columns of the table `jobs`, or keys of the table `notes` after
    "note ". The key "job" names the job that is changed.
    """
    try:
        values = json.loads(body)
        job = values.pop("job", "failed")
        values = {
            name: json.dumps(value) if isinstance(value, dict | list) else value
            for name, value in values.items()
        }
    except (ValueError, RecursionError, AttributeError, TypeError) as error:
        raise UnusableInputError from error
    with closing(sqlite3.connect(path)) as database:
        columns = [row[1] for row in database.execute("PRAGMA table_info(jobs)")]
        database.execute("PRAGMA ignore_check_constraints = ON")
        for name, value in values.items():
            # SQLite cannot write some values, such as a text with surrogates.
            with suppress(sqlite3.Error, UnicodeEncodeError, OverflowError):
                if name in columns:
                    database.execute(f"UPDATE jobs SET {name} = ? WHERE job_id = ?", (value, job))
                elif name.startswith("note "):
                    database.execute(
                        "INSERT OR REPLACE INTO notes VALUES (?, ?)", (name[5:], value)
                    )
        database.commit()


UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


@entry("journal-values", JournalError, UnusableInputError, calls=200_000)
def check_journal_values(body):
    """Use a journal with these values in all ways that need no service."""
    with TemporaryDirectory() as folder:
        path, out = Path(folder, "batch.db"), Path(folder, "out")
        path.write_bytes(journal_bytes())
        write_values(path, body)
        refused = []
        for use in (check_lines, check_status, check_report, check_tables):
            try:
                use(path, out)
            except JournalError as error:
                check_error(error)
                refused.append(error)
        if refused:
            raise refused[0]


def check_lines(path, _out):
    with JournalReader(path) as reader:
        for record in reader.records():
            for line in (json_line, text_line, error_line):
                assert line(record.outcome()).isprintable()


def check_status(path, _out):
    with JournalReader(path) as reader:
        found = status.read_status(reader, path)
    for label, text in status._rows(found):
        assert f"{label}{text}".isprintable()
    Console(file=Mock()).print(status._failure_table(found.failures))
    json.dumps([status._failure_json(failure) for failure in found.failures], allow_nan=False)


def check_report(path, out):
    write_report(path, out)
    page = out.read_text("utf-8")
    assert not UNPRINTABLE.search(page)
    assert "<Message>" not in page  # a value is never markup
    assert "<!--" not in page
    assert len(page) < 1_000_000


def check_tables(path, out):
    for end in (".csv", ".jsonl", ".parquet"):
        export(path, out.with_suffix(end))


@entry("durations-note")
def check_durations_note(body):
    for durations in _durations_in(body.decode("utf-8", "replace")).values():
        assert 0 <= durations.quantile(0.5) < float("inf")
        assert durations.quiet_delay >= 0


@entry("settings-file", SettingsError)
def check_settings_file(body):
    read_settings(body.decode("utf-8", "replace"))


@entry("pem", ConfigurationError)
def check_pem(body):
    with TemporaryDirectory() as folder:
        path = Path(folder, "a.pem")
        path.write_bytes(body)
        # Without the certificates of the system, which take 0.2 s to load.
        empty = partial(ssl.SSLContext, ssl.PROTOCOL_TLS_CLIENT)
        with patch.object(ssl, "create_default_context", empty):
            with suppress(ConfigurationError):
                TransportOptions(ca_file=path)
            TransportOptions(client_certificate=path)


OWN_NAMES = re.compile(
    r"\.adepoll-[0-9a-f]{16}-\d+\.result|\.adepoll-[0-9a-f]{16}\.lock|\..*\.[0-9a-f]{12}\.[0-9a-f]{16}\.part",
    re.DOTALL,
)


@entry("leftover-name", UnusableInputError)
def check_leftover_name(body):
    """Only files with the names of temporary files of adepoll are removed from a folder."""
    name = os.fsdecode(body.replace(b"/", b"_").replace(b"\0", b"_")[:255])
    with TemporaryDirectory() as folder:
        path = Path(folder, name)
        try:
            path.write_bytes(b"mine")
        except OSError as error:  # such as ".."
            raise UnusableInputError from error
        remove_unused(Path(folder))
        LeftoverRemoval().clean(Path(folder))
        assert path.exists() or OWN_NAMES.fullmatch(name)
