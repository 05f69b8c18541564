"""A journal that somebody has crafted is refused with its damage, and never does any harm."""

import asyncio
import itertools
import os
import sqlite3
from contextlib import closing
from unittest.mock import Mock

import pytest
from amounts import more
from files import become
from journalling import ENDPOINT, snapshot

from adepoll import Journal
from adepoll.cli.output_lines import error_line, json_line, text_line
from adepoll.cli.status import read_status, show_status
from adepoll.cli.stdout_writer import write_line
from adepoll.errors import (
    AdePollError,
    JournalAccessError,
    JournalDamagedError,
    JournalEndpointError,
    NotAJournalError,
)
from adepoll.journal import (
    Acknowledged,
    Fetched,
    GivenUp,
    JournalReader,
    RecordFilter,
    Settled,
    file_checks,
    opening,
)
from adepoll.journal.foreign_file import limit_instructions, remove_limit
from adepoll.journal.outcomes import ResultFile
from adepoll.journal.schema import OUT_DIR
from adepoll.report import write_report
from adepoll.tables import export

COLUMNS = {
    "jobs": (
        "number", "job_id", "kind", "label", "label_key", "columns", "stage", "status", "added_at",
        "settled_at", "done_at", "delivered_at", "result_path", "result_bytes", "result_sha256",
        "result_modified_ns", "error_kind", "error", "lasting", "partial", "credits", "snapshot",
    ),
    "notes": ("key", "value"),
    "data": ("number", "json"),
}  # fmt: skip
VALUES = (None, 2**63 - 1, "\x1b]0;owned\x07\x1b[31m", b"\xff\xfe")
MORE_VALUES = (
    *(-1, 0, 1.5, 9e999, "", "a/../b", "$(touch x)", "\0", "[" * 2_000, "a\r\nb"),
    *(
        "\u202e\u2028\u2066\x85\x9b31m",
        r'{"\u001b[31m\u202e":"\u001b[31m\u202e"}',
        '{"a":"\\ud800"}',
        "x" * 10**6,
    ),
)

METADATA = {"job_id": "inline", "duration_ms": 1, "credit_usage": 1.0, "filename": "a.md"}
DATA = {
    "extraction": {},
    "extraction_metadata": {},
    "metadata": METADATA | {"org_id": None, "version": "1"},
}


@pytest.fixture
def made(path, tmp_path):
    """A journal with one job of each kind."""

    async def make():
        async with await Journal.open(path, endpoint=ENDPOINT) as journal:
            await journal.add(["waiting", "failed", "file", "given-up", "inline"])
            file = ResultFile(path=tmp_path / "file.json", bytes=2, sha256="ab" * 32)
            failed = snapshot("failed", "failed", failure_reason="bad scan")
            inline = snapshot("inline", data=DATA)
            await journal.write(
                Settled(failed, 1.0, fetching=False),
                Settled(snapshot("file"), 1.0, fetching=True),
                Fetched("file", file, 1, 1.0),
                Settled(inline, 1.0, fetching=False),
                GivenUp("given-up", AdePollError("no answer"), lasting=False, at=1.0),
                Acknowledged("file", 2.0),
            )
            await journal.set_note(OUT_DIR, str(tmp_path))

    asyncio.run(make())
    return path


def rewrite(path, *statements, values=()):
    """Change a journal without SQLite's checks of types and constraints."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        schema = db.execute("SELECT name, sql FROM sqlite_schema").fetchall()
        db.execute("PRAGMA writable_schema = ON")
        db.execute("UPDATE sqlite_schema SET sql = replace(sql, 'STRICT, ', '')")
        db.execute("UPDATE sqlite_schema SET sql = replace(sql, 'STRICT', '')")
        for name in ("TEXT", "REAL", "KEY"):
            db.execute(f"UPDATE sqlite_schema SET sql = replace(sql, '{name} NOT NULL', '{name}')")
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA ignore_check_constraints = ON")
        for statement in statements:
            db.execute(statement, values)
        db.execute("PRAGMA writable_schema = ON")
        db.executemany(
            "UPDATE sqlite_schema SET sql = ? WHERE name = ?", [(sql, name) for name, sql in schema]
        )


async def resume(path):
    async with await Journal.open(path, endpoint=ENDPOINT) as journal:
        await journal.counts()
        await journal.waiting(after=0, limit=9)
        for which in RecordFilter:
            await journal.records(which)


def show(path):
    with JournalReader(path) as reader:
        show_status(read_status(reader, path))


def print_lines(path):
    """Print the lines that `adepoll resume` prints about each job."""
    with JournalReader(path) as reader:
        for record in reader.records():
            for line in (json_line, text_line, error_line):
                write_line(line(record.outcome()))


USES = {
    "lines": lambda path, _out: print_lines(path),
    "resume": lambda path, _out: asyncio.run(resume(path)),
    "show": lambda path, _out: show(path),
    "report": write_report,
    "export": lambda path, out: export(path, out.with_suffix(".csv")),
}


def use(path, out):
    """Use a journal in all ways that need no service; return the errors."""
    found = []
    for action in USES.values():
        try:
            action(path, out)
        except JournalDamagedError as exc:
            found.append(exc)
    return found


@pytest.mark.parametrize("values", more([VALUES], [(MORE_VALUES,)]), ids=len)
@pytest.mark.parametrize(
    ("table", "column"), [(table, name) for table, names in COLUMNS.items() for name in names]
)
def test_any_value_is_accepted_or_reported_as_damage(made, tmp_path, capsys, table, column, values):
    intact = made.read_bytes()
    refused = 0
    for value in values:
        made.write_bytes(intact)
        try:
            rewrite(made, f"UPDATE OR REPLACE {table} SET {column} = ?", values=(value,))
        except sqlite3.Error:
            continue  # SQLite itself cannot write that
        errors = use(made, tmp_path / "report.html")
        refused += len(errors)
        for error in errors:
            assert str(error).isprintable()
        report = tmp_path / "report.html"
        shown = capsys.readouterr().out + (report.read_text() if report.exists() else "")
        assert "\x1b" not in shown
        assert "\x07" not in shown
        report.unlink(missing_ok=True)
    # A job with another number is another job, and a status can be any text.
    assert refused or column in {"number", "status"}


def test_a_recorded_error_is_shown_without_secrets_and_on_one_line(made, capsys):
    text = "https://h/r?sig=canary\x1b[31m\r\nadepoll: no error"
    rewrite(
        made,
        "UPDATE jobs SET error = :text, error_kind = :text WHERE stage = 'given_up'",
        "UPDATE jobs SET snapshot = json_set(snapshot, '$.failure_reason', :text) "
        "WHERE status = 'failed'",
        values={"text": text},
    )
    with JournalReader(made) as reader:
        (outcome,) = (record.outcome() for record in reader.records() if record.error is not None)
        failures = reader.failures()
    assert str(outcome.error).isprintable()
    assert outcome.error.error_class.isprintable()
    assert len(error_line(outcome).splitlines()) == 1
    print_lines(made)
    assert "canary" not in f"{capsys.readouterr().out} {outcome.to_dict()} {failures}"


@pytest.mark.parametrize("recorded", ["file.json", "/tmp/../etc/file.json", "", "/a\0b"])
def test_a_file_without_an_absolute_path_is_damage(made, tmp_path, recorded):
    rewrite(made, "UPDATE jobs SET result_path = ? WHERE job_id = 'file'", values=(recorded,))
    errors = use(made, tmp_path / "report.html")
    assert len(errors) == len(USES) - 1  # `status` reads no record
    for error in errors:
        assert "number 3: the path of its file is not absolute" in str(error)


@pytest.mark.parametrize("job_id", ["../evil", "/etc/evil", "a b", "", "x" * 300, "..", "\x1b[31m"])
@pytest.mark.parametrize("which", ["waiting", "file", "given-up", "failed"])
def test_an_id_that_is_not_a_job_id_is_damage(made, tmp_path, which, job_id):
    rewrite(made, f"UPDATE jobs SET job_id = ? WHERE job_id = '{which}'", values=(job_id,))
    errors = use(made, tmp_path / "report.html")
    assert len(errors) == len(USES) - (which in {"waiting", "file"})  # `status` reads no such job
    for error in errors:
        assert "its id is not a job id" in str(error)


LOOP = """
    CREATE VIEW jobs AS WITH RECURSIVE endless(n) AS (SELECT 1 UNION ALL SELECT n FROM endless)
    SELECT n AS number, n AS job_id, n AS stage, n AS status, n AS added_at, n AS settled_at,
        n AS done_at, n AS delivered_at, n AS result_path, n AS result_bytes, n AS result_sha256,
        n AS result_modified_ns, n AS error_kind, n AS error, n AS lasting, n AS snapshot
    FROM endless
"""


@pytest.mark.parametrize(
    ("statements", "problem"),
    [
        (["ALTER TABLE jobs RENAME TO real_jobs", LOOP], "jobs has another definition"),
        (["CREATE VIEW v AS SELECT 1"], "v does not belong to a journal"),
        (
            ["CREATE TRIGGER t AFTER UPDATE ON jobs BEGIN DELETE FROM notes; END"],
            "t does not belong to a journal",
        ),
        (["CREATE INDEX i ON jobs (length(snapshot))"], "i does not belong to a journal"),
        (["DROP INDEX jobs_counted"], "jobs_counted is missing"),
        (["ALTER TABLE notes ADD COLUMN x TEXT AS (hex(zeroblob(1000)))"], "notes has another"),
    ],
    ids=["endless view", "view", "trigger", "index", "no index", "computed column"],
)
def test_another_schema_is_damage(made, tmp_path, statements, problem):
    with closing(sqlite3.connect(made, isolation_level=None)) as db:
        for statement in statements:
            db.execute(statement)
    errors = use(made, tmp_path / "report.html")
    assert len(errors) == len(USES)
    for error in errors:
        assert problem in str(error)


@pytest.mark.parametrize("name", ["jobs_counted", "sqlite_autoindex_jobs_9", "sqlite_stat1"])
def test_a_trigger_that_hides_behind_a_name_is_damage(made, tmp_path, name):
    """The schema is a table that can be edited: names can occur twice, or be reserved ones."""
    with closing(sqlite3.connect(made, isolation_level=None)) as db:
        db.execute("PRAGMA writable_schema = ON")
        # Between the table and its indexes, so that a row with the same name follows.
        db.execute("UPDATE sqlite_schema SET rowid = -rowid WHERE name <> 'jobs'")
        db.execute("UPDATE sqlite_schema SET rowid = 1000 - rowid WHERE rowid < 0")
        db.execute(
            "INSERT INTO sqlite_schema (rowid, type, name, tbl_name, rootpage, sql)"
            " VALUES (500, 'trigger', ?, 'jobs', 0, ?)",
            (name, f"CREATE TRIGGER {name} AFTER UPDATE ON jobs BEGIN DELETE FROM notes; END"),
        )
    errors = use(made, tmp_path / "report.html")
    assert len(errors) == len(USES)
    for error in errors:
        assert f"{name} does not belong to a journal" in str(error)


def test_a_schema_that_is_not_utf_8_is_damage(made, tmp_path):
    """SQLite quotes the text in its own message, which Python then cannot decode."""
    text = made.read_bytes()
    assert text.count(b"CREATE INDEX jobs_waiting") == 1
    made.write_bytes(
        text.replace(b"CREATE INDEX jobs_waiting", b"CREATE \xff\xfe\xfdEX jobs_waiting")
    )
    errors = use(made, tmp_path / "report.html")
    assert len(errors) == len(USES)
    for error in errors:
        assert str(error).isprintable()


@pytest.mark.parametrize("change", ["job_id = 'other'", "kind = 'v1-parse'"])
def test_the_snapshot_of_another_job_is_damage(made, change):
    rewrite(made, f"UPDATE jobs SET {change} WHERE job_id = 'failed'")
    with JournalReader(made) as reader, pytest.raises(JournalDamagedError, match="snapshot"):
        list(reader.records())


@pytest.mark.parametrize("cost", [-0.5, 1e13])
def test_a_sum_of_impossible_credits_is_damage(made, cost):
    rewrite(made, f"UPDATE jobs SET credits = {cost} WHERE stage = 'done'")
    with JournalReader(made) as reader, pytest.raises(JournalDamagedError, match="or cost"):
        reader.counts()


def test_a_job_that_no_query_would_return_is_damage(made):
    rewrite(made, "UPDATE jobs SET number = -5 WHERE job_id = 'waiting'")
    with pytest.raises(JournalDamagedError, match="job number -5 breaks a rule"):
        asyncio.run(Journal.open(made, endpoint=ENDPOINT))


@pytest.mark.parametrize("text", [b"", b"nonsense" * 200])
def test_a_rollback_journal_beside_the_file_skips_no_check(made, text):
    beside = made.with_name(f"{made.name}-journal")
    beside.write_bytes(text)
    with pytest.raises(JournalEndpointError):
        asyncio.run(Journal.open(made, endpoint="https://another.example"))
    rewrite(made, "UPDATE jobs SET stage = 'done' WHERE job_id = 'waiting'")
    beside.write_bytes(text)
    with pytest.raises(JournalDamagedError, match="breaks a rule"):
        asyncio.run(Journal.open(made, endpoint=ENDPOINT))


def test_statistics_of_sqlite_are_accepted(made, tmp_path):
    with closing(sqlite3.connect(made, isolation_level=None)) as db:
        db.execute("ANALYZE")
    assert use(made, tmp_path / "report.html") == []


@pytest.mark.parametrize("use_it", more(["resume"], ["show"]))
def test_pages_that_refer_to_each_other_end_a_query(path, tmp_path, use_it):
    """Each page of the tree names the next page hundreds of times: a query would not end."""

    async def make():
        async with await Journal.open(path, endpoint=ENDPOINT) as journal:
            await journal.add([f"job-{number:050}" for number in range(36_000)])

    asyncio.run(make())
    page = bytearray(path.read_bytes())
    size = 4096
    with closing(sqlite3.connect(path)) as db:
        (root,) = db.execute("SELECT rootpage FROM sqlite_schema WHERE name='jobs'").fetchone()
    interior = [
        number
        for number in range(1, len(page) // size + 1)
        if page[(number - 1) * size] == 5 and number != root
    ]
    assert page[(root - 1) * size] == 5
    chain = [root, *interior]
    assert len(chain) > 3
    for number, follower in itertools.pairwise(chain):
        start = (number - 1) * size
        cells = int.from_bytes(page[start + 3 : start + 5], "big")
        page[start + 8 : start + 12] = follower.to_bytes(4, "big")
        for cell in range(cells):
            pointer = start + 12 + 2 * cell
            offset = start + int.from_bytes(page[pointer : pointer + 2], "big")
            page[offset : offset + 4] = follower.to_bytes(4, "big")
    path.write_bytes(page)
    with pytest.raises(JournalDamagedError):
        USES[use_it](path, tmp_path / "report.html")


@pytest.mark.parametrize("end", ["-wal", "-shm", "-journal"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
async def test_a_special_file_beside_a_journal_is_refused(path, end, make):
    async with await Journal.open(path, endpoint=ENDPOINT) as journal:
        await journal.add(["a"])
    make(path.with_name(path.name + end))
    with pytest.raises(NotAJournalError, match="not a regular file"):
        await Journal.open(path, endpoint=ENDPOINT)
    with pytest.raises(NotAJournalError, match="not a regular file"):
        JournalReader(path)


@pytest.mark.parametrize("end", ["-wal", "-shm", "-journal"])
@pytest.mark.parametrize("is_new", [False, True])
@pytest.mark.parametrize("link", [os.link, os.symlink])
async def test_sqlite_writes_to_no_link_beside_a_journal(path, tmp_path, end, is_new, link):
    if not is_new:
        async with await Journal.open(path, endpoint=ENDPOINT) as journal:
            await journal.add(["a"])
    precious = tmp_path / "precious"
    precious.write_text("precious")
    link(precious, path.with_name(path.name + end))
    with pytest.raises(NotAJournalError, match=r"a regular file|a hard link"):
        await Journal.open(path, endpoint=ENDPOINT)
    assert precious.read_text() == "precious"
    assert path.exists() is not is_new


@pytest.fixture
def give_away(monkeypatch):
    """Make a file seem to belong to another user, who is not root."""

    def give(path):
        if os.geteuid() == 0:
            os.chown(path, 65534, 65534, follow_symlinks=False)
        else:
            become(os.geteuid() + 1, monkeypatch)

    return give


@pytest.mark.posix  # Windows has no users with numbers
@pytest.mark.parametrize("end", ["-wal", "-shm", "-journal"])
async def test_the_journal_is_not_written_into_a_file_of_another_user(path, give_away, end):
    """The other user could read all that SQLite writes, such as results, and change it."""
    planted = path.with_name(path.name + end)
    planted.touch(0o666)
    give_away(planted)
    with pytest.raises(NotAJournalError, match=f"{end} beside it belongs to another user"):
        await Journal.open(path, endpoint=ENDPOINT)
    assert not path.exists()
    assert planted.stat().st_size == 0


@pytest.mark.posix
async def test_a_wal_file_that_appears_after_the_first_check_is_refused(
    path, give_away, monkeypatch
):
    check = opening.check_companions

    def plant_and_check(journal):
        give_away(path.with_name(path.name + "-wal"))
        check(journal)

    monkeypatch.setattr(opening, "check_companions", plant_and_check)
    # Only root can really give the file away. For other users, both files have the same owner.
    monkeypatch.setattr(file_checks, "_owner_of", lambda _path: os.geteuid())
    with pytest.raises(NotAJournalError, match="belongs to another user"):
        await Journal.open(path, endpoint=ENDPOINT)


@pytest.mark.posix
async def test_own_files_beside_a_journal_of_another_user_are_used(path, monkeypatch):
    """They remain if a process is killed that has written to a shared journal."""
    await (await Journal.open(path, endpoint=ENDPOINT)).aclose()
    for end in ("-wal", "-shm"):
        path.with_name(path.name + end).touch()
    monkeypatch.setattr(file_checks, "_owner_of", lambda _path: os.geteuid() + 1)
    await (await Journal.open(path, endpoint=ENDPOINT)).aclose()


@pytest.mark.posix
@pytest.mark.parametrize("is_empty", [True, False])
async def test_a_journal_that_another_user_has_planted_is_not_used(path, give_away, is_empty):
    """In a folder such as /tmp, the name of the journal can be known in advance."""
    if is_empty:
        path.touch()
    else:
        await (await Journal.open(path, endpoint=ENDPOINT)).aclose()
    path.chmod(0o666)
    before = path.read_bytes()
    give_away(path)
    path.parent.chmod(0o1777)
    with pytest.raises(JournalAccessError, match="belongs to another user"):
        await Journal.open(path, endpoint=ENDPOINT)
    assert path.read_bytes() == before
    assert path.stat().st_mode & 0o777 == 0o666
    path.parent.chmod(0o755)
    if not is_empty:  # somebody who may write to this folder has shared the journal
        await (await Journal.open(path, endpoint=ENDPOINT)).aclose()


@pytest.mark.posix
@pytest.mark.parametrize("exists", [True, False])
async def test_a_link_of_another_user_is_not_followed(path, give_away, tmp_path, exists):
    target = tmp_path / "target.db"
    if exists:
        await (await Journal.open(target, endpoint=ENDPOINT)).aclose()
    path.symlink_to(target)
    give_away(path)
    with pytest.raises(JournalAccessError, match="link, pipe or device of another user"):
        await Journal.open(path, endpoint=ENDPOINT)
    with pytest.raises(JournalAccessError, match="link, pipe or device of another user"):
        JournalReader(path)
    assert target.exists() is exists


@pytest.mark.posix
@pytest.mark.parametrize("text", ["precious", "12345\nprecious", "12345", "\n"])
async def test_a_file_of_another_program_is_not_taken_for_the_lock(path, text):
    lock = path.with_name(f"{path.name}.lock")
    lock.write_text(text)
    with pytest.raises(JournalAccessError, match="another file"):
        await Journal.open(path, endpoint=ENDPOINT)
    assert lock.read_text() == text


async def test_a_lock_that_is_a_hard_link_is_refused(path, tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("12345\n")
    os.link(precious, path.with_name(f"{path.name}.lock"))
    with pytest.raises(JournalAccessError, match="another file"):
        await Journal.open(path, endpoint=ENDPOINT)
    assert precious.read_text() == "12345\n"


@pytest.mark.parametrize("key", ["endpoint", "v2_endpoint"])
@pytest.mark.parametrize(
    "endpoint",
    [
        "https://$(touch owned).example",
        "https://a.example/`id`",
        "https://a.example/'; id; '",
        "https://a.example/\x1b[31m",
        "ftp://a.example",
        "https://a.example/",
        "",
    ],
)
def test_an_endpoint_that_adepoll_would_not_record_is_damage(made, tmp_path, endpoint, key):
    rewrite(made, "UPDATE notes SET value = ? WHERE key = ?", values=(endpoint, key))
    errors = use(made, tmp_path / "report.html")
    assert len(errors) == len(USES)
    for error in errors:
        assert "address of its service is not a valid URL" in str(error)


def test_queries_of_a_larger_file_may_take_longer():
    def steps_of(size):
        """Return how often SQLite may call the handler before it interrupts the query."""
        connection = Mock()
        limit_instructions(connection, size)
        count, _ = connection.set_progress_handler.call_args.args
        return next(number for number in itertools.count(1) if count())

    assert steps_of(0) < steps_of(10**6) < steps_of(10**7)


def test_a_limit_of_queries_can_be_removed():
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 100000)"
    with closing(sqlite3.connect(":memory:")) as connection:
        limit_instructions(connection, -(10**9))
        with pytest.raises(sqlite3.OperationalError, match="interrupted"):
            connection.execute(f"{numbers} SELECT count(*) FROM n")
        remove_limit(connection)
        assert connection.execute(f"{numbers} SELECT count(*) FROM n").fetchone() == (100_000,)
