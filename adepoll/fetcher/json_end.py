"""Whether the text in a file ends where its JSON object ends. Blocking code."""

import os
import re
from typing import Final

_READ_SIZE: Final = 2**20

# A JSON string (RFC 8259, section 7); possessive quantifiers, so that hostile text takes no longer.
_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)


def ends_with_brace(fd: int, size: int) -> bool:
    """Return whether the last character that is not whitespace closes an object."""
    for stop in range(size, 0, -(2**16)):
        start = max(0, stop - 2**16)
        if text := os.pread(fd, stop - start, start).rstrip():
            return text.endswith(b"}")
    return False


def is_cut(fd: int) -> bool:
    """Return whether the braces outside of strings do not match, or a string does not end."""
    depth = 0
    open_string = b""  # a string whose end has not been read yet
    position = 0
    while chunk := os.pread(fd, _READ_SIZE, position):
        position += len(chunk)
        text, quote, rest = _STRING.sub(b"", open_string + chunk).partition(b'"')
        open_string = quote + rest
        depth += text.count(b"{") - text.count(b"}")
    return depth != 0 or bool(open_string)
