"""The file name of a job's result, and which paths are local. Imports `errors` only.

`batch/result_fetching.py` decides whether the result of a job is named by its id or by its label
(`label_stem`). `cli/fetch.py` uses `result_name`. Other files have other names: part
files of downloads in `fetcher/part_names.py`, and results that polls keep in `result_dir` in
`api/result_folder.py`. The name that a server suggests to a browser is in
`server/result_responses.py`.
"""

import hashlib
import os
import re
import unicodedata
from typing import Final

from adepoll.errors import ConfigurationError

# Largest size of a name without ".json", in bytes. Most file systems allow names of 255 bytes, but
# eCryptfs, which encrypts the folders of many network storages, allows 143.
_MAX_NAME_BYTES: Final = 138
_LONGEST_LABEL: Final = 1_000  # characters of a label that can appear in its name
_BEFORE_ID: Final = "~"  # between a name that several jobs have, and the id of the job
# Characters that Windows forbids in names, and "~", so that no label can give a `name_with_id`.
_FORBIDDEN: Final = frozenset(f'/\\:*?"<>|{_BEFORE_ID}')
_RESERVED: Final = frozenset(  # names that Windows forbids, also with an ending such as ".json"
    ["CON", "PRN", "AUX", "NUL", *(f"{name}{n}" for name in ("COM", "LPT") for n in range(1, 10))]
)
# Printable characters with the property Default_Ignorable_Code_Point.
_IGNORABLE: Final = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef]"
)
# The pattern has only one slash, because `Path("s3://x")` is "s3:/x".
_URL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")


def check_is_local(path: str | os.PathLike[str], name: str) -> None:
    """Raise if a path is a URL, because such a path would silently create a folder like ``s3:``.

    A local path that begins like a URL can be written as ``./s3:/bucket``.

    Args:
        path: The path.
        name: Name of the argument or option with the path, for the error.

    Raises:
        ConfigurationError: The path is a URL.
    """
    if found := _URL.match(os.fsdecode(path)):
        raise ConfigurationError(
            f"{name} must be a local path, not a URL that begins with {found[1]}://"
        )


def result_name(name: str) -> str:
    """Return the file name of a job's result: `name` and ".json". A long name is shortened.

    The name is the id of the job, a `label_stem`, or a `name_with_id`. The id must be valid
    (`job_ids.check_job_id`). Otherwise, it could be a path with slashes or dots, which names a file
    in another folder.
    """
    return f"{_shortened(name)}.json"


def label_stem(label: str) -> str:
    """Return a file name without an extension for a label. The name is never empty.

    Slashes, backslashes, "~", unprintable characters, and characters that Windows forbids become
    "_". Dots and spaces at both ends are removed, and a long label is shortened. Different labels
    can give the same name.
    """
    bare = label.strip("/\\ ")
    if len(bare) > _LONGEST_LABEL:
        # The rest of the label only counts for the hash. To normalise many combining characters
        # takes a time in proportion to the square of their number: a minute for 250,000 characters.
        bare = bare[:_LONGEST_LABEL] + _hash_of(bare.encode("utf-8", "surrogatepass"))
    text = "".join(
        "_" if char in _FORBIDDEN or not char.isprintable() else char
        for char in unicodedata.normalize("NFC", bare)
    )
    text = text.strip(". ") or "_"
    if text.partition(".")[0].rstrip().upper() in _RESERVED:
        text = f"_{text}"
    return _shortened(text)


def name_with_id(name: str, job_id: str) -> str:
    """Return the name of a job that shares `name` with another job; no label gives this name."""
    return f"{name}{_BEFORE_ID}{job_id}"


def id_with_hash(job_id: str, job: str) -> str:
    """Return a text in place of an id that is too similar to the id of another job.

    Args:
        job_id: The id.
        job: The text of the `JobRef`, which also contains the kind of the job.
    """
    return f"{job_id}{_BEFORE_ID}{_hash_of(job.encode())[:16]}"


def name_key(name: str) -> str:
    """Return a key that is equal for two names if a file system can take them for one name.

    File systems can ignore upper and lower case (Windows, macOS), Unicode normalisation (macOS,
    ZFS), and characters that nobody sees (ext4 with casefold). This is Unicode's compatibility
    caseless match (Unicode Standard, section 3.13, D146), without ignorable characters. The key of
    a key is the key itself.
    """
    if name.isascii():
        return name.lower()
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFD", name).casefold())
    return unicodedata.normalize("NFKD", _IGNORABLE.sub("", folded.casefold()))


def _shortened(text: str) -> str:
    """Return a short name unchanged; for a long name, its beginning and a hash of the whole name.

    Because of the hash, different long names remain different.
    """
    encoded = text.encode()
    if len(encoded) <= _MAX_NAME_BYTES:
        return text
    head = encoded[:100].decode("utf-8", "ignore")
    return f"{head}-{_hash_of(encoded)}"


def _hash_of(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()[:32]
