"""The options of `emulate` and `demo`. Imports only click and `options`, to be fast.

The names of the faults are repeated here, because the module that defines them is slow to import.
A test checks that both lists are equal.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from click.shell_completion import CompletionItem

from adepoll.cli.options import NumberRange

if TYPE_CHECKING:
    from adepoll.emulator import Fault, Settings

_MAX_PROFILE: Final = 2**20  # bytes
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

median_option = click.option(
    "--median",
    default=8.0,
    show_default=True,
    type=NumberRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Median duration of a job. Most durations are between half and twice the median.",
)


def read_faults(ctx: click.Context, param: click.Parameter, values: Sequence[str]) -> "list[Fault]":
    """Return the faults of the options ``--fault``; raise `click.BadParameter` if one is wrong."""
    if not values or ctx.resilient_parsing:
        return []
    from adepoll.emulator import make_fault  # noqa: PLC0415 - slow to import; completion does not need it

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


def check_keys(
    _ctx: click.Context, _param: click.Parameter, value: tuple[str, ...]
) -> tuple[str, ...]:
    """Return the API keys; raise `click.BadParameter` if a client could not send one of them."""
    for key in value:
        if not (key and key.isascii() and key.isprintable() and " " not in key):
            raise click.BadParameter("use printable ASCII characters, without spaces")
    return value


def read_profile(
    ctx: click.Context, param: click.Parameter, file: Path | None
) -> "Settings | None":
    """Return the settings in a file; raise `click.BadParameter` if it is wrong.

    Return None if the user has named no file.
    """
    if file is None or ctx.resilient_parsing:
        return None
    from adepoll.emulator import SettingsError, read_settings  # noqa: PLC0415 - slow to import

    try:
        with file.open("rb") as profile:
            content = profile.read(_MAX_PROFILE + 1)
        if len(content) > _MAX_PROFILE:
            raise click.BadParameter(f"{file}: it has more than {_MAX_PROFILE:,} bytes", ctx, param)
        return read_settings(content.decode())
    except OSError as exc:
        raise click.BadParameter(f"{file}: {exc.strerror}", ctx, param) from exc
    except (UnicodeDecodeError, SettingsError) as exc:
        raise click.BadParameter(f"{file}: {exc}", ctx, param) from exc


def complete_fault(
    _ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Return the names of faults that begin with the text `incomplete`."""
    return [CompletionItem(name) for name in FAULT_CHOICES if name.startswith(incomplete)]
