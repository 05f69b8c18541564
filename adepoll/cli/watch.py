"""``adepoll watch`` and ``adepoll resume``: from the arguments to a `BatchRunner`."""

from pathlib import Path
from typing import Any

from adepoll.cli.batch_options import BatchOptions
from adepoll.cli.batch_runner import BatchRunner
from adepoll.cli.ids import InvalidIdPlaces, check_sources, read_ids


def watch(
    job_ids: tuple[str, ...],
    *,
    files: tuple[str, ...],
    field: str | None,
    journal: Path | None,
    **options: Any,
) -> None:
    """Watch jobs; see `commands.watch`."""
    sources = check_sources(job_ids, files, field)
    places = InvalidIdPlaces()
    BatchRunner(
        options=BatchOptions(**options),
        journal=journal,
        job_ids=lambda: read_ids(job_ids, sources, field, places),
        id_files=files,
        places=places,
    ).run()


def resume(journal: Path, **options: Any) -> None:
    """Continue the batch of a journal; see `commands.resume`."""
    BatchRunner(options=BatchOptions(**options), journal=journal).run()
