"""The bytes of a result that a poll has received, in memory or in a file. Imports json_envelope."""

import weakref
from contextlib import suppress
from pathlib import Path

from attrs import frozen

from adepoll.api.json_envelope import ObjectScanner
from adepoll.errors import MalformedAnswerError


@frozen
class ReceivedResult:
    """The bytes of a result, cut out of the answer of its job when they are needed.

    Attributes:
        answer: The answer, or the result itself if there are no names.
        names: Names that the result can have in the answer, the most usual one first.
    """

    answer: bytes
    names: tuple[str, ...] = ()

    def read(self) -> bytes | None:
        """Return the bytes of the result; None if they cannot be cut out of the answer.

        They cannot be cut out if the answer is not in UTF-8, or has two results.
        """
        if not self.names:
            return self.answer
        for name in self.names:
            with suppress(MalformedAnswerError):
                scanner = ObjectScanner(cut=name, max_value=0, max_members=None)
                result = b"".join(scanner.feed(self.answer))
                if scanner.is_complete and result[:1] == b"{":
                    return result
        return None


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
