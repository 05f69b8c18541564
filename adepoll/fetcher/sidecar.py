"""The note beside a temporary file: which bytes of which version it holds. Imports answers.

It is written over in place, as often as bytes are: to make a file anew each time would cost more
than they do. A checksum shows whether all of it was written.

It outlasts the process, not the machine's going down: what the kernel had not written then is
lost in any order. So it tells in which run of the machine it was written (Linux's ``boot_id``),
and is not believed in another one; where that cannot be known, the bytes are synced before each
note.
"""

import errno
import json
import os
from binascii import crc32
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Final

from attrs import frozen

from adepoll.api.models import Json
from adepoll.fetcher.answers import Version

_FORMAT: Final = 2
_MOST_BYTES: Final = 2**20
_WORTH_A_SYNC: Final = 2**23  # bytes


@frozen
class Kept:
    """What a temporary file holds.

    Attributes:
        version: Of the object whose bytes these are.
        done: The spans that are there, each as (start, stop).
    """

    version: Version
    done: list[tuple[int, int]]

    @property
    def is_sure(self) -> bool:
        """Whether more bytes of that version can be told from those of any other."""
        return self.version.size is not None and self.version.is_strong


class ResumeState:
    """The note of one temporary file, of which only what was written last is there.

    Attributes:
        worth: Bytes that should have come since the last note before another one is written.
    """

    def __init__(self, part: Path) -> None:
        """`part` is the temporary file; nothing is touched yet."""
        self.worth = 0 if _boot_id() else _WORTH_A_SYNC
        self._path = part.with_name(f"{part.name}.json")
        self._new = part.with_name(f"{part.name}.json.new")
        self._fd: int | None = None
        self._last = b""  # what stands there

    def read(self, job_id: str, length: int) -> Kept | None:
        """Give what a file of that length holds of that job; None where that is not sure."""
        try:
            # What others may have put there: a link is not followed, a pipe not waited for.
            fd = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                note = _unseal(os.read(fd, _MOST_BYTES))
            finally:
                os.close(fd)
        except (OSError, ValueError, RecursionError):
            return None
        kept = _believed(note, job_id, length)
        return kept if kept is not None and kept.is_sure else None

    def write(self, fd: int, job_id: str, kept: Kept) -> None:
        """Write what the file `fd` holds over the note before; raises `OSError`."""
        boot = _boot_id()
        if boot is None:
            os.fsync(fd)
        note = {
            "format": _FORMAT,
            "job_id": job_id,
            "size": kept.version.size,
            "etag": kept.version.etag,
            "boot": boot,
            "done": kept.done,
        }
        sealed = _seal(json.dumps(note))
        if self._fd is None:
            self._begin(sealed)
        else:
            try:
                _write(self._fd, sealed)
            except OSError:
                # A full disk can take a part of a note, and had room for the one before.
                with suppress(OSError):
                    _write(self._fd, self._last)
                raise
        self._last = sealed

    def close(self) -> None:
        """Write no more; what was noted stays."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            _close(fd)

    def remove(self) -> None:
        """Take the note away, if there is one; raises `OSError`."""
        self.close()
        for path in (self._path, self._new):
            with suppress(FileNotFoundError):
                path.unlink()

    def _begin(self, sealed: bytes) -> None:
        """Put a new file in the place of whatever is there, once a note is in it."""
        with suppress(FileNotFoundError):
            self._new.unlink()  # a link or a pipe may have been put there, too
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        fd = os.open(self._new, flags, 0o600)
        try:
            _write(fd, sealed)
            self._new.replace(self._path)
        except OSError:
            _close(fd)
            with suppress(OSError):
                self._new.unlink()
            raise
        self._fd = fd


def _close(fd: int) -> None:
    # Where this fails (close(2)), `fd` is closed all the same; a note that is not there is a loss,
    # and one of which not all is there is found out.
    with suppress(OSError):
        os.close(fd)


def _write(fd: int, note: bytes) -> None:
    if os.pwrite(fd, note, 0) < len(note):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _seal(text: str) -> bytes:
    """Give a note of which it shows whether all of it is there."""
    body = text.encode("ascii")
    return b"%08x %b\n" % (crc32(body), body)


def _unseal(sealed: bytes) -> Json:
    """Read what `_seal` gave, and what may stand behind it of a longer one; or `ValueError`."""
    checksum, _, body = sealed.partition(b"\n")[0].partition(b" ")
    if checksum != b"%08x" % crc32(body):
        raise ValueError("not all of it is there")
    return json.loads(body)


def _believed(note: Json, job_id: str, length: int) -> Kept | None:
    """Give what a note says, if it is one of ours, about this job, and can be true."""
    match note:
        case {
            "format": 2,
            "job_id": str(whose),
            "size": int(size),
            "etag": str(etag),
            "boot": str() | None as boot,
            "done": list(done),
        } if whose == job_id and boot == _boot_id():
            spans = [_span(item) for item in done]
            if all(0 <= start < stop <= min(size, length) for start, stop in spans):
                return Kept(Version(size, etag), sorted(spans))
    return None


def _span(item: Json) -> tuple[int, int]:
    match item:
        case [int(start), int(stop)]:
            return start, stop
    return 0, 0  # which no span is


@cache
def _boot_id() -> str | None:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None
