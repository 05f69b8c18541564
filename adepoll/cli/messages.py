"""Messages on stderr: one line each, with control characters escaped and the API key removed."""

import logging
import os
import re
import sys
from typing import Final, TextIO

import click

from adepoll import AdePollError
from adepoll.api.config import API_KEY_VARIABLE
from adepoll.common.redaction import REDACTED, showable

_LONGEST_LOG_LINE: Final = 2_000  # characters
_LONGEST_TEXT: Final = 200  # characters of a text from the service or a file
# Pairs of the library's advice for Python code and the same advice for the command line. The advice
# is found by its text, because a journal records only the class name and the text of an error.
_OPTIONS: Final = (
    (re.compile(", or pass api_key= to AdeClient"), ""),
    (re.compile("pass overwrite=True"), "use --overwrite"),
    (re.compile(r"write the chunks of stream\(\) to it"), 'use --out "-" and redirect it'),
    (re.compile("pass allow_private=True"), "use --allow-private"),
    (re.compile("pass region= or base_url="), "pass --region or --base-url"),
    (re.compile("pass the out_dir"), "pass the --out"),
    (re.compile("^out_dir "), "--out "),
    (re.compile("^base_url "), "--base-url "),
    (re.compile("^v2_base_url "), "--v2-base-url "),
    (re.compile("; check base_url"), "; check --base-url"),
    (re.compile("; pass to="), "; pass --to"),
    (re.compile(r"; to accept them, pass transport=TransportOptions\(.*?\)"), ""),
    (re.compile(r"TransportOptions\(client_certificate=\.\.\.\)"), "--cert"),
    (re.compile(r": pass a function as ResultFetcher\(resolve_url=.*? for reading"), ""),
    (
        re.compile(r"no rules for jobs of the kind (\S+); pass them as kinds=\[.*?\]"),
        r"unknown kind \1",
    ),
    (re.compile("^cannot read the ca_file"), "cannot read the --cacert file"),
    (re.compile("^cannot read the client_certificate"), "cannot read the --cert file"),
)


def say(text: str) -> None:
    """Print one line on stderr; do nothing if stderr cannot be written."""
    try:
        click.echo(text, err=True)
    except OSError:
        discard(sys.__stderr__)


def discard(stream: TextIO | None) -> None:
    """Redirect a stream to the null device, because writing to it has failed.

    The buffer of the stream still holds text. At exit, Python would try to write this text, and
    would report another error.
    """
    if stream is not None:
        with open(os.devnull, "wb") as null:  # noqa: PTH123 - a name of a device, not a path
            os.dup2(null.fileno(), stream.fileno())


def shown(text: str) -> str:
    """Return text from the service or a file, escaped and cut to 200 characters."""
    return showable(text, _LONGEST_TEXT)


def text_of(error: AdePollError) -> str:
    """Return the text of an error, with options such as ``--overwrite`` in place of arguments.

    The library's own text names Python arguments, such as ``overwrite=True``.
    """
    text = str(error)
    for advice, ours in _OPTIONS:
        text = advice.sub(ours, text)
    return text


class LogHandler(logging.Handler):
    """Prints log records on stderr, above the live display.

    Removes the API key and escapes control characters, in tracebacks too.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Print one log record on stderr."""
        text = self.format(record)
        if key := os.environ.get(API_KEY_VARIABLE, "").strip():
            text = text.replace(key, REDACTED)
        say("\n".join(showable(line, _LONGEST_LOG_LINE) for line in text.split("\n")))
