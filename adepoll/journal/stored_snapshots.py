"""What a journal stores of a settled job: the snapshot, and apart from it an inline result.

Imports api.
"""

import sqlite3
from contextlib import suppress

from adepoll.api import codec
from adepoll.api.models import JobSnapshot


def snapshot_json(snapshot: JobSnapshot) -> str:
    """Return a snapshot as JSON, without its data and without possible secrets.

    Any text of the service can contain a presigned URL. For example, a failure reason contains one
    if the service could not store the result where the caller wanted it.
    """
    return snapshot.without_data().redacted().to_json()


def result_json(connection: sqlite3.Connection, snapshot: JobSnapshot) -> str:
    """Return the JSON of an inline result, as the service has sent it if SQLite accepts that.

    SQLite refuses NaN, for example.
    """
    received = None if snapshot.received_result is None else snapshot.received_result.read()
    if received is not None:
        with suppress(UnicodeDecodeError):
            text = received.decode()
            if connection.execute("SELECT json_valid(?)", (text,)).fetchone()[0]:
                return text
    return codec.encode(snapshot.data)
