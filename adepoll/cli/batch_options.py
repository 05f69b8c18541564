"""The options of `watch` and `resume`, as the user gives them and as a journal saves them."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Literal, get_args

from attrs import asdict, evolve, frozen

import adepoll
from adepoll import ConfigurationError
from adepoll.api.config import (
    BASE_URL_VARIABLE,
    REGION_VARIABLE,
    V2_BASE_URL_VARIABLE,
    read_base_urls,
)
from adepoll.cli.options import MAX_SIMULTANEOUS, NAME_CHOICES, Discovery, make_client
from adepoll.common.redaction import path_word, shell_line, showable
from adepoll.journal.endpoints import Endpoints
from adepoll.journal.foreign_file import recorded_folder

# Name of the journal's note that holds the saved options, which `resume` uses again.
OPTIONS_NOTE: Final = "options"
# Name of the journal's note that is READING until all ids have been read, and READ afterwards.
IDS_NOTE: Final = "ids"
READING: Final = "reading"
READ: Final = "read"
# Stands for the folder for results in a command, if the user has not chosen one yet.
ANY_FOLDER: Final = Path("DIR")
GIVE_IDS_AGAIN: Final = (
    "pass them again with the same --journal and --out; ids that the journal already contains are "
    "skipped"
)
IDS_MAY_BE_MISSING: Final = (
    f"the last run may have ended before it had read all ids: {GIVE_IDS_AGAIN}"
)
_MAX_NUMBER: Final = 1e12


def _is_count(value: object) -> bool:
    return type(value) is int and 1 <= value <= MAX_SIMULTANEOUS


def _is_number(value: Any) -> bool:
    return type(value) in {int, float} and abs(value) <= _MAX_NUMBER


# The options that a journal saves. Each has a function that returns whether a value is valid.
# Values are checked because somebody else may have written the journal.
_SAVED: Final[Mapping[str, Callable[[Any], bool]]] = {
    "concurrency": _is_count,
    "discovery": lambda value: value in get_args(Discovery),
    "downloads": _is_count,
    "name": lambda value: value in NAME_CHOICES,
    "max_rate": lambda value: _is_number(value) and value > 0,
    "timeout": lambda value: _is_number(value) and value >= 0,
}


def ids_may_be_missing(note: str | None, jobs: int) -> bool:
    """Return whether the last run may have ended before it had read all ids.

    Args:
        note: The note `IDS_NOTE` of the journal: `READING` or `READ`. None if the run ended before
            it began to read ids, or if the journal is not from the command but from a program.
        jobs: Number of jobs in the journal.
    """
    return note == READING or (note is None and not jobs)


@frozen(kw_only=True)
class BatchOptions:
    """The options of a batch from the command line. None: the user did not give the option.

    Attributes:
        kind: Kind to assume for an id that does not contain its kind.
        region: Region of the API key.
        base_url: URL of the API, instead of a region.
        v2_base_url: URL of the API for v2 jobs, if it differs from `base_url`.
        max_rate: Maximum number of requests per second.
        proxy: URL of a proxy for all requests.
        cacert: PEM file with additional certificate authorities to trust.
        cert: PEM file with a client certificate and its key.
        out: Folder for results.
        name: "id" or "label": result files are named after the id or the label of their job.
        timeout: Seconds after which the run gives up the jobs that have not settled.
        concurrency: Maximum number of simultaneous requests: polls and pages of the job list.
        downloads: Maximum number of simultaneous downloads.
        discovery: How the watcher finds jobs that may have settled; see `JobWatcher`.
        overwrite: True to replace existing files.
        verify: True to check the files of earlier runs.
        allow_private: True to allow result URLs with private addresses or plain http.
        replay: True to print the outcomes of earlier runs again.
        strict: True to exit with 5 if all jobs completed but some results are partial.
        quiet: True to print only errors on stderr.
        as_json: True to print JSON lines even if stdout is a terminal.
    """

    kind: str | None = None
    region: str | None = None
    base_url: str | None = None
    v2_base_url: str | None = None
    max_rate: float | None = None
    proxy: str | None = None
    cacert: Path | None = None
    cert: Path | None = None
    out: Path | None = None
    name: str | None = None
    timeout: float | None = None
    concurrency: int | None = None
    downloads: int | None = None
    discovery: Discovery | None = None
    overwrite: bool = False
    verify: bool = True
    allow_private: bool = False
    replay: bool = False
    strict: bool = False
    quiet: bool = False
    as_json: bool = False

    def connect(self) -> "adepoll.AdeClient":
        """Return a new client with these options."""
        return make_client(
            region=self.region,
            base_url=self.base_url,
            v2_base_url=self.v2_base_url,
            max_rate=self.max_rate,
            proxy=self.proxy,
            cacert=self.cacert,
            cert=self.cert,
            kind=self.kind,
        )

    @property
    def name_by(self) -> Literal["job_id", "label"]:
        """The option ``--name``, as the argument `name_by` of `Batch`."""
        return "label" if self.name == "label" else "job_id"

    def to_note(self) -> str:
        """Return the options that the journal saves for later runs, as JSON without secrets."""
        return json.dumps(self._saved())

    def with_note(self, note: str | None) -> "BatchOptions":
        """Return a copy in which options that the user did not give have the values in `note`.

        `note` is the return value of `to_note` in an earlier run; None if there was no earlier run.
        """
        return evolve(self, **(_read_note(note) | self._saved()))

    def with_endpoints_of(self, endpoints: Endpoints, journal: Path) -> "BatchOptions":
        """Return these options, with URLs of the API (`endpoints`) if the user has set none.

        If an option or an environment variable sets a URL or the region, return the same options.
        Otherwise, add the URLs of the journal, but only LandingAI's own URLs: the API key is sent
        to them, and somebody else may have written the journal.

        Raises:
            ConfigurationError: A URL of the journal is not LandingAI's. The user must confirm it
                with an option.
        """
        if self.region or self.base_url or self.v2_base_url or _environment_sets_endpoint():
            return self
        if endpoints.are_official:
            return evolve(self, base_url=endpoints.v1, v2_base_url=endpoints.v2)
        has_two = endpoints.v2 != endpoints.v1
        variables = [BASE_URL_VARIABLE] + [V2_BASE_URL_VARIABLE] * has_two
        raise ConfigurationError(
            f"the jobs of the journal {showable(str(journal))} are at {endpoints.shown}, which is "
            "not a region of LandingAI; the API key would be sent there. If that is correct, "
            f"confirm it with {shell_line(_url_words(endpoints))} or {' and '.join(variables)}"
        )

    def check_folder(self, recorded: str | None, journal: Path) -> None:
        """Raise if the journal names a folder for results, but the user does not.

        The user must confirm the folder with ``--out``: somebody else may have written the journal,
        and in some folders, a new file can change the settings of another program.

        Args:
            recorded: The folder that the journal names; None if it names no folder.
            journal: Path of the journal, for the error message.

        Raises:
            ConfigurationError: The journal names a folder, and `out` is None.
            JournalDamagedError: The folder in the journal is not an absolute path.
        """
        if self.out is not None or recorded is None:
            return
        folder = str(recorded_folder(recorded, journal))
        raise ConfigurationError(
            f"the journal {showable(str(journal))} names the folder for its results; if that "
            f"folder is correct, confirm it with {shell_line(['--out', folder])}"
        )

    def resume_command(
        self, journal: Path, *, endpoints: Endpoints, note: str | None, out: Path | None
    ) -> str:
        """Return the shell command that continues the batch.

        It has all options that the journal does not record, or records with another value. Only a
        proxy URL with a user name or password is missing.

        Args:
            journal: Path of the journal, as the user wrote it.
            endpoints: The URLs of the API.
            note: The options that the journal records: a text from `to_note`. None if the journal
                records no options.
            out: The folder for results; None if results are not written to files.
        """
        words = ["adepoll", "resume", path_word(str(journal))]
        words += _endpoint_words(endpoints)
        # A proxy URL with credentials is left out, because the command is shown on the screen.
        if self.proxy is not None and "@" not in self.proxy:
            words += ["--proxy", self.proxy]
        words += [] if self.cacert is None else ["--cacert", str(self.cacert)]
        words += [] if self.cert is None else ["--cert", str(self.cert)]
        words += [] if out is None else ["--out", str(out)]
        in_journal = _read_note(note)
        for name, value in self._saved().items():
            if value != in_journal.get(name):
                words += [f"--{name.replace('_', '-')}", str(value).removesuffix(".0")]
        if self.overwrite:
            words.append("--overwrite")
        if self.allow_private:
            words.append("--allow-private")
        if not self.verify:
            words.append("--no-verify")
        if self.strict:
            words.append("--strict")
        return shell_line(words)

    def _saved(self) -> dict[str, Any]:
        """Return those options of the user that a journal saves, as a dict by name."""
        options = asdict(self)
        return {name: options[name] for name in _SAVED if options[name] is not None}


def _read_note(note: str | None) -> dict[str, Any]:
    """Return the valid options of a text that `to_note` has returned, as a dict by name."""
    try:
        options = json.loads(note or "{}")
    except (ValueError, RecursionError):
        return {}
    if not isinstance(options, dict):
        return {}
    return {
        name: options[name]
        for name, is_valid in _SAVED.items()
        if name in options and is_valid(options[name])
    }


def _environment_sets_endpoint() -> bool:
    return any(
        os.environ.get(name) for name in (BASE_URL_VARIABLE, V2_BASE_URL_VARIABLE, REGION_VARIABLE)
    )


def _endpoint_words(endpoints: Endpoints) -> list[str]:
    """Return the options for the URLs of the API, as words of a command line.

    The list is empty if `resume` finds the URLs in the journal or in environment variables.
    """
    if _environment_sets_endpoint():
        if Endpoints.of(*read_base_urls(None, None, None)) == endpoints:
            return []
    elif endpoints.are_official:
        return []  # `with_endpoints_of` reads the endpoints from the journal
    return _url_words(endpoints) if endpoints.region is None else ["--region", endpoints.region]


def _url_words(endpoints: Endpoints) -> list[str]:
    """Return ``--base-url URL`` and, if necessary, ``--v2-base-url URL``.

    The second option is necessary if v2 jobs have another URL, or if an environment variable sets
    the URL of v2 jobs.
    """
    words = ["--base-url", endpoints.v1]
    if endpoints.v2 != endpoints.v1 or os.environ.get(V2_BASE_URL_VARIABLE):
        words += ["--v2-base-url", endpoints.v2]
    return words
