"""The file name of a job's result, and which paths are local. Imports errors only."""

import hashlib
import os
import re
import unicodedata
from typing import Final

from adepoll.errors import ConfigurationError

_MAX_NAME_BYTES: Final = 200  # part files beside the result have longer names
_FORBIDDEN: Final = frozenset('/\\:*?"<>|')  # on Windows
_RESERVED: Final = frozenset(  # on Windows, with any ending
    ["CON", "PRN", "AUX", "NUL", *(f"{name}{n}" for name in ("COM", "LPT") for n in range(1, 10))]
)
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
    return f"{_shortened(job_id)}.json"


def label_stem(label: str) -> str:
    """Return a label as the name of a file without its ending; "_" if nothing of it can be one.

    Separators of paths, characters that some system forbids, and unprintable characters become "_".
    Dots and spaces at both ends are removed, and a long label is shortened. Different labels can
    have the same name.
    """
    text = "".join(
        "_" if char in _FORBIDDEN or not char.isprintable() else char
        for char in unicodedata.normalize("NFC", label.strip("/\\ "))
    )
    text = text.strip(". ") or "_"
    if text.partition(".")[0].rstrip().upper() in _RESERVED:
        text = f"_{text}"
    return _shortened(text)


def label_name(label: str, job_id: str | None = None) -> str:
    """Return the file name of a result that is named after its label.

    Args:
        label: The label.
        job_id: Id of the job, if another job has the same name.
    """
    stem = label_stem(label)
    return f"{stem}.json" if job_id is None else result_name(f"{stem}-{job_id}")


def _shortened(text: str) -> str:
    encoded = text.encode()
    if len(encoded) <= _MAX_NAME_BYTES:
        return text
    head = encoded[:100].decode("utf-8", "ignore")
    return f"{head}-{hashlib.sha256(encoded).hexdigest()[:32]}"
