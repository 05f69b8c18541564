"""The options of the subcommands. Imports click only, so that completion is fast.
Values that a slow module defines are repeated here, and a test compares them.
"""

import functools
import importlib
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    import adepoll
    from adepoll.emulator import Fault, Settings

REGION_NAMES: Final = ("eu", "us")
KIND_CHOICES: Final = ("v1-extract", "v1-parse", "v2-parse", "v2-extract", "v2-workflow")
DISCOVERY_CHOICES: Final = ("auto", "list", "get")
FAULT_CHOICES: Final = (
    "latency",
    "rate-limit",
    "overlong",
    "wrong-length",
    "slow-body",
    "redirect",
    "server-error",
    "too-many-requests",
    "unauthorized",
    "payment-required",
    "forbidden",
    "not-found",
    "request-timeout",
    "conflict",
    "silent",
    "reset-before-headers",
    "reset-in-headers",
    "reset-after-headers",
    "reset-in-body",
    "truncated",
    "stalled",
    "never-ending",
    "expired-mid-download",
    "html",
    "invalid-json",
    "empty-body",
    "not-an-object",
    "wrong-job-id",
    "unknown-status",
    "missing-status",
    "backward-status",
    "nan",
    "huge-integer",
    "deep-nesting",
    "lone-surrogate",
    "duplicate-keys",
    "missing-items",
    "missing-page",
    "shifting-pages",
    "endless-list",
    "changing-etag",
    "range-ignored",
    "unrequested-gzip",
)
NAME_CHOICES: Final = ("id", "label")
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
_URL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+:/)/")


def runs(path: str) -> Callable[[Callable[[], None]], Callable[..., None]]:
    """Return a decorator of a command without a body: `path` names the function that has it.

    Args:
        path: Module in `adepoll.cli` and function, as ``module:function``. The module is imported
            when the command runs.
    """

    def decorate(declaration: Callable[[], None]) -> Callable[..., None]:
        @functools.wraps(declaration)
        def call(*args: object, **kwargs: object) -> None:
            module, _, name = path.partition(":")
            getattr(importlib.import_module(f"adepoll.cli.{module}"), name)(*args, **kwargs)

        return call

    return decorate


class LocalPath(click.Path):
    """A path that is not a URL, which would otherwise name a local file or folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path, or fail."""
        if found := _URL.match(str(value)):
            self.fail(f"must be a local path, not a URL that begins with {found[1]}/", param, ctx)
        return super().convert(value, param, ctx)


allow_private_option = click.option(
    "--allow-private",
    is_flag=True,
    help="Allow result URLs with private addresses or plain http, such as your own storage server.",
)

overwrite_option = click.option(
    "--overwrite", is_flag=True, help="Replace result files that already exist."
)


def refuse_nan(_ctx: click.Context, _param: click.Parameter, value: float | None) -> float | None:
    """Raise `click.BadParameter` for NaN and infinity, which click's ranges accept."""
    if value is not None and not math.isfinite(value):
        raise click.BadParameter("not a finite number")
    return value


def kind_option(text: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that adds ``--kind`` with this help text."""
    return click.option(
        "--kind", type=click.Choice(KIND_CHOICES), help=f"{text}  [default: {KIND_CHOICES[0]}]"
    )


median_option = click.option(
    "--median",
    default=8.0,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Median duration of a job; durations are log-normal.",
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
    """Create the client that the options describe."""
    import adepoll  # noqa: PLC0415 - slow; completion works without it

    return adepoll.AdeClient(
        region=region,
        base_url=base_url,
        v2_base_url=v2_base_url,
        max_rate=max_rate,
        kind=adepoll.JobKind.named(kind or KIND_CHOICES[0]),
        transport=adepoll.TransportOptions(proxy=proxy, ca_file=cacert, client_certificate=cert),
    )


def endpoint_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of the client: region, URLs, rate limit, and how it connects."""

    @click.option(
        "--region",
        metavar="us|eu",
        shell_complete=_complete_region,
        help="Region of the API key. Default: LANDINGAI_ADE_ENVIRONMENT, else us.",
    )
    @click.option("--base-url", metavar="URL", help="URL of the API, instead of a region.")
    @click.option(
        "--v2-base-url",
        metavar="URL",
        help="URL of the API for v2 jobs. Default: LANDINGAI_ADE_V2_BASE_URL, else --base-url, "
        "else the URL of the region.",
    )
    @click.option(
        "--max-rate",
        type=click.FloatRange(min=0, min_open=True),
        callback=refuse_nan,
        metavar="N",
        help="Maximum number of requests per second.",
    )
    @click.option(
        "--proxy",
        metavar="URL",
        help="Proxy for all requests. Default: HTTPS_PROXY, HTTP_PROXY or ALL_PROXY.",
    )
    @click.option(
        "--cacert",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="PEM file with certificate authorities to trust as well.",
    )
    @click.option(
        "--cert",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="PEM file with a client certificate and its key.",
    )
    @functools.wraps(command)
    def with_endpoint(*args: object, **kwargs: object) -> None:
        command(*args, **kwargs)

    return with_endpoint


def client_options(kind: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that adds `endpoint_options`, and ``--kind`` with the help text `kind`.

    The command receives `connect`, which creates the client.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @kind_option(kind)
        @endpoint_options
        @functools.wraps(command)
        def with_client(*args: object, **kwargs: Any) -> None:
            connect = functools.partial(make_client, **{name: kwargs.pop(name) for name in _CLIENT})
            command(*args, connect=connect, **kwargs)

        return with_client

    return decorate


def _complete_region(
    _ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    # Not a click.Choice: AdeClient also accepts aliases, and its error message is more helpful.
    return [CompletionItem(name) for name in REGION_NAMES if name.startswith(incomplete)]


def ids_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the argument and options for the job ids: `job_ids`, `files` and `field`."""

    @click.argument("job_ids", nargs=-1, metavar="[JOB_ID]...")
    @click.option(
        "-f",
        "--file",
        "files",
        multiple=True,
        type=click.Path(allow_dash=True),
        metavar="FILE",
        help='Read ids from a file, one per line; lines that begin with "#" are skipped; "-" is '
        "standard input. Repeatable.",
    )
    @click.option(
        "--field",
        metavar="NAME",
        help="Read ids from this CSV column or JSON key of the files; a.b for nested keys.",
    )
    @click.option(
        "--kind-field",
        metavar="NAME",
        help='With --field: column or key with the kinds; "" to ignore it.  [default: kind, if '
        "there is one]",
    )
    @click.option(
        "--label-field",
        metavar="NAME",
        help='With --field: column or key with your names for the jobs; "" to ignore it.  '
        "[default: label, if there is one]",
    )
    @functools.wraps(command)
    def with_ids(*args: object, **kwargs: object) -> None:
        command(*args, **kwargs)

    return with_ids


def batch_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of a batch, which `BatchOptions` describes."""

    @click.option(
        "-o",
        "--out",
        type=LocalPath(file_okay=False, path_type=Path),
        metavar="DIR",
        help="Download each result to DIR/JOB_ID.json, and print its path.",
    )
    @click.option(
        "--name",
        "name",
        type=click.Choice(NAME_CHOICES),
        help="With --out: name the files after the ids, or after the labels of the jobs.  "
        "[default: id]",
    )
    @overwrite_option
    @click.option(
        "--timeout",
        type=click.FloatRange(min=0),
        callback=refuse_nan,
        metavar="SECONDS",
        help="Give up jobs that have not settled this many seconds after the start of this run.",
    )
    @click.option(
        "--concurrency",
        type=click.IntRange(min=1),
        metavar="N",
        help="Maximum number of simultaneous requests.  [default: 64]",
    )
    @click.option(
        "--downloads",
        type=click.IntRange(min=1),
        metavar="N",
        help="Maximum number of simultaneous downloads.  [default: 8]",
    )
    @click.option(
        "--discovery",
        type=click.Choice(DISCOVERY_CHOICES),
        help="How to find settled jobs. auto: the cheaper way; list: read the job list; get: poll "
        "each job.  [default: auto]",
    )
    @endpoint_options
    @allow_private_option
    @click.option(
        "--no-verify",
        "verify",
        is_flag=True,
        flag_value=False,
        default=True,
        help="With a journal: do not check that the result files of earlier runs still exist and "
        "are unchanged.",
    )
    @click.option(
        "--all",
        "replay",
        is_flag=True,
        help="With a journal: begin with all outcomes of earlier runs, also those already printed.",
    )
    @click.option(
        "--strict",
        is_flag=True,
        help="Exit with 5 if all jobs completed, but some results are partial.",
    )
    @click.option("--quiet", is_flag=True, help="Print nothing on stderr but errors.")
    @click.option(
        "--json", "as_json", is_flag=True, help="Print JSON lines even if stdout is a terminal."
    )
    @functools.wraps(command)
    def with_options(*args: object, **kwargs: object) -> None:
        command(*args, **kwargs)

    return with_options


def read_faults(ctx: click.Context, param: click.Parameter, values: Sequence[str]) -> "list[Fault]":
    """Return the faults that the options name."""
    if not values or ctx.resilient_parsing:
        return []
    from adepoll.emulator import make_fault  # noqa: PLC0415 - slow; completion works without it

    faults = []
    for value in values:
        name, colon, text = value.partition(":")
        try:
            chance = float(text) if colon else 1.0
        except ValueError:
            message = f"{text!r} is not a chance from 0 to 1, as in {name}:0.1"
            raise click.BadParameter(message, ctx, param) from None
        try:
            faults.append(make_fault(name, chance=chance))
        except ValueError as exc:
            raise click.BadParameter(str(exc), ctx, param) from exc
    return faults


def read_profile(
    ctx: click.Context, param: click.Parameter, file: Path | None
) -> "Settings | None":
    """Return the settings in a file; None without a file."""
    if file is None or ctx.resilient_parsing:
        return None
    from adepoll.emulator import SettingsError, read_settings  # noqa: PLC0415 - as above

    try:
        return read_settings(file.read_text("utf-8"))
    except OSError as exc:
        raise click.BadParameter(f"{file}: {exc.strerror}", ctx, param) from exc
    except (UnicodeDecodeError, SettingsError) as exc:
        raise click.BadParameter(f"{file}: {exc}", ctx, param) from exc


def complete_fault(
    _ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Return the names of faults that begin with a text."""
    return [CompletionItem(name) for name in FAULT_CHOICES if name.startswith(incomplete)]
