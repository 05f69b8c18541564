"""``adepoll watch`` and ``adepoll resume``: the commands; `batch_runner` runs the batch."""

from pathlib import Path

import click

from adepoll.cli.batch_options import BatchOptions, batch_options
from adepoll.cli.ids import check_sources, ids_options, read_ids


@click.command()
@ids_options
@click.option(
    "-j",
    "--journal",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help='Record everything in FILE, so that "adepoll resume FILE" can continue the batch. '
    "Created if it does not exist.",
)
@batch_options
def watch(
    job_ids: tuple[str, ...],
    *,
    files: tuple[str, ...],
    field: str | None,
    journal: Path | None,
    options: BatchOptions,
) -> None:
    """Wait for jobs, and print each one when it has settled.

    A job has settled when it has completed, failed or been cancelled. Each job is printed as one
    line on stdout: JSON, or text if stdout is a terminal. Progress and errors are printed on
    stderr.

    Job ids come from arguments, files or standard input.

    A JSON line contains the result if the service sent it inline. With --out, results are written
    to files instead. The secret query of a presigned URL is never printed.

    With --journal, no outcome is lost even if the command is killed, and "adepoll resume" continues
    the batch.
    """
    from adepoll.cli.batch_runner import BatchRunner  # noqa: PLC0415 - --help works without it

    sources = check_sources(job_ids, files, field)
    BatchRunner(
        options=options,
        journal=journal,
        job_ids=lambda: read_ids(job_ids, sources, field),
        id_files=files,
    ).run()


@click.command()
@click.argument("journal", type=click.Path(dir_okay=False, path_type=Path))
@batch_options
def resume(journal: Path, *, options: BatchOptions) -> None:
    """Continue the batch of a journal.

    First prints the recorded outcomes that have not been printed yet, without requests to the
    service. Then waits for the remaining jobs.

    JOURNAL is the file that was passed to "adepoll watch --journal". It contains --timeout,
    --concurrency, --downloads, --max-rate and --discovery of that command, which replace the
    defaults below; options of this command override them. Other options are not saved.

    A journal may come from anyone: confirm its folder for results with --out, and an API URL that
    is not a region of LandingAI with --base-url.
    """
    from adepoll.cli.batch_runner import BatchRunner  # noqa: PLC0415 - --help works without it

    BatchRunner(options=options, journal=journal).run()
