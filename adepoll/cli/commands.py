"""Declares the subcommands for click: names, arguments, options and help.

This module imports only click, `options` and `emulate_options`, so that `adepoll --help` and shell
completion are fast. The decorator `runs` names the function that does the work; its module is
imported when the command runs.
"""

from pathlib import Path
from typing import Final

import click

from adepoll.cli.emulate_options import (
    check_keys,
    complete_fault,
    median_option,
    read_faults,
    read_profile,
)
from adepoll.cli.options import (
    KIND_CHOICES,
    CountRange,
    LocalPath,
    allow_private_option,
    batch_options,
    client_options,
    ids_options,
    kind_option,
    runs,
)

_STATUSES: Final = ["pending", "processing", "completed", "failed", "cancelled"]
_KIND_OF_JOB: Final = "Kind of the job, if its id does not say it."
_PORT: Final = CountRange(0, 65535)
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
    type=CountRange(min=1),
    metavar="N",
    help="Number of jobs.",
)
@median_option
@click.option("--seed", default=0, show_default=True, help="Seed of durations, sizes and failures.")
@runs("demo_run:demo")
def demo() -> None:
    """Watch 2,000 emulated jobs on this machine (needs no key).

    Starts an emulator of the service as a separate process, and submits jobs of every kind to it
    over HTTP. 3% of the jobs fail, 1% are cancelled, and 5% have results of 2 to 20 MB. The demo
    watches the jobs, stores large results in a temporary folder, and compares all statuses and
    results with the emulator's records. The exit code is 0 if adepoll found exactly what the
    emulator recorded (failed jobs included), and 1 otherwise.
    """


@click.command(epilog=_EMULATE_EXAMPLES)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    metavar="ADDRESS",
    help="Address to listen on.",
)
@click.option(
    "--port",
    default=8300,
    show_default=True,
    type=_PORT,
    metavar="PORT",
    help="Port of the API; 0 for any free port.",
)
@click.option(
    "--results-port",
    default=0,
    show_default=True,
    type=_PORT,
    metavar="PORT",
    help="Port of the storage, which has the large results; 0 for any free port.",
)
@click.option(
    "--jobs",
    default=0,
    show_default=True,
    type=CountRange(min=0),
    metavar="N",
    help="Number of jobs that exist at the start.",
)
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    type=click.Choice(KIND_CHOICES),
    metavar="KIND",
    help=f"Kind of the jobs that exist at the start: {', '.join(KIND_CHOICES)}; the default is "
    f"{KIND_CHOICES[0]}. May be repeated: the jobs are then shared evenly among the kinds.",
)
@click.option(
    "--api-key",
    "api_keys",
    multiple=True,
    default=["emulator-key"],
    show_default=True,
    callback=check_keys,
    metavar="KEY",
    help="Key that the emulator accepts; it refuses every other key. May be repeated.",
)
@median_option
@click.option("--seed", default=0, show_default=True, help="Seed of all random values.")
@click.option(
    "--profile",
    "settings",
    type=click.Path(path_type=Path),
    callback=read_profile,
    metavar="FILE",
    help="TOML file with settings of jobs and faults. --jobs, --kind, --seed and --median override "
    "it, except that --median does not change kinds with their own table [profiles.KIND]. --fault "
    "adds a fault to those of the file.",
)
@click.option(
    "--fault",
    "faults",
    multiple=True,
    callback=read_faults,
    shell_complete=complete_fault,
    metavar="NAME[:CHANCE]",
    help="Simulate failing or slow requests. NAME is the name of a fault, such as "
    "server-error; docs/emulator.md in the repository lists all names. CHANCE is the share of the "
    "requests that the fault affects, from 0 to 1 (default: 1, all of them). May be repeated.",
)
@click.option(
    "--verbose",
    is_flag=True,
    help="Print a status line on stderr every 10 s. A terminal always shows one.",
)
@click.option("--until-eof", is_flag=True, hidden=True, help="Exit at the end of standard input.")
@click.pass_context
@runs("emulate:emulate")
def emulate() -> None:
    """Run an emulated ADE service (needs no key of the service).

    The emulator has jobs of all kinds. The command prints the environment variables that direct
    adepoll and the official SDK to the emulator; one of them is the key that it accepts.
    """


@click.command()
@click.argument("journal", type=LocalPath(dir_okay=False, path_type=Path))
@click.option(
    "--to",
    type=click.Choice(["parquet", "csv", "jsonl", "arrow"]),
    help='Format of the table. parquet and arrow need the extra "table" of adepoll.  [default: by '
    "the ending of FILE; parquet if FILE has no ending or is -]",
)
@click.option(
    "-o",
    "--out",
    type=LocalPath(dir_okay=False, allow_dash=True),
    metavar="FILE",
    help='Output file; "-" for standard output. An existing file is replaced. Default: the name of '
    "the journal, but with the ending of the format (batch.parquet for batch.db).",
)
@click.option(
    "--explode",
    multiple=True,
    metavar="PATH",
    help="Write the list at PATH, such as line_items, to a separate table beside FILE, with one "
    "row for each element of the list. Cannot be used with -o -. May be repeated.",
)
@click.option(
    "--references",
    is_flag=True,
    help="Add columns that name the parts (chunks) of the document in which each value was found.",
)
@click.option(
    "--dates",
    is_flag=True,
    help="Convert a column to dates if all its texts are ISO 8601 dates, or to times if all its "
    "texts are ISO 8601 times with an offset.",
)
@click.option(
    "--results",
    type=LocalPath(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Folder in which the result files are now, if you have moved them.",
)
@runs("export:export_tables")
def export() -> None:
    """Write the jobs and results of a batch as a table.

    The table has one row for each job, and one column for each value of the extracted data. The
    file appears when it is complete.

    JOURNAL is the file that was passed to "adepoll watch --journal". The command only reads it, so
    the batch may still be running. No API key is needed.
    """


@click.command()
@click.argument("job_id")
@click.option(
    "-o",
    "--out",
    type=LocalPath(dir_okay=False, allow_dash=True),
    metavar="FILE",
    help='Output file; "-" for standard output. If the file exists, it is replaced only with '
    "--overwrite. Default: JOB_ID.json in the current folder.",
)
@click.option("--overwrite", is_flag=True, help="Replace the output file if it exists already.")
@click.option(
    "--connections",
    type=CountRange(min=1),
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

    JOB_ID is the id of the job. A v2 id contains the kind of its job. For any other id, write the
    kind in front of it, as in v1-parse/JOB_ID, or use --kind. If the job has not settled yet, the
    command does not wait: it exits with 3.

    The file appears only when it is complete. If a large download is interrupted, the received
    bytes can remain in a hidden file in the same folder. Run the same command to continue.
    """


@click.command()
@click.argument("job_id")
@client_options(_KIND_OF_JOB)
@runs("get_and_list:get")
def get() -> None:
    """Print the current state of one job as JSON.

    JOB_ID is the id of the job. A v2 id contains the kind of its job. For any other id, write the
    kind in front of it, as in v1-parse/JOB_ID, or use --kind.

    The JSON contains the result if the result is small (up to about 1 MB). To download a result of
    any size, use "adepoll fetch". URLs of results are printed without their query, which is a
    secret.

    If your organisation has zero data retention, do not use this command: it reads the result of a
    completed job, and the service then deletes the result.
    """


@click.command("list")
@click.option("--status", type=click.Choice(_STATUSES), help="Only jobs with this status.")
@click.option(
    "--limit",
    type=CountRange(min=1),
    metavar="N",
    help="Print at most N jobs.  [default: all]",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print JSON lines even if stdout is a terminal."
)
@client_options("Kind of the jobs to list.")
@runs("get_and_list:list_jobs")
def list_jobs() -> None:
    """List the jobs of one kind that the API key can see.

    To list the jobs of another kind than v1-extract, pass --kind. The command prints a table on a
    terminal, and JSON lines otherwise.
    """


@click.command()
@click.argument("journal", type=LocalPath(path_type=Path))
@click.option(
    "-o",
    "--out",
    type=LocalPath(dir_okay=False, allow_dash=True),
    metavar="FILE",
    help='Output file; "-" for standard output. An existing file is replaced. Default: the name of '
    "the journal without its ending, then -report.html, in the folder of the journal "
    "(batch-report.html for batch.db).",
)
@runs("report:report")
def report() -> None:
    """Write an HTML report about a batch.

    The report shows how the jobs ended and why, how long they took, what they cost, and which jobs
    are still open. The report is one file without scripts or external content.

    JOURNAL is the file that was passed to "adepoll watch --journal". The command only reads it, so
    the batch may still be running. No API key is needed.
    """


@click.command()
@click.argument("journal", type=LocalPath(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@runs("status:status")
def status() -> None:
    """Show the state of a batch and the errors of its jobs.

    JOURNAL is the file that was passed to "adepoll watch --journal". The command only reads it, so
    the batch may still be running. No API key is needed.
    """


@click.command()
@ids_options
@click.option(
    "-j",
    "--journal",
    type=LocalPath(dir_okay=False, path_type=Path),
    metavar="FILE",
    help='Record all jobs and outcomes in FILE, so that "adepoll resume FILE" can continue the '
    "batch. The file is created if it does not exist.",
)
@kind_option("Kind of the jobs whose ids do not contain their kind.")
@batch_options(resumes=False)
@runs("watch:watch")
def watch() -> None:
    """Wait for jobs, and print each one when it has settled.

    A job has settled when it has completed, failed or been cancelled. Each job is printed as one
    line on stdout: as JSON, or as text if stdout is a terminal. Progress and errors are printed on
    stderr.

    Job ids come from arguments, files or standard input. A v2 id contains the kind of its job. For
    any other id, write the kind in front of it, as in v1-parse/JOB_ID, or use --kind. With --field,
    the columns of a CSV file that are not id, kind or label are printed with each job.

    A JSON line contains the result if the result is small (up to about 1 MB). With --out, all
    results are written to files instead. URLs of results are printed without their query, which is
    a secret.

    With --journal, "adepoll resume" can continue the batch after any interruption, even if the
    command was killed.

    The exit code is 0 if all jobs completed, 1 if some failed or were cancelled, and 3 if some are
    unresolved or their results could not be fetched. "adepoll --help" lists all codes.
    """


@click.command()
@click.argument("journal", type=LocalPath(dir_okay=False, path_type=Path))
@batch_options(resumes=True)
@runs("watch:resume")
def resume() -> None:
    """Continue the batch of a journal.

    First prints the outcomes that an earlier run recorded but did not print completely, without
    requests to the service. Then waits for the remaining jobs.

    JOURNAL is the file that was passed to "adepoll watch --journal". It contains the values that
    were passed for --timeout, --concurrency, --downloads, --max-rate, --discovery and --name. They
    are used again, unless you pass other values. All other options must be passed again.

    Somebody else may have written the journal, so two of its values must be confirmed. Pass the
    folder for results again with --out: a file in the wrong folder could change the settings of
    another program. Pass URLs that are not URLs of LandingAI again with --base-url and
    --v2-base-url, or with the environment variables: the API key is sent to them.
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
