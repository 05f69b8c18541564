"""Encodes a settled job for a journal: the snapshot, and separately its inline result.

Imports api.
"""

import sqlite3
from contextlib import suppress

from adepoll.api import codec
from adepoll.api.models import JobSnapshot


def snapshot_json(snapshot: JobSnapshot) -> str:
    """Return a snapshot as JSON, without its result and without possible secrets.

    Any text of the service can contain a presigned URL, which is a secret. For example, a failure
    reason contains the `output_save_url` if the service could not store the result there.
    """
    return snapshot.without_data().redacted().to_json()


def result_json(connection: sqlite3.Connection, snapshot: JobSnapshot) -> str:
    """Return the JSON of an inline result.

    This is the text that the service sent, unless the snapshot does not have it, or SQLite refuses
    it, for example because it contains NaN. Then the result is encoded again.
    """
    received = None if snapshot.received_result is None else snapshot.received_result.read()
    if received is not None:
        with suppress(UnicodeDecodeError):
            text = received.decode()
            if connection.execute("SELECT json_valid(?)", (text,)).fetchone()[0]:
                return text
    return codec.encode(snapshot.data)
