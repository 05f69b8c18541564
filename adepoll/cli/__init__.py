"""The `adepoll` command (extra "cli"): one module a subcommand, on top of the library."""

import logging

import click

from adepoll.__about__ import __version__
from adepoll.cli.completion import completion
from adepoll.cli.demo import demo
from adepoll.cli.emulate import emulate
from adepoll.cli.fetch import fetch
from adepoll.cli.look import get, list_jobs
from adepoll.cli.report import report
from adepoll.cli.running import SayHandler
from adepoll.cli.status import status
from adepoll.cli.watch import resume, watch

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


@click.group(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="adepoll")
@click.option("--debug", is_flag=True, help="Tell on stderr what happens inside.")
def cli(*, debug: bool) -> None:
    """Wait for LandingAI ADE extract jobs, and bring their results home.

    Try it without a key: adepoll demo
    """
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.WARNING,
        format="%(asctime)s %(name)s: %(message)s" if debug else "adepoll: %(message)s",
        handlers=[SayHandler()],
    )


cli.add_command(demo)
cli.add_command(watch)
cli.add_command(resume)
cli.add_command(status)
cli.add_command(get)
cli.add_command(list_jobs)
cli.add_command(fetch)
cli.add_command(emulate)
cli.add_command(completion)
cli.add_command(report)
