"""The subcommands as click sees them: names, arguments, options and help. Imports click only.

`adepoll --help` and shell completion need nothing else. `runs` names the function that does the
work; its module is imported when the command runs.
"""

from pathlib import Path
from typing import Final

import click

from adepoll.cli.options import (
    KIND_CHOICES,
    LocalPath,
    allow_private_option,
    batch_options,
    client_options,
    complete_fault,
    ids_options,
    kind_option,
    median_option,
    overwrite_option,
    read_faults,
    read_profile,
    runs,
)

_STATUSES: Final = ["pending", "processing", "completed", "failed", "cancelled"]
_KIND_OF_JOB: Final = "Kind of the job, if its id does not contain it."
_PORT: Final = click.IntRange(0, 65535)
_INSTALL_COMPLETION: Final = """\b
To install it for each new shell:
  bash  echo 'eval "$(adepoll completion bash)"' >> ~/.bashrc
  zsh   echo 'eval "$(adepoll completion zsh)"' >> ~/.zshrc
  fish  adepoll completion fish > ~/.config/fish/completions/adepoll.fish
"""
_EMULATE_EXAMPLES: Final = """\b
Start an emulator with 100 jobs and use it from this shell:
  adepoll emulate --jobs 100 > ade.env &
  until grep -q KEY ade.env; do sleep 0.1; done
  . ./ade.env && adepoll list

\b
Start an emulator that fails 10% of the requests and limits the rate:
  adepoll emulate --fault server-error:0.1 --fault rate-limit
"""


@click.command(epilog=_INSTALL_COMPLETION)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@runs("completion:completion")
def completion() -> None:
    """Print the completion script for a shell."""


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
@runs("demo_run:demo")
def demo() -> None:
    """Watch 2,000 emulated jobs on this machine; needs no API key.

    Starts an emulator of the service as a separate process, and submits jobs of every kind to
    it over HTTP. Durations are log-normal; 3% of the jobs fail, 1% are cancelled, and 5% have
    results of 2 to 20 MB. Watches the jobs, stores the large results, and compares everything with
    the emulator's records. Exits with 1 if anything is missing or wrong.
    """


@click.command(epilog=_EMULATE_EXAMPLES)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    default=8300,
    show_default=True,
    type=_PORT,
    help="Port of the API; 0 for any free port.",
)
@click.option(
    "--results-port",
    default=0,
    show_default=True,
    type=_PORT,
    help="Port for large results; 0 for any free port.",
)
@click.option(
    "--jobs",
    default=0,
    type=click.IntRange(min=0),
    metavar="N",
    help="Number of jobs at the start.",
)
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    type=click.Choice(KIND_CHOICES),
    metavar="KIND",
    help=f"Kind of these jobs: {', '.join(KIND_CHOICES)}; the default is {KIND_CHOICES[0]}. "
    "Repeat it to mix kinds evenly.",
)
@click.option(
    "--api-key",
    "api_keys",
    multiple=True,
    default=["emulator-key"],
    show_default=True,
    metavar="KEY",
    help="Key that the API accepts; every other key is rejected. Repeatable.",
)
@median_option
@click.option("--seed", default=0, show_default=True, help="Seed of all random values.")
@click.option(
    "--profile",
    "settings",
    type=click.Path(path_type=Path),
    callback=read_profile,
    metavar="FILE",
    help="TOML file with settings of jobs and faults; options override it.",
)
@click.option(
    "--fault",
    "faults",
    multiple=True,
    callback=read_faults,
    shell_complete=complete_fault,
    metavar="NAME[:CHANCE]",
    help="Add a fault; CHANCE is the share of requests that it affects (default: 1.0). Repeatable.",
)
@click.option(
    "--verbose", is_flag=True, help="Print a status line every 10 s; a terminal always shows one."
)
@click.option("--until-eof", is_flag=True, hidden=True, help="Exit at the end of standard input.")
@click.pass_context
@runs("emulate:emulate")
def emulate() -> None:
    """Run an emulated ADE service with all kinds of jobs; needs no API key.

    Prints the environment variables that direct adepoll and the official SDK to the emulator.
    """


@click.command()
@click.argument("journal", type=LocalPath(dir_okay=False, path_type=Path))
@click.option(
    "--to",
    type=click.Choice(["parquet", "csv", "jsonl", "arrow"]),
    help="Format of the table. Default: extension of FILE, else parquet. parquet and arrow need "
    'the extra "table".',
)
@click.option(
    "-o",
    "--out",
    type=LocalPath(allow_dash=True),
    metavar="FILE",
    help='Output file; "-" for standard output. Default: JOURNAL with the extension of the format.',
)
@click.option(
    "--explode",
    multiple=True,
    metavar="PATH",
    help="Write the list at PATH, such as line_items, to a table of its own beside FILE, with one "
    "row for each element. Repeatable.",
)
@click.option("--references", is_flag=True, help="Add the chunk references of each value.")
@click.option(
    "--dates",
    is_flag=True,
    help="Convert a column to dates if all its texts are ISO 8601 dates, or to times if all are "
    "ISO 8601 times with an offset.",
)
@click.option(
    "--results",
    type=LocalPath(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="New folder of the result files, if you have moved them.",
)
@runs("export:export_tables")
def export() -> None:
    """Write the jobs and results of a batch as a table.

    The table has one row for each job, and one column for each path of the extracted data. It is
    written to FILE when it is complete.

    JOURNAL is the file that was passed to "adepoll watch --journal". It is only read, so the batch
    may still be running. Needs no API key.
    """


@click.command()
@click.argument("job_id")
@click.option(
    "-o",
    "--out",
    type=LocalPath(dir_okay=False, allow_dash=True),
    metavar="FILE",
    help='Output file; "-" for standard output. Default: JOB_ID.json in the current folder.',
)
@overwrite_option
@click.option(
    "--connections",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    metavar="N",
    help="Maximum number of connections for one large result.",
)
@allow_private_option
@client_options(_KIND_OF_JOB)
@runs("fetch:fetch")
def fetch() -> None:
    """Download the result of a completed job.

    The file appears only when it is complete. If a large download is interrupted, its bytes are
    kept in a hidden file in the same folder if possible; the same command continues it.
    """


@click.command()
@click.argument("job_id")
@client_options(_KIND_OF_JOB)
@runs("get_and_list:get")
def get() -> None:
    """Print the current state of one job as JSON.

    The secret queries of presigned URLs are removed. To download the result, use
    "adepoll fetch".
    """


@click.command("list")
@click.option("--status", type=click.Choice(_STATUSES), help="Only jobs with this status.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Print at most N jobs.")
@client_options("Kind of the jobs to list.")
@runs("get_and_list:list_jobs")
def list_jobs() -> None:
    """List the jobs of the API key.

    Prints a table on a terminal, and JSON lines otherwise.
    """


@click.command()
@click.argument("journal", type=LocalPath(path_type=Path))
@click.option(
    "-o",
    "--out",
    type=LocalPath(allow_dash=True),
    metavar="FILE",
    help='Output file; "-" for standard output. Default: JOURNAL-report.html in the folder of '
    "the journal.",
)
@runs("report:report")
def report() -> None:
    """Write an HTML report about a batch.

    The report shows the outcomes of the jobs and their reasons, durations, costs, and open jobs. It
    is one file without scripts or external content.

    JOURNAL is the file that was passed to "adepoll watch --journal". The batch may still be
    running.
    """


@click.command()
@click.argument("journal", type=LocalPath(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@runs("status:status")
def status() -> None:
    """Show the state of a batch, and its errors.

    JOURNAL is the file that was passed to "adepoll watch --journal". It is only read, so the batch
    may still be running. Needs no API key.
    """


@click.command()
@ids_options
@click.option(
    "-j",
    "--journal",
    type=LocalPath(dir_okay=False, path_type=Path),
    metavar="FILE",
    help='Record everything in FILE, so that "adepoll resume FILE" can continue the batch. '
    "Created if it does not exist.",
)
@kind_option("Kind of the ids that do not contain a kind.")
@batch_options
@runs("watch:watch")
def watch() -> None:
    """Wait for jobs, and print each one when it has settled.

    A job has settled when it has completed, failed or been cancelled. Each job is printed as one
    line on stdout: JSON, or text if stdout is a terminal. Progress and errors are printed on
    stderr.

    Job ids come from arguments, files or standard input. An id can have its kind before it, as in
    v1-parse/JOB_ID. The other columns of a CSV file are printed with each job.

    A JSON line contains the result if the service sent it inline. With --out, results are written
    to files instead. The secret query of a presigned URL is never printed.

    With --journal, no outcome is lost even if the command is killed, and "adepoll resume" continues
    the batch.
    """


@click.command()
@click.argument("journal", type=LocalPath(dir_okay=False, path_type=Path))
@batch_options
@runs("watch:resume")
def resume() -> None:
    """Continue the batch of a journal.

    First prints the recorded outcomes that have not been printed yet, without requests to the
    service. Then waits for the remaining jobs.

    JOURNAL is the file that was passed to "adepoll watch --journal". It contains --timeout,
    --concurrency, --downloads, --max-rate, --discovery and --name of that command, which replace
    the defaults below; options of this command override them. Other options are not saved.

    A journal may come from a stranger. Therefore, its folder for results is used only if you pass
    the folder with --out, and its API URLs only if they are those of LandingAI or you pass them
    with --base-url and --v2-base-url.
    """


COMMANDS: Final = (
    completion,
    demo,
    emulate,
    export,
    fetch,
    get,
    list_jobs,
    report,
    resume,
    status,
    watch,
)
