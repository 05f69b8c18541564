"""``adepoll fetch``: bring the result of one job home."""

import glob
import sys
from collections.abc import Callable
from pathlib import Path

import click

from adepoll.api.client import AdeClient
from adepoll.api.job_ids import check_job_id, result_name
from adepoll.cli.progress import TransferView
from adepoll.cli.running import ExitCode, client_options, run, say, shown
from adepoll.fetcher import ResultFetcher


@click.command()
@click.argument("job_id")
@click.option(
    "-o",
    "--out",
    type=click.Path(dir_okay=False, allow_dash=True),
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
    target: Path | None = None

    async def main() -> ExitCode:
        nonlocal target
        check_job_id(job_id)
        target = None if out == "-" else Path(out or result_name(job_id))
        async with (
            connect() as client,
            ResultFetcher(client, connections=connections, allow_private=allow_private) as fetcher,
        ):
            if target is None:
                async with fetcher.stream(job_id) as chunks:
                    async for chunk in chunks:
                        sys.stdout.buffer.write(chunk)
                sys.stdout.buffer.flush()
            else:
                with TransferView(target.name) as view:
                    done = await fetcher.download(
                        job_id, target, progress=view.update, overwrite=overwrite
                    )
                say(f"{shown(str(done.path))}: {done.bytes} bytes, sha256 {done.sha256}")
        return ExitCode.COMPLETED

    def on_stop() -> None:
        if target is not None and _is_partly_there(target):
            say("adepoll: what has come is kept; the same command goes on from there")

    run(main, on_stop=on_stop)


def _is_partly_there(target: Path) -> bool:
    # What is kept has a note beside it, of which bytes it is.
    pattern = f".{glob.escape(target.name[:40])}.*.part.json"
    return any(target.parent.glob(pattern))
