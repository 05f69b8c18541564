"""``adepoll demo``: the command; `demo_run` runs it."""

import click

from adepoll.cli.options import median_option
from adepoll.cli.run import run


@click.command()
@click.option(
    "--jobs",
    default=2000,
    show_default=True,
    type=click.IntRange(min=1),
    metavar="N",
    help="Number of jobs.",
)
@median_option
@click.option("--seed", default=0, show_default=True, help="Seed of durations, sizes and failures.")
def demo(*, jobs: int, median: float, seed: int) -> None:
    """Watch 2,000 emulated jobs on this machine; needs no API key.

    Starts an emulator of the service as a separate process, and submits the jobs to it over HTTP.
    Durations are log-normal; 3% of the jobs fail, 1% are cancelled, and 5% have results of 2 to 20
    MB. Watches the jobs, downloads the large results, and compares everything with the emulator's
    records. Exits with 1 if anything is missing or wrong.
    """
    from adepoll.cli.demo_run import run_demo  # noqa: PLC0415 - --help works without it

    run(lambda: run_demo(jobs=jobs, median=median, seed=seed))
