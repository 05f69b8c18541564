"""Keeps the bytes of a result that a poll has received."""

import os
import weakref
from contextlib import suppress
from pathlib import Path

from attrs import frozen

from adepoll.api.json_envelope import ObjectScanner
from adepoll.errors import MalformedAnswerError


@frozen
class ReceivedResult:
    """The bytes of a result, as the service has sent them; `read` returns these bytes.

    Attributes:
        answer: The bytes of the whole answer about the job. Only the bytes of the result if `names`
            is empty.
        names: Names that the result can have in the JSON of the answer, the most usual name first.
    """

    answer: bytes
    names: tuple[str, ...] = ()

    def read(self) -> bytes | None:
        """Return the bytes of the result; None if they cannot be found.

        They cannot be found if the JSON of the answer cannot be read, or if its first 256 members
        contain no result, or two results with the same name.
        """
        if not self.names:
            return self.answer
        for name in self.names:
            with suppress(MalformedAnswerError):
                scanner = ObjectScanner(streamed=name, max_value=0)
                result = b"".join(scanner.feed(self.answer))
                if scanner.is_complete and result[:1] == b"{":
                    return result
        return None


class KeptResult:
    """A file with the bytes of a result that a poll has received.

    The file is deleted when this object is garbage collected, unless `keep` was called.

    Attributes:
        path: The file.
        size: Size of the file in bytes.
    """

    def __init__(self, path: Path, claim: object = None) -> None:
        """Create an object that owns an existing file.

        Args:
            path: The file.
            claim: Object that must exist as long as the file: it holds the lock that shows other
                processes that the file is in use.
        """
        self.path = path
        self.size = 0
        self._delete = weakref.finalize(self, _delete, str(path), claim)

    def keep(self) -> None:
        """Keep the file when this object is garbage collected; by default, it is deleted then."""
        self._delete.detach()

    def rename(self, path: Path) -> None:
        """Sync the file to the disk, rename it, and call `keep`. Blocks the thread.

        Raises:
            OSError: The file was not renamed.
        """
        with self.path.open("r+b") as file:
            os.fsync(file.fileno())
        self.path.replace(path)
        self.path = path
        self.keep()

    def delete(self) -> None:
        """Delete the file now; if this fails, the next process that uses the folder deletes it."""
        self.keep()
        _delete(str(self.path), None)


@frozen(kw_only=True)
class ReadAnswer:
    """A large answer that was read: its JSON without the result, and the file with the result.

    Attributes:
        body: JSON of the answer with the metadata of the result, but without the result.
        is_partial: True if the result says that it does not conform to the caller's schema. For a
            workflow: if a step says so, or says that pages have failed.
        result: File with the bytes of the result; None if they were not kept.
    """

    body: bytes
    is_partial: bool
    result: KeptResult | None


def _delete(path: str, _claim: object) -> None:
    with suppress(OSError):
        Path(path).unlink()
