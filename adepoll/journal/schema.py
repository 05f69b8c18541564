"""How a journal looks inside: one table of jobs, one of inline results, one of notes. No imports.

Made to be read by people with the sqlite3 shell; docs/journal.md explains every column.
"""

from typing import Final

APPLICATION_ID: Final = 0x61646570  # "adep", for `PRAGMA application_id` and file(1)
FORMAT: Final = 1  # `PRAGMA user_version`

# What holds for every job. Looked for at opening, too: SQLite knows no constraints of a file that
# it may not write.
RULES: Final = {
    "known_stage": "stage IN ('waiting', 'fetching', 'done', 'given_up')",
    "ended_with_snapshot": "stage NOT IN ('fetching', 'done') OR snapshot IS NOT NULL",
    "snapshot_has_time": "(snapshot IS NULL) = (settled_at IS NULL)",
    "snapshot_is_json": "snapshot IS NULL OR json_valid(snapshot)",
    "outcome_has_time": "(done_at IS NULL) = (stage IN ('waiting', 'fetching'))",
    "delivered_outcome": "delivered_at IS NULL OR done_at IS NOT NULL",
    "whole_error": """
        CASE stage WHEN 'given_up'
        THEN error_kind IS NOT NULL AND error IS NOT NULL AND lasting IN (0, 1)
        ELSE error_kind IS NULL AND error IS NULL AND lasting IS NULL END
    """,
    "whole_result": """
        CASE WHEN result_path IS NULL
        THEN result_bytes IS NULL AND result_sha256 IS NULL AND result_modified_ns IS NULL
        ELSE stage = 'done' AND typeof(result_path) IN ('text', 'blob') AND result_bytes >= 0
            AND length(result_sha256) = 64 AND result_modified_ns IS NOT NULL END
    """,
}
_CONSTRAINTS: Final = ",\n        ".join(
    f"CONSTRAINT {name} CHECK ({' '.join(rule.split())})" for name, rule in RULES.items()
)

# `result_path` is text, or a blob where the file system's name is no UTF-8: nothing is lost, and
# the shell shows both. The snapshot stands last, so that the rest is read without it.
STATEMENTS: Final = (
    f"""
    CREATE TABLE jobs (
        number INTEGER PRIMARY KEY,
        job_id TEXT NOT NULL UNIQUE,
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
        snapshot TEXT,
        {_CONSTRAINTS}
    ) STRICT
    """,
    # What a run goes through again and again stays cheap beside ten million settled jobs.
    "CREATE INDEX jobs_waiting ON jobs (number) WHERE stage = 'waiting'",
    "CREATE INDEX jobs_fetching ON jobs (number) WHERE stage = 'fetching'",
    """
    CREATE INDEX jobs_undelivered ON jobs (number)
        WHERE done_at IS NOT NULL AND delivered_at IS NULL
    """,
    # Holds all that is counted, so that no snapshot is read for it.
    """
    CREATE INDEX jobs_counted ON jobs (stage, status, settled_at, delivered_at, result_bytes)
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
