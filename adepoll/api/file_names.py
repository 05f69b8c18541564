"""The file name of a job's result, and which paths are local. Imports errors only."""

import hashlib
import os
import re
from typing import Final

from adepoll.errors import ConfigurationError

_MAX_NAME_BYTES: Final = 200  # part files beside the result have longer names
_URL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")  # Path makes one slash of two


def check_is_local(path: str | os.PathLike[str], name: str) -> None:
    """Raise if a path is a URL: it would silently become a local folder with a name like ``s3:``.

    A local path that looks like a URL can be written as ``./s3:/bucket``.

    Args:
        path: The path.
        name: The caller's name for it.

    Raises:
        ConfigurationError: The path is a URL.
    """
    if found := _URL.match(os.fsdecode(path)):
        raise ConfigurationError(
            f"{name} must be a local path, not a URL that begins with {found[1]}://"
        )


def result_name(job_id: str) -> str:
    """Return the file name of a job's result: the id, shortened if it is too long for a name.

    `job_ids.check_job_id` has refused ids with slashes and backslashes, and ids of dots.
    """
    encoded = job_id.encode()
    if len(encoded) <= _MAX_NAME_BYTES:
        return f"{job_id}.json"
    head = encoded[:100].decode("utf-8", "ignore")
    return f"{head}-{hashlib.sha256(encoded).hexdigest()[:32]}.json"
