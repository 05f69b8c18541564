"""What a person chooses for a batch: options, the note of them in the journal, how to go on."""

import functools
import json
import os
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, get_args

import click
from attrs import asdict, evolve, fields_dict, frozen

from adepoll.api.client import AdeClient
from adepoll.api.config import BASE_URL_VARIABLE, REGION_VARIABLE, REGIONS, read_base_url
from adepoll.cli.running import finite, place_options
from adepoll.errors import ConfigurationError
from adepoll.journal.opening import read_endpoint
from adepoll.redaction import showable
from adepoll.watching.list_sweeps import Discovery

OPTIONS_NOTE: Final = "options"  # the note of those that the next run is to have, too
IDS_NOTE: Final = "ids"  # the note of whether all ids that were given are in the journal
READING: Final = "reading"
READ: Final = "read"
GIVE_AGAIN: Final = "give them again, with the same --journal; nothing is done twice"
IDS_UNSURE: Final = (
    f"it is not sure that all ids had been read when the last run ended: {GIVE_AGAIN}"
)
_MOST: Final = 100_000  # of anything at once; what is noted may be by another hand
_LARGEST: Final = 1e12
_LONGEST_COMMAND: Final = 4_000


def _is_count(value: object) -> bool:
    return type(value) is int and 1 <= value <= _MOST


def _is_number(value: Any) -> bool:
    return type(value) in {int, float} and abs(value) <= _LARGEST


# What the journal keeps, and whether it can be that: anybody may have written there.
_NOTED: Final[Mapping[str, Callable[[Any], bool]]] = {
    "concurrency": _is_count,
    "discovery": lambda value: value in get_args(Discovery),
    "downloads": _is_count,
    "max_rate": lambda value: _is_number(value) and value > 0,
    "timeout": lambda value: _is_number(value) and value >= 0,
}


@frozen(kw_only=True)
class Choices:
    """The options of a batch, as they were given; None where one was not.

    Attributes:
        region: Whose region.
        base_url: The address of the API, instead.
        max_rate: Most requests per second.
        out: Where results go.
        timeout: Seconds until jobs are given up.
        concurrency: Most looks at once.
        downloads: Most results fetched at once.
        discovery: How ends are found.
        overwrite: Whether files that are there are replaced.
        verify: Whether the files of earlier runs are seen after.
        allow_private: Whether results may come from private addresses.
        replay: Whether what was told is told again.
        quiet: Whether only errors go to stderr.
        as_json: Whether lines are JSON on a terminal, too.
    """

    region: str | None = None
    base_url: str | None = None
    max_rate: float | None = None
    out: Path | None = None
    timeout: float | None = None
    concurrency: int | None = None
    downloads: int | None = None
    discovery: Discovery | None = None
    overwrite: bool = False
    verify: bool = True
    allow_private: bool = False
    replay: bool = False
    quiet: bool = False
    as_json: bool = False

    def connect(self) -> AdeClient:
        """Make the client."""
        return AdeClient(region=self.region, base_url=self.base_url, max_rate=self.max_rate)

    def note(self) -> str:
        """Give what the next run is to have, too, for the journal; no secret is among it."""
        return json.dumps(self._noted())

    def with_noted(self, note: str | None) -> "Choices":
        """Give them with what was noted where nothing was given now."""
        return evolve(self, **(_read(note) | self._noted()))

    def of_journal(self, endpoint: str, journal: Path) -> "Choices":
        """Give them with the place that a journal names, where nothing else does.

        A journal may come from anywhere, and the key goes to that place: only the official ones are
        taken from it.

        Raises:
            ConfigurationError: It names another one, which the caller has to confirm.
        """
        if self.region or self.base_url or _environment_names_place():
            return self
        if endpoint in REGIONS.values():
            return evolve(self, base_url=endpoint)
        shown = showable(endpoint)
        raise ConfigurationError(
            f"the journal {showable(str(journal))} is of jobs at {shown}, which is no region of "
            "LandingAI's, and the key would be sent there; if that is right, confirm it with "
            f"--base-url {shown} or {BASE_URL_VARIABLE}"
        )

    def resume_command(self, journal: Path, *, endpoint: str, note: str | None) -> str:
        """Give the command that goes on, with what it would not know otherwise.

        Args:
            journal: The journal, as it was given.
            endpoint: The address of the API.
            note: What is noted in the journal.
        """
        path = str(journal)
        words = ["adepoll", "resume", f"./{path}" if path.startswith("-") else path]
        words += _words_for_place(endpoint)
        noted = _read(note)
        for name, value in self._noted().items():
            if value != noted.get(name):
                words += [f"--{name.replace('_', '-')}", str(value).removesuffix(".0")]
        if self.overwrite:
            words.append("--overwrite")
        if self.allow_private:
            words.append("--allow-private")
        if not self.verify:
            words.append("--no-verify")
        return showable(shlex.join(words), _LONGEST_COMMAND)

    def _noted(self) -> dict[str, Any]:
        """Give those that were given of those that a journal keeps."""
        given = asdict(self)
        return {name: given[name] for name in _NOTED if given[name] is not None}


def _read(note: str | None) -> dict[str, Any]:
    """Give what was noted, as far as it can be used."""
    try:
        noted = json.loads(note or "{}")
    except ValueError:
        return {}
    if not isinstance(noted, dict):
        return {}
    return {
        name: noted[name] for name, fits in _NOTED.items() if name in noted and fits(noted[name])
    }


def _environment_names_place() -> bool:
    return any(os.environ.get(name) for name in (BASE_URL_VARIABLE, REGION_VARIABLE))


def _words_for_place(endpoint: str) -> list[str]:
    """Give the option that says where, unless the next run would find it without."""
    official = {url: region for region, url in REGIONS.items()}
    if _environment_names_place():
        if read_endpoint(read_base_url(None, None)) == endpoint:
            return []
    elif endpoint in official:
        return []  # which is taken from the journal
    return ["--region", official[endpoint]] if endpoint in official else ["--base-url", endpoint]


def batch_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of a batch; the command gets `choices`, not them."""

    @click.option(
        "-o",
        "--out",
        type=click.Path(file_okay=False, path_type=Path),
        metavar="DIR",
        help="Download each result to DIR/JOB_ID.json; the lines then name the file.",
    )
    @click.option("--overwrite", is_flag=True, help="Replace result files that are there already.")
    @click.option(
        "--timeout",
        type=click.FloatRange(min=0),
        callback=finite,
        metavar="SECONDS",
        help="Give up jobs that have not ended by then.",
    )
    @click.option(
        "--concurrency",
        type=click.IntRange(min=1),
        metavar="N",
        help="Most requests on the wire at once.  [default: 64]",
    )
    @click.option(
        "--downloads",
        type=click.IntRange(min=1),
        metavar="N",
        help="Most results fetched at once.  [default: 8]",
    )
    @click.option(
        "--discovery",
        type=click.Choice(get_args(Discovery)),
        help="How ends are found: by sweeps of the job list, by looks at each job, or what is "
        "cheaper.  [default: auto]",
    )
    @place_options
    @click.option(
        "--allow-private",
        is_flag=True,
        help="Take results from private addresses and over plain http too: from your own storage.",
    )
    @click.option(
        "--no-verify",
        "verify",
        is_flag=True,
        flag_value=False,
        default=True,
        help="Do not look whether result files of earlier runs are still there, and whole.",
    )
    @click.option("--all", "replay", is_flag=True, help="Begin with all that was told before.")
    @click.option("--quiet", is_flag=True, help="Tell nothing but errors on stderr.")
    @click.option("--json", "as_json", is_flag=True, help="Print JSON lines on a terminal, too.")
    @functools.wraps(command)
    def with_choices(*args: object, **kwargs: Any) -> None:
        chosen = {name: kwargs.pop(name) for name in fields_dict(Choices)}
        command(*args, choices=Choices(**chosen), **kwargs)

    return with_choices
