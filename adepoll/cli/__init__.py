"""The `adepoll` command (extra "cli"): one module a subcommand, on top of the library."""

import logging

import click

from adepoll.__about__ import __version__
from adepoll.cli.lazy import LazyCommand, LazyGroup

EPILOG = """\b
Environment:
  VISION_AGENT_API_KEY       the API key (options can be seen by others)
  LANDINGAI_ADE_ENVIRONMENT  production (the default) or eu
  LANDINGAI_ADE_BASE_URL     another address of the API: an emulator's

\b
Exit codes:
  0 all completed         70 a bug in adepoll
  1 some failed or were   74 cannot read or write
    cancelled            129 its terminal was closed
  2 wrong usage          130 interrupted
  3 some unresolved      141 the reader of stdout has gone
  4 the key was refused  143 terminated
"""


@click.group(
    cls=LazyGroup,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="adepoll")
@click.option("--debug", is_flag=True, help="Tell on stderr what happens inside.")
def cli(*, debug: bool) -> None:
    """Wait for LandingAI ADE extract jobs, and bring their results home.

    Try it without a key: adepoll demo
    """
    from adepoll.cli.running import SayHandler  # noqa: PLC0415 - --help works without it

    logging.basicConfig(
        level=logging.DEBUG if debug else logging.WARNING,
        format="%(asctime)s %(name)s: %(message)s" if debug else "adepoll: %(message)s",
        handlers=[SayHandler()],
    )


# Word, module and function, and the summary, which a test compares with the subcommand's help.
for _name, _path, _summary in (
    (
        "completion",
        "completion:completion",
        "Print the script that makes a shell complete adepoll.",
    ),
    ("demo", "demo:demo", "Watch 2,000 jobs settle on this machine, without a key."),
    ("emulate", "emulate:emulate", "Run an ADE service to try things on, without a key or a bill."),
    ("fetch", "fetch:fetch", "Download the result of a completed job."),
    ("get", "look:get", "Look at one job once, and print what is said of it."),
    ("list", "look:list_jobs", "List the key's jobs."),
    ("report", "report:report", "Write the report of a batch: one HTML file that opens anywhere."),
    ("resume", "watch:resume", "Go on with the batch of a journal."),
    ("status", "status:status", "Say where the batch of a journal stands, and what went wrong."),
    ("watch", "watch:watch", "Wait until jobs have ended, and tell each as it does."),
):
    cli.add_command(LazyCommand(_name, f"adepoll.cli.{_path}", _summary))
