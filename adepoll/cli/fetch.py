"""``adepoll fetch``: bring the result of one job home."""

import sys
from collections.abc import Callable
from pathlib import Path

import click

from adepoll.cli.progress import TransferView
from adepoll.cli.running import ExitCode, client_options, run, say
from adepoll.client import AdeClient
from adepoll.fetcher import ResultFetcher
from adepoll.jobids import check_job_id, result_name


@click.command()
@click.argument("job_id")
@click.option(
    "-o",
    "--out",
    metavar="FILE",
    help='Where to write it; "-" for standard output. Default: JOB_ID.json in this folder.',
)
@click.option("--overwrite", is_flag=True, help="Replace a file that is there already.")
@click.option(
    "--connections",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    help="Most connections for one large result, where one alone is slow.",
)
@click.option(
    "--allow-private",
    is_flag=True,
    help="Take results from private addresses and over plain http too: from your own storage.",
)
@client_options
def fetch(
    job_id: str,
    *,
    out: str | None,
    overwrite: bool,
    connections: int,
    allow_private: bool,
    connect: Callable[[], AdeClient],
) -> None:
    """Download the result of a completed job. The file appears whole or not at all.

    What was downloaded when it was interrupted is kept beside it, hidden, and gone on with the
    next time.
    """

    async def main() -> ExitCode:
        check_job_id(job_id)
        async with (
            connect() as client,
            ResultFetcher(client, connections=connections, allow_private=allow_private) as fetcher,
        ):
            if out == "-":
                async with fetcher.stream(job_id) as chunks:
                    async for chunk in chunks:
                        sys.stdout.buffer.write(chunk)
                sys.stdout.buffer.flush()
            else:
                path = Path(out or result_name(job_id))
                with TransferView(path.name) as view:
                    done = await fetcher.download(
                        job_id, path, progress=view.update, overwrite=overwrite
                    )
                say(f"{done.path}: {done.bytes} bytes, sha256 {done.sha256}")
        return ExitCode.COMPLETED

    run(main)
