"""ReceivedResult: the result of a job as the service has sent it. Imports json_envelope."""

from contextlib import suppress

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
