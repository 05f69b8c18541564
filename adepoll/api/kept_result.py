"""What is kept of a large answer: the bytes of its result in a file, and the rest in memory."""

import weakref
from contextlib import suppress
from pathlib import Path

from attrs import frozen


class KeptResult:
    """The bytes of a result that a poll has received, in a file that is deleted with this object.

    Attributes:
        path: The file.
        size: Its size in bytes.
    """

    def __init__(self, path: Path, claim: object = None) -> None:
        """Own a file from now on.

        Args:
            path: The file.
            claim: Shows other processes that the file is in use, and is kept until it is deleted.
        """
        self.path = path
        self.size = 0
        self._delete = weakref.finalize(self, _delete, str(path), claim)

    def delete(self) -> None:
        """Delete the file now."""
        self._delete()


@frozen(kw_only=True)
class ReadAnswer:
    """What remains of a large answer.

    Attributes:
        body: JSON of the envelope without the result, with the metadata of the result.
        violates_schema: True if the result says that it does not conform to the schema.
        result: The bytes of the result; None if they were not kept.
    """

    body: bytes
    violates_schema: bool
    result: KeptResult | None


def _delete(path: str, _claim: object) -> None:
    with suppress(FileNotFoundError):
        Path(path).unlink()
