"""Options that several subcommands share."""

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click
from click.shell_completion import CompletionItem

import adepoll
from adepoll.api.config import REGIONS

_CLIENT: Final = ("region", "base_url", "max_rate", "proxy", "cacert", "cert")

allow_private_option = click.option(
    "--allow-private",
    is_flag=True,
    help="Allow result URLs with private addresses or plain http, as for your own storage.",
)

overwrite_option = click.option(
    "--overwrite", is_flag=True, help="Replace result files that already exist."
)


def refuse_nan(_ctx: click.Context, _param: click.Parameter, value: float | None) -> float | None:
    """Raise `click.BadParameter` for NaN and infinity, which click's ranges accept."""
    if value is not None and not math.isfinite(value):
        raise click.BadParameter("not a finite number")
    return value


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
    max_rate: float | None,
    proxy: str | None,
    cacert: Path | None,
    cert: Path | None,
) -> "adepoll.AdeClient":
    """Create the client that the options describe."""
    return adepoll.AdeClient(
        region=region,
        base_url=base_url,
        max_rate=max_rate,
        transport=adepoll.TransportOptions(proxy=proxy, ca_file=cacert, client_certificate=cert),
    )


def endpoint_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of the client: `region`, `base_url`, `max_rate`, and how it connects."""

    @click.option(
        "--region",
        metavar="us|eu",
        shell_complete=_complete_region,
        help="Region of the API key. Default: LANDINGAI_ADE_ENVIRONMENT, else us.",
    )
    @click.option("--base-url", metavar="URL", help="URL of the API, instead of a region.")
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


def client_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add `endpoint_options`; the command receives `connect`, which creates the client."""

    @endpoint_options
    @functools.wraps(command)
    def with_client(*args: object, **kwargs: Any) -> None:
        connect = functools.partial(make_client, **{name: kwargs.pop(name) for name in _CLIENT})
        command(*args, connect=connect, **kwargs)

    return with_client


def _complete_region(
    _ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    # Not a click.Choice: AdeClient also accepts aliases, and its error message is more helpful.
    return [CompletionItem(name) for name in sorted(REGIONS) if name.startswith(incomplete)]
