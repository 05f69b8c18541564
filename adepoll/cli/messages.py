"""Messages on stderr: one line each, with control characters escaped and the API key removed."""

import logging
import os
import sys
from typing import Final, TextIO

import click

from adepoll.api.config import API_KEY_VARIABLE
from adepoll.errors import AdePollError
from adepoll.redaction import REDACTED, showable

_LONGEST_LOG_LINE: Final = 2_000  # characters
_LONGEST_TEXT: Final = 200  # characters
_OPTIONS: Final = (
    (", or pass api_key= to AdeClient", ""),
    ("pass overwrite=True", "use --overwrite"),
    ("pass allow_private=True", "use --allow-private"),
    ("pass the out_dir", "pass the --out"),
)


def say(text: str) -> None:
    """Print one line on stderr; do nothing if stderr cannot be written."""
    try:
        click.echo(text, err=True)
    except OSError:
        discard(sys.__stderr__)


def discard(stream: TextIO | None) -> None:
    """Redirect a stream that cannot be written to the null device.

    Its buffer still holds text. Python would try to write that at exit, and report the error.
    """
    if stream is not None:
        with open(os.devnull, "wb") as null:  # noqa: PTH123 - a device, not a path
            os.dup2(null.fileno(), stream.fileno())


def shown(text: str) -> str:
    """Return text from the service or a file, escaped and cut to fit on a terminal."""
    return showable(text, _LONGEST_TEXT)


def text_of(error: AdePollError) -> str:
    """Return the text of an error; `overwrite=True` and the like become command-line options."""
    text = str(error)
    for argument, option in _OPTIONS:
        text = text.replace(argument, option)
    return text


class LogHandler(logging.Handler):
    """Prints log records with `say`, so that they appear above the live display.

    Removes the API key and escapes control characters, in tracebacks too.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        text = self.format(record)
        if key := os.environ.get(API_KEY_VARIABLE, "").strip():
            text = text.replace(key, REDACTED)
        say("\n".join(showable(line, _LONGEST_LOG_LINE) for line in text.split("\n")))
