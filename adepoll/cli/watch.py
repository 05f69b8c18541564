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
    """Watch jobs; see `commands.watch`."""
    sources = check_sources(job_ids, files, field)
    if field is None and (kind_field or label_field):
        raise click.UsageError("--kind-field and --label-field need --field NAME")
    fields = Fields(job_id=field, kind=kind_field, label=label_field)
    places = InvalidIdPlaces()
    BatchRunner(
        options=BatchOptions(**options),
        journal=journal,
        job_ids=lambda: read_ids(job_ids, sources, fields, places),
        id_files=files,
        places=places,
    ).run()


def resume(journal: Path, **options: Any) -> None:
    """Continue the batch of a journal; see `commands.resume`."""
    BatchRunner(options=BatchOptions(**options), journal=journal).run()
