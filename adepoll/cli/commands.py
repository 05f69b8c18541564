"""Declares the subcommands for click: names, arguments, options and help.

This module imports only click, `options` and `emulate_options`, so that `adepoll --help` and shell
completion are fast. The decorator `runs` names the function that does the work; its module is
imported when the command runs.
"""

from pathlib import Path
from typing import Final, get_args

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
    TableFormat,
    allow_private_option,
    batch_options,
    client_options,
    ids_options,
    kind_option,
    runs,
)

_STATUSES: Final = ["pending", "processing", "completed", "failed", "cancelled"]
_KIND_OF_JOB: Final = "Kind of the job, if its id does not contain it."
_PORT: Final = CountRange(0, 65535)
_INSTALL_COMPLETION: Final = """\b
To load it in every new shell, run once (in zsh, ~/.zshrc must call compinit
before this line):
  bash  echo 'eval "$(adepoll completion bash)"' >> ~/.bashrc
  zsh   echo 'eval "$(adepoll completion zsh)"' >> ~/.zshrc
  fish  adepoll completion fish > ~/.config/fish/completions/adepoll.fish
"""
_EMULATE_EXAMPLES: Final = """\b
Start an emulator with 100 jobs, use it from this shell, and stop it:
  adepoll emulate --jobs 100 > ade.env 2> ade.log &
  while kill -0 $! && [ "$(wc -l < ade.env)" != 4 ]; do sleep 0.1; done
  kill -0 $! && . ./ade.env && adepoll list
  kill $!

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
    """Watch emulated jobs on this machine (needs no API key).

    Starts an emulator of the service as a separate process, and submits jobs of every kind to it
    over HTTP. About 4% of the jobs fail or are cancelled, 1% have partial results, and 5% of the
    results have 2 to 20 MB. The demo watches the jobs, stores large results in a temporary folder,
    and compares all statuses and results with the emulator's records. With 2,000 jobs, this takes
    about a minute.

    The exit code is 0 if adepoll found exactly what the emulator recorded (failed jobs included),
    and 1 otherwise.
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
    help="Port from which large results are downloaded; 0 for any free port.",
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
    help="Kind of the jobs that exist at the start. May be repeated, to divide the jobs evenly "
    f"among several kinds.  [default: {KIND_CHOICES[0]}]",
)
@click.option(
    "--api-key",
    "api_keys",
    multiple=True,
    default=["emulator-key"],
    show_default=True,
    callback=check_keys,
    metavar="KEY",
    help="API key that the emulator accepts. May be repeated. All other keys are refused.",
)
@median_option
@click.option("--seed", default=0, show_default=True, help="Seed of all random values.")
@click.option(
    "--profile",
    "settings",
    type=click.Path(path_type=Path),
    callback=read_profile,
    metavar="FILE",
    help="TOML file with settings of jobs and faults. --jobs, --kind and --seed replace its "
    "values. --median replaces the median of [profile], but not that of tables such as "
    "[profiles.v2-parse]. --fault adds a fault.",
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
    help="Print statistics on stderr every 10 s. A terminal always shows them.",
)
@click.option("--until-eof", is_flag=True, hidden=True, help="Exit at the end of standard input.")
@click.pass_context
@runs("emulate:emulate")
def emulate() -> None:
    """Run an emulated ADE service (needs no API key).

    The command prints four "export" commands for the shell. After these commands, adepoll and the
    official SDK use the emulator, with the first key of --api-key. The emulator runs until Ctrl-C.
    """


@click.command()
@click.argument("journal", type=LocalPath(dir_okay=False, path_type=Path))
@click.option(
    "--to",
    type=click.Choice(get_args(TableFormat)),
    help='Format of the table. parquet and arrow need the extra "table" of adepoll.  [default: the '
    "file name extension of --out, or else parquet]",
)
@click.option(
    "-o",
    "--out",
    type=LocalPath(dir_okay=False, allow_dash=True),
    metavar="FILE",
    help='Output file; "-" for standard output. An existing file is replaced.  [default: a file '
    "beside the journal, such as batch.parquet for batch.db]",
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
    help="Add columns with the ids of the chunks (parts of the document) in which each value was "
    "found.",
)
@click.option(
    "--dates",
    is_flag=True,
    help="Convert a column to dates if all its texts are ISO 8601 dates, or to timestamps if all "
    "are ISO 8601 times with a UTC offset (2026-01-31T12:00:00+01:00).",
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
    file appears only when it is complete. The exit code is 3 if the table lacks results.

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
    "--overwrite.  [default: JOB_ID.json in the current folder]",
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

    JOB_ID is the id of the job. A v2 id contains the kind of its job. Any other id means a
    v1-extract job. For a v1-parse job, use --kind v1-parse, or write v1-parse/JOB_ID.

    The command does not wait for the job: the exit code is 3 if the job has not settled yet, and 1
    if the job failed or was cancelled.

    The file appears only when it is complete. If a large download is interrupted, the received
    bytes can remain in a hidden file in the same folder. Run the same command to continue.
    """


@click.command()
@click.argument("job_id")
@client_options(_KIND_OF_JOB)
@runs("get_and_list:get")
def get() -> None:
    """Print the current state of one job as JSON.

    JOB_ID is the id of the job. A v2 id contains the kind of its job. Any other id means a
    v1-extract job. For a v1-parse job, use --kind v1-parse, or write v1-parse/JOB_ID.

    The JSON contains the result if the result is small (up to about 1 MB). To download a result of
    any size, use "adepoll fetch". URLs of results are printed without their query, which is a
    secret.

    If your organisation has zero data retention, do not use this command: it reads the result of a
    completed job, and the service then deletes the result.

    The exit code is 1 if the job failed or was cancelled.
    """


@click.command("list")
@click.option("--status", type=click.Choice(_STATUSES), help="List only jobs with this status.")
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

    To list jobs of a kind other than v1-extract, pass --kind. The command prints a table on a
    terminal, and otherwise JSON lines: one JSON object for each job.
    """


@click.command()
@click.argument("journal", type=LocalPath(path_type=Path))
@click.option(
    "-o",
    "--out",
    type=LocalPath(dir_okay=False, allow_dash=True),
    metavar="FILE",
    help='Output file; "-" for standard output. An existing file is replaced.  [default: a file '
    "beside the journal, such as batch-report.html for batch.db]",
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
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object in place of text.")
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
    "batch. If FILE exists, the ids are added to its batch.",
)
@kind_option("Kind of the jobs whose ids do not contain their kind.")
@batch_options(resumes=False)
@runs("watch:watch")
def watch() -> None:
    """Wait for jobs, and print each one when it has settled.

    A job has settled when it has completed, failed or been cancelled. Each job is printed as one
    line on stdout: as JSON, or as text if stdout is a terminal. Progress and errors are printed on
    stderr.

    Job ids come from arguments and files; if there are none, from standard input. A v2 id contains
    the kind of its job. Any other id means a v1-extract job. For a v1-parse job, use --kind
    v1-parse, or write v1-parse/JOB_ID.

    With --out, results are written to files. Without --out, JSON lines contain the small results
    (up to about 1 MB), and large results are not printed. URLs of results are printed without their
    query, which is a secret.

    With --journal, "adepoll resume" can continue the batch after any interruption, even if the
    command was killed. If your organisation has zero data retention, pass --journal and --out with
    a new folder in the first run.

    The exit code is 0 if all jobs completed, 1 if some failed or were cancelled, and 3 if some are
    unresolved (adepoll gave them up, for example after --timeout) or their results could not be
    fetched. "adepoll --help" lists all codes.
    """


@click.command()
@click.argument("journal", type=LocalPath(dir_okay=False, path_type=Path))
@batch_options(resumes=True)
@runs("watch:resume")
def resume() -> None:
    """Continue the batch of a journal.

    First prints the recorded outcomes that earlier runs have not printed (after a crash, some can
    appear twice). Then waits for the open jobs, retries the jobs that were given up (unless a retry
    cannot help), and downloads missing result files.

    JOURNAL is the file that was passed to "adepoll watch --journal". It contains the values of
    --timeout, --concurrency, --downloads, --max-rate, --discovery and --name that were passed to
    "adepoll watch". To replace a value for one run, pass another value. All other options must be
    passed in each run.

    Somebody else may have written the journal, so you must confirm two things. Confirm the folder
    for results with --out: files in a wrong folder can do harm. Confirm URLs that are not
    LandingAI's with the environment variables, or with --base-url and --v2-base-url: the API key is
    sent to these URLs.

    The exit codes are those of "adepoll watch".
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
