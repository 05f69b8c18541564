"""LargeAnswer: reads an answer about a job whose result is too large to be kept in memory.

Everything but the result is kept in memory, also the metadata of the result. The result is written
to a file if there is a folder for it, and otherwise left out.
"""

import json
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import IO, Final

from adepoll.api.error_text import error_text
from adepoll.api.json_envelope import MemberLimit, ObjectScanner
from adepoll.api.json_text import Json
from adepoll.api.received_result import KeptResult, ReadAnswer
from adepoll.api.result_folder import ResultFolder
from adepoll.common.system_errors import reason_of
from adepoll.common.threads import run_in_thread
from adepoll.errors import AnswerTooLargeError, MalformedAnswerError

_log = logging.getLogger(__name__)

_WRITE_SIZE: Final = 2**18  # bytes that are collected for each write to the file
_CHUNK: Final = 2**17  # bytes that are read in one step; limits the memory
_LARGEST: Final = 2**30  # bytes; a larger answer raises AnswerTooLargeError
_MAX_STEPS: Final = 100  # steps of all workflows that are read
_MAX_MEMBERS: Final = 1_000  # members of all workflows, their steps, and the metadata of the steps
_MAX_STEP_VALUE: Final = 2**14  # bytes of a value of a step that is read


class LargeAnswer:
    """Reads an answer about a job while its bytes arrive; its result is not kept in memory."""

    def __init__(self, result_field: str, folder: ResultFolder | None) -> None:
        """Create a reader that has not read anything yet.

        Args:
            result_field: Name of the result in the JSON of the answer.
            folder: Folder for the file of the result; None to leave the result out.
        """
        self._result = ObjectScanner(scanner_of=self._scan_output)
        self._limit = MemberLimit(_MAX_MEMBERS)  # of the scanners of workflows and steps
        self._steps: list[ObjectScanner] = []  # scanners of the steps of a workflow
        self._metadata: list[ObjectScanner] = []  # scanners of the metadata of these steps
        self._envelope = ObjectScanner(streamed=result_field, streamed_scanner=self._result)
        self._folder = folder
        self._kept: KeptResult | None = None
        self._file: IO[bytes] | None = None
        self._pieces: list[memoryview] = []
        self._waiting = 0  # bytes in `_pieces`
        self._size = 0

    async def read(
        self,
        chunks: list[bytes],
        read: Callable[[int], Awaitable[bytes]],
        received: Callable[[int], None],
        *,
        job_id: str | None,
    ) -> ReadAnswer:
        """Read the whole answer, and return it without its result.

        Args:
            chunks: The first chunks of the answer, which have already arrived; they are removed.
            read: Returns the next bytes, at most as many as its argument; empty at the end.
            received: Called with the size of each chunk that was read.
            job_id: Id of the job, for errors.

        Raises:
            AnswerTooLargeError: The answer has more than 1 GiB.
            MalformedAnswerError: As for `feed` and `finish`.
        """
        size = 0
        chunks.reverse()
        try:
            while chunk := chunks.pop() if chunks else await read(_CHUNK):
                await self.feed(chunk)
                size += len(chunk)
                received(len(chunk))
                if size > _LARGEST:
                    raise AnswerTooLargeError(limit=_LARGEST, job_id=job_id, is_fixed=True)
            return await self.finish()
        except MalformedAnswerError as exc:
            raise MalformedAnswerError(exc.problems, job_id=job_id) from None
        finally:
            self.close()

    async def feed(self, chunk: bytes) -> None:
        """Read the next bytes of the answer.

        If the result cannot be written, for example because the disk is full, it is left out.

        Raises:
            MalformedAnswerError: The answer or its result is not a JSON object.
        """
        for piece in self._envelope.feed(chunk):
            if self._folder is not None:
                self._pieces.append(piece)
                self._waiting += len(piece)
        if self._waiting >= _WRITE_SIZE:
            await self._flush()

    async def finish(self) -> ReadAnswer:
        """Return the answer without its result. Call this after the last bytes.

        Raises:
            MalformedAnswerError: The answer is not complete.
        """
        if not self._envelope.is_complete:
            raise MalformedAnswerError(["the answer ends too early"])
        if self._waiting:
            await self._flush()
        body = self._envelope.short_members()
        metadata = self._result.members.get("metadata")
        # As for a small answer, metadata that is not an object counts as missing.
        if metadata is not None and self._envelope.members.get("metadata", b"")[:1] != b"{":
            comma = b"," if self._envelope.members else b""
            body = b'%b%b"metadata":%b}' % (body[:-1], comma, metadata)
        is_partial = (
            _violates_schema(self._result)
            or any(map(_violates_schema, self._steps))
            or any(map(_has_failed_pages, self._metadata))
        )
        return ReadAnswer(body=body, is_partial=is_partial, result=self._keep())

    def close(self) -> None:
        """Delete the file of the result, unless `finish` has returned it."""
        if self._file is not None:
            with suppress(OSError):  # closing writes the last bytes, which can fail
                self._file.close()
            self._file = None
        if self._kept is not None:
            self._kept.delete()

    def _scan_output(self, name: str) -> ObjectScanner | None:
        """Return a scanner for the member "output" of a result; None for any other name.

        Only the result of a workflow job has this member. It contains the results of the steps, and
        the scanner finds out whether one of them is partial.
        """
        if name != "output":
            return None
        return ObjectScanner(scanner_of=self._scan_workflow, max_value=0, limit=self._limit)

    def _scan_workflow(self, _name: str) -> ObjectScanner:
        """Return a scanner for the steps of one workflow."""
        return ObjectScanner(scanner_of=self._scan_step, max_value=0, limit=self._limit)

    def _scan_step(self, _name: str) -> ObjectScanner | None:
        """Return a scanner for the result of one step of a workflow; None after 100 steps."""
        if len(self._steps) == _MAX_STEPS:
            return None
        scanner = ObjectScanner(
            scanner_of=self._scan_step_metadata,
            limit=self._limit,
            max_value=_MAX_STEP_VALUE,
            max_total=4 * _MAX_STEP_VALUE,
        )
        self._steps.append(scanner)
        return scanner

    def _scan_step_metadata(self, name: str) -> ObjectScanner | None:
        """Return a scanner for the member "metadata" of a step; None for any other name."""
        if name != "metadata" or len(self._metadata) == _MAX_STEPS:
            return None
        self._metadata.append(
            ObjectScanner(
                limit=self._limit, max_value=_MAX_STEP_VALUE, max_total=4 * _MAX_STEP_VALUE
            )
        )
        return self._metadata[-1]

    async def _flush(self) -> None:
        """Write the buffered bytes of the result to its file."""
        pieces, self._pieces, self._waiting = self._pieces, [], 0
        if self._folder is None:
            return
        try:
            await run_in_thread(self._write, self._folder, pieces)
        except OSError as exc:
            self._leave_out(exc)

    def _write(self, folder: ResultFolder, pieces: Iterable[memoryview]) -> None:
        """Write pieces of the result to its file; create the file at the first call."""
        if self._file is None:
            self._kept = folder.create()
            self._file = self._kept.path.open("wb")  # `_keep` or `close` closes it
        for piece in pieces:
            self._file.write(piece)
            self._size += len(piece)

    def _leave_out(self, cause: OSError) -> None:
        """Delete the file, and do not write the rest of the result: a write has failed."""
        _log.warning(
            "a result of more than %d bytes cannot be kept: %s; it is fetched later",
            self._size,
            reason_of(cause),
        )
        self._folder = None
        self.close()

    def _keep(self) -> KeptResult | None:
        """Close the file of the result and return it; None if the result was not kept in a file."""
        if self._file is None:
            return None
        try:
            self._file.close()
        except OSError as exc:  # closing writes the last bytes, which can fail
            self._leave_out(exc)
            return None
        self._file = None
        kept, self._kept = self._kept, None
        if kept is not None:
            kept.size = self._size
        return kept


def _violates_schema(result: ObjectScanner) -> bool:
    """Return whether a result of a job or step says that its data violates the caller's schema."""
    name = "schema_violation_error"
    return name in result.long_members or bool(error_text(_value_of(name, result)))


def _has_failed_pages(metadata: ObjectScanner) -> bool:
    """Return whether the metadata of a step say that pages of the document could not be parsed."""
    name = "failed_pages"
    return name in metadata.long_members or bool(_value_of(name, metadata))


def _value_of(name: str, scanner: ObjectScanner) -> Json:
    """Return the parsed value of a member; None if it is missing, too long or not JSON."""
    with suppress(ValueError, RecursionError):
        return json.loads(scanner.members.get(name, b"null"))
    return None
