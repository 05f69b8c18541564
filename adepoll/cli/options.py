"""The options of the subcommands. Imports click only, so that completion is fast.

Some values, such as the names of the job kinds, are repeated here, because the modules that define
them are slow to import. A test checks that both are equal.
"""

import functools
import importlib
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, get_args

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    import adepoll

REGION_NAMES: Final = ("eu", "us")
KIND_CHOICES: Final = ("v1-extract", "v1-parse", "v2-parse", "v2-extract", "v2-workflow")
NAME_CHOICES: Final = ("id", "label")
Discovery: TypeAlias = Literal["auto", "list", "get"]
TableFormat: TypeAlias = Literal["parquet", "csv", "jsonl", "arrow"]
MAX_SIMULTANEOUS: Final = 100_000
"""Largest value of ``--concurrency`` and ``--downloads``, also in a journal."""

_CLIENT: Final = (
    "region",
    "base_url",
    "v2_base_url",
    "max_rate",
    "proxy",
    "cacert",
    "cert",
    "kind",
)
_Decorator: TypeAlias = Callable[[Callable[..., None]], Callable[..., None]]
_URL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+:/)/")


def runs(path: str) -> Callable[[Callable[[], None]], Callable[..., None]]:
    """Return a decorator that makes a declared command call the function at `path`.

    Args:
        path: The function that the command calls, as ``module:function``. The module is in
            `adepoll.cli`, and is imported when the command runs.
    """

    def decorate(declaration: Callable[[], None]) -> Callable[..., None]:
        @functools.wraps(declaration)
        def call(*args: object, **kwargs: object) -> None:
            module, _, name = path.partition(":")
            getattr(importlib.import_module(f"adepoll.cli.{module}"), name)(*args, **kwargs)

        return call

    return decorate


class LocalPath(click.Path):
    """A type of parameter for local paths. It refuses these values:

    - A URL: it would become the name of a local file or folder.
    - An empty text, such as the value of a shell variable that is not set: it would mean the
      current folder.
    - A path with a slash at its end, if the option needs a file. The user means a folder. If the
      folder did not exist, a file with this name would be created.
    """

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path; raise `click.BadParameter` if it is refused or not valid."""
        if not str(value):
            self.fail("the path is empty", param, ctx)
        if found := _URL.match(str(value)):
            self.fail(f"must be a local path, not a URL that begins with {found[1]}/", param, ctx)
        path = super().convert(value, param, ctx)
        if not self.dir_okay and str(value).endswith(("/", os.sep)):
            self.fail(f"{value!r} is the path of a folder, not of a file", param, ctx)
        return path


class NumberRange(click.FloatRange):
    """A parameter type for finite numbers in a range; click's type accepts NaN and infinity."""

    name = "number"  # click names its own type "float range" in an error message

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number; raise `click.BadParameter` if it is not finite or not in the range."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail("not a finite number", param, ctx)
        return number


class CountRange(click.IntRange):
    """A parameter type for whole numbers in a range."""

    name = "whole number"  # click names its own type "integer range" in an error message


allow_private_option = click.option(
    "--allow-private",
    is_flag=True,
    help="Also download results from private addresses, and without TLS (http), for example from "
    "your own storage server.",
)


def kind_option(text: str) -> _Decorator:
    """Return a decorator that adds the option ``--kind`` with the help text `text`."""
    return click.option(
        "--kind", type=click.Choice(KIND_CHOICES), help=f"{text}  [default: {KIND_CHOICES[0]}]"
    )


def make_client(
    *,
    region: str | None,
    base_url: str | None,
    v2_base_url: str | None,
    max_rate: float | None,
    proxy: str | None,
    cacert: Path | None,
    cert: Path | None,
    kind: str | None = None,
) -> "adepoll.AdeClient":
    """Return a new client with these options."""
    import adepoll  # noqa: PLC0415 - slow to import; completion does not need it

    return adepoll.AdeClient(
        region=region,
        base_url=base_url,
        v2_base_url=v2_base_url,
        max_rate=max_rate,
        kind=adepoll.JobKind.named(kind or KIND_CHOICES[0]),
        transport=adepoll.TransportOptions(proxy=proxy, ca_file=cacert, client_certificate=cert),
    )


def endpoint_options(*, resumes: bool = False) -> _Decorator:
    """Return a decorator that adds the options of the client.

    They are region, URLs, maximum rate, proxy and certificates. `resumes` is True for ``resume``:
    its help says that the default of ``--max-rate`` comes from the journal.
    """
    address = 'see "adepoll --help"'  # the order of options, variables and the journal
    max_rate = _default("as many as the service accepts", resumes=resumes)

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @click.option(
            "--region",
            metavar="[us|eu]",
            shell_complete=_complete_region,
            help=f"Region of the API key: us (also called production) or eu.  [default: {address}]",
        )
        @click.option(
            "--base-url",
            metavar="URL",
            help=f"URL of the API, in place of a region.  [default: {address}]",
        )
        @click.option(
            "--v2-base-url",
            metavar="URL",
            help=f"URL of the API for v2 jobs.  [default: {address}]",
        )
        @click.option(
            "--max-rate",
            type=NumberRange(min=0, min_open=True),
            metavar="N",
            help=f"Maximum number of requests per second.  [default: {max_rate}]",
        )
        @click.option(
            "--proxy",
            metavar="URL",
            help="URL of a proxy for all requests, except to the hosts in the variable NO_PROXY.  "
            "[default: the variables HTTPS_PROXY, HTTP_PROXY, ALL_PROXY]",
        )
        @click.option(
            "--cacert",
            type=LocalPath(dir_okay=False, path_type=Path),
            metavar="FILE",
            help="PEM file with certificate authorities that are trusted in addition to those of "
            "the system.",
        )
        @click.option(
            "--cert",
            type=LocalPath(dir_okay=False, path_type=Path),
            metavar="FILE",
            help="PEM file with a client certificate and its key.",
        )
        @functools.wraps(command)
        def with_endpoint(*args: object, **kwargs: object) -> None:
            command(*args, **kwargs)

        return with_endpoint

    return decorate


def client_options(kind: str) -> _Decorator:
    """Return a decorator that adds `endpoint_options`, and ``--kind`` with the help text `kind`.

    In place of these options, the command receives `connect`, a function that creates the client.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @kind_option(kind)
        @endpoint_options()
        @functools.wraps(command)
        def with_client(*args: object, **kwargs: Any) -> None:
            connect = functools.partial(make_client, **{name: kwargs.pop(name) for name in _CLIENT})
            command(*args, connect=connect, **kwargs)

        return with_client

    return decorate


def _complete_region(
    _ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    # The option is not a click.Choice, because AdeClient also accepts aliases, and has a more
    # helpful error message.
    return [CompletionItem(name) for name in REGION_NAMES if name.startswith(incomplete)]


def ids_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the argument for job ids, and the options for files with ids and their columns."""

    @click.argument("job_ids", nargs=-1, metavar="[JOB_ID]...")
    @click.option(
        "-f",
        "--file",
        "files",
        multiple=True,
        type=LocalPath(allow_dash=True),
        metavar="FILE",
        help='Read ids from a file: one per line, or as --field says. "-" is standard input. Lines '
        'that begin with "#" are skipped. May be repeated.',
    )
    @click.option(
        "--field",
        metavar="NAME",
        help="For CSV files and JSON lines: read the ids from this column or key. In JSON, a.b is "
        "the key b in the object a.",
    )
    @click.option(
        "--kind-field",
        metavar="NAME",
        help='With --field: column or key with the kinds of the jobs; "" to use none.  '
        "[default: kind, if it exists]",
    )
    @click.option(
        "--label-field",
        metavar="NAME",
        help='With --field: column or key with your own names for the jobs (labels); "" to use '
        "none.  [default: label, if it exists]",
    )
    @functools.wraps(command)
    def with_ids(*args: object, **kwargs: object) -> None:
        command(*args, **kwargs)

    return with_ids


def batch_options(*, resumes: bool) -> _Decorator:
    """Return a decorator that adds the options of a batch, which `BatchOptions` describes.

    `resumes` is True for the command ``resume``: its help says that defaults come from the journal.
    The help of ``watch`` says which options need ``--out`` or ``--journal``.
    """
    default = functools.partial(_default, resumes=resumes)

    def needing(options: str, text: str) -> str:
        return text if resumes else f"With {options}: {text[0].lower()}{text[1:]}"

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @click.option(
            "-o",
            "--out",
            type=LocalPath(file_okay=False, path_type=Path),
            metavar="DIR",
            help="Write each result to a file in DIR, and print its path in place of the result."
            + (" Required if the batch has a folder for results." if resumes else ""),
        )
        @click.option(
            "--name",
            "name",
            type=click.Choice(NAME_CHOICES),
            help=needing(
                "--out, or --journal for later runs",
                "Name the result files after the ids of the jobs (JOB_ID.json), or after their "
                f"labels.  [default: {default('id')}]",
            ),
        )
        @click.option(
            "--overwrite",
            is_flag=True,
            help=needing(
                "--out",
                "Replace existing files. Without this option, a file with other content is kept.",
            ),
        )
        @click.option(
            "--timeout",
            type=NumberRange(min=0),
            metavar="SECONDS",
            help="One limit for the whole run: jobs that have not settled after this number of "
            "seconds are given up. With 0, no job is polled.  "
            f"[default: {default('no limit')}]",
        )
        @click.option(
            "--concurrency",
            type=CountRange(1, MAX_SIMULTANEOUS),
            metavar="N",
            help="Maximum number of requests (polls and pages of the job list) at the same time.  "
            f"[default: {default('64')}]",
        )
        @click.option(
            "--downloads",
            type=CountRange(1, MAX_SIMULTANEOUS),
            metavar="N",
            help=needing(
                "--out",
                "Maximum number of results that are downloaded at the same time, each with up to "
                f"4 connections.  [default: {default('8')}]",
            ),
        )
        @click.option(
            "--discovery",
            type=click.Choice(get_args(Discovery)),
            help="How to find out which jobs have settled. list: read the job list regularly, "
            "and poll the jobs that are missing from the list; get: poll every job; auto: the way "
            f"that needs fewer requests.  [default: {default('auto')}]",
        )
        @endpoint_options(resumes=resumes)
        @allow_private_option
        @click.option(
            "--no-verify",
            "verify",
            is_flag=True,
            flag_value=False,
            default=True,
            help=needing(
                "--journal",
                "Do not check whether the result files of earlier runs still exist and are "
                "unchanged.",
            ),
        )
        @click.option(
            "--all",
            "replay",
            is_flag=True,
            help=needing(
                "--journal",
                "First print all outcomes of earlier runs, including those already printed.",
            ),
        )
        @click.option(
            "--strict",
            is_flag=True,
            help="If all jobs completed, but some results are partial (pages are missing, or the "
            "schema is not satisfied), exit with 5 instead of 0.",
        )
        @click.option(
            "--quiet",
            is_flag=True,
            help="On stderr, print only errors: no progress, no summary, and no advice on how to "
            "continue.",
        )
        @click.option(
            "--json", "as_json", is_flag=True, help="Print JSON lines even if stdout is a terminal."
        )
        @functools.wraps(command)
        def with_options(*args: object, **kwargs: object) -> None:
            command(*args, **kwargs)

        return with_options

    return decorate


def _default(value: str, *, resumes: bool) -> str:
    """Return the help text about the default `value` of an option.

    For ``resume`` (`resumes`), it says that a value in the journal takes precedence.
    """
    return f"that of the journal, or else {value}" if resumes else value
