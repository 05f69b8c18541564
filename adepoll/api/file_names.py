"""The file name of a job's result. Imports nothing of adepoll."""

import hashlib
from typing import Final

_MAX_NAME_BYTES: Final = 200  # part files beside the result have longer names


def result_name(job_id: str) -> str:
    """Return the file name of a job's result: the id, shortened if it is too long for a name.

    `job_ids.check_job_id` has refused ids with slashes and backslashes, and ids of dots.
    """
    encoded = job_id.encode()
    if len(encoded) <= _MAX_NAME_BYTES:
        return f"{job_id}.json"
    head = encoded[:100].decode("utf-8", "ignore")
    return f"{head}-{hashlib.sha256(encoded).hexdigest()[:32]}.json"
