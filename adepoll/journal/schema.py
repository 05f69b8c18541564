"""The tables of a journal: jobs, inline results and notes.

Users read them with the sqlite3 shell; docs/journal.md explains every column. The column
`delivered_at` is the time at which the program acknowledged an outcome, by requesting the next one.
"""

from pathlib import Path
from typing import Final

# The value of `PRAGMA application_id`: "adep" in ASCII. The command `file` can show it.
APPLICATION_ID: Final = 0x61646570
FORMAT: Final = 1  # the value of `PRAGMA user_version`
OUT_DIR: Final = "out_dir"  # key of the note that contains the folder for results

# Ends of the names of files beside the journal: three of SQLite, and the lock file of adepoll.
WAL_END: Final = "-wal"
SHM_END: Final = "-shm"
ROLLBACK_END: Final = "-journal"
LOCK_END: Final = ".lock"

# Constraints of the table `jobs`, by name. SQLite checks them when it writes a row. When a journal
# is opened, a query checks them, too, because another program may have written the file.
RULES: Final = {
    "columns_are_json": "columns IS NULL OR json_valid(columns)",
    "label_has_key": "(label IS NULL) = (label_key IS NULL)",
    "known_stage": "stage IN ('waiting', 'fetching', 'done', 'given_up')",
    "settled_has_snapshot": "stage NOT IN ('fetching', 'done') OR snapshot IS NOT NULL",
    "snapshot_has_time": "(snapshot IS NULL) = (settled_at IS NULL)",
    "snapshot_is_json": "snapshot IS NULL OR json_valid(snapshot)",
    "outcome_has_time": "(done_at IS NULL) = (stage IN ('waiting', 'fetching'))",
    "delivered_has_outcome": "delivered_at IS NULL OR done_at IS NOT NULL",
    "complete_error": """
        CASE stage WHEN 'given_up'
        THEN error_kind IS NOT NULL AND error IS NOT NULL AND lasting IN (0, 1)
        ELSE error_kind IS NULL AND error IS NULL AND lasting IS NULL END
    """,
    "complete_result": """
        CASE WHEN result_path IS NULL
        THEN result_bytes IS NULL AND result_sha256 IS NULL AND result_modified_ns IS NULL
        ELSE stage = 'done' AND typeof(result_path) IN ('text', 'blob') AND result_bytes >= 0
            AND length(result_sha256) = 64 AND result_modified_ns IS NOT NULL END
    """,
}
_CONSTRAINTS: Final = ",\n        ".join(
    f"CONSTRAINT {name} CHECK ({' '.join(rule.split())})" for name, rule in RULES.items()
)

# `result_path` is a text, or a blob if the file name is not valid UTF-8. The snapshot is large. It
# is the last column, so that SQLite can read the other columns without reading the snapshot.
STATEMENTS: Final = (
    f"""
    CREATE TABLE jobs (
        number INTEGER PRIMARY KEY,
        job_id TEXT NOT NULL,
        kind TEXT NOT NULL,
        id_key TEXT,
        label TEXT,
        label_key TEXT,
        stage TEXT NOT NULL DEFAULT 'waiting',
        status TEXT,
        added_at REAL NOT NULL,
        settled_at REAL,
        done_at REAL,
        delivered_at REAL,
        result_path ANY,
        result_bytes INTEGER,
        result_sha256 TEXT,
        result_modified_ns INTEGER,
        error_kind TEXT,
        error TEXT,
        lasting INTEGER,
        partial INTEGER,
        credits REAL,
        columns TEXT,
        snapshot TEXT,
        UNIQUE (job_id, kind),
        {_CONSTRAINTS}
    ) STRICT
    """,
    # With these three indexes, a run of a batch finds its jobs fast, even in a journal with ten
    # million settled jobs.
    "CREATE INDEX jobs_waiting ON jobs (number) WHERE stage = 'waiting'",
    "CREATE INDEX jobs_fetching ON jobs (number) WHERE stage = 'fetching'",
    """
    CREATE INDEX jobs_undelivered ON jobs (number)
        WHERE done_at IS NOT NULL AND delivered_at IS NULL
    """,
    # With this index, a query finds out fast whether any job has columns.
    "CREATE INDEX jobs_with_columns ON jobs (number) WHERE columns IS NOT NULL",
    # With these two indexes, a query finds the jobs whose files would have the same name.
    "CREATE INDEX jobs_labelled ON jobs (label_key) WHERE label_key IS NOT NULL",
    "CREATE INDEX jobs_with_id_key ON jobs (id_key) WHERE id_key IS NOT NULL",
    # This index contains all columns by which jobs are counted, so that counting reads no row.
    """
    CREATE INDEX jobs_counted ON jobs
        (stage, status, settled_at, delivered_at, result_bytes, partial, credits)
        WHERE stage <> 'waiting'
    """,
    """
    CREATE TABLE data (
        number INTEGER PRIMARY KEY REFERENCES jobs (number),
        json TEXT NOT NULL
    ) STRICT
    """,
    """
    CREATE TABLE notes (
        key TEXT PRIMARY KEY NOT NULL,
        value TEXT NOT NULL
    ) STRICT, WITHOUT ROWID
    """,
)


def companion(journal: Path, end: str) -> Path:
    """Return the path of the journal with `end`, such as "-wal", added to the file name."""
    return journal.with_name(journal.name + end)


def files_of(journal: Path) -> tuple[Path, ...]:
    """Return the path of a journal, and the paths of its -wal, -shm, -journal and .lock files."""
    ends = (WAL_END, SHM_END, ROLLBACK_END, LOCK_END)
    return (journal, *(companion(journal, end) for end in ends))
