"""``adepoll watch`` and ``adepoll resume``: check the arguments, then run a `BatchRunner`."""

from pathlib import Path
from typing import Any

import click

from adepoll.cli.batch_options import BatchOptions
from adepoll.cli.batch_runner import BatchRunner
from adepoll.cli.found_jobs import Fields
from adepoll.cli.ids import InvalidIdPlaces, check_sources, read_ids


def watch(
    job_ids: tuple[str, ...],
    *,
    files: tuple[str, ...],
    field: str | None,
    kind_field: str | None,
    label_field: str | None,
    journal: Path | None,
    **options: Any,
) -> None:
    """Wait for the jobs of arguments and files, and print them; see `commands.watch`."""
    sources = check_sources(job_ids, files, field)
    if field is None and (kind_field or label_field):
        raise click.UsageError("--kind-field and --label-field need --field NAME")
    _check_have_effect(BatchOptions(**options), journal)
    fields = Fields(job_id=field, kind=kind_field, label=label_field)
    places = InvalidIdPlaces()
    BatchRunner(
        options=BatchOptions(**options),
        journal=journal,
        job_ids=lambda: read_ids(job_ids, sources, fields, places),
        id_files=files,
        places=places,
    ).run()


def _check_have_effect(options: BatchOptions, journal: Path | None) -> None:
    """Raise `click.UsageError` for an option without the one that it needs, such as --out."""
    needs_out, needs_journal = "needs --out DIR", "needs --journal FILE"
    for name, is_given, need, is_met in (
        ("--overwrite", options.overwrite, needs_out, options.out),
        # The journal saves the option for a later run with --out.
        ("--name", options.name, f"{needs_out} or --journal FILE", options.out or journal),
        ("--all", options.replay, needs_journal, journal),
        ("--no-verify", not options.verify, needs_journal, journal),
    ):
        if is_given and not is_met:
            raise click.UsageError(f"{name} has no effect here: it {need}")


def resume(journal: Path, **options: Any) -> None:
    """Continue the batch in the file `journal`; see `commands.resume`."""
    BatchRunner(options=BatchOptions(**options), journal=journal).run()
