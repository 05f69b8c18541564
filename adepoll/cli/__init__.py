"""The `adepoll` command (extra "cli"), built on the public library.

`commands` declares the subcommands, and names the function that does the work of each. `run` runs
that function. `signals` handles SIGINT. `exit_codes` lists all exit codes, and says where each is
decided.
"""

import logging
import sys
from typing import Final, NoReturn

import click

from adepoll import __version__
from adepoll.cli.commands import COMMANDS

# The value of `ExitCode.INTERRUPTED`. Its module is slow to import, and --help does not need it.
_INTERRUPTED: Final = 130
EPILOG = """\b
Environment variables:
  VISION_AGENT_API_KEY       API key for fetch, get, list, resume and watch.
                             There is no option for the key, because other
                             users of the computer can see options
  LANDINGAI_ADE_ENVIRONMENT  region of the key: us (the default, also called
                             production) or eu
  LANDINGAI_ADE_BASE_URL     URL of the API, for example of an emulator
  LANDINGAI_ADE_V2_BASE_URL  URL of the API for v2 jobs; needed only if it
                             differs from LANDINGAI_ADE_BASE_URL

\b
Requests go to the first of these addresses that is set, from left to right:
  v1 jobs  --base-url or --region (not both), LANDINGAI_ADE_BASE_URL,
           LANDINGAI_ADE_ENVIRONMENT, region us
  v2 jobs  --v2-base-url, --region, LANDINGAI_ADE_V2_BASE_URL,
           --base-url, LANDINGAI_ADE_BASE_URL, LANDINGAI_ADE_ENVIRONMENT,
           region us
  resume   as above, but with the URLs of the journal in place of region us,
           if they are URLs of LandingAI

\b
Exit codes (docs/command-line.md in the repository has details):
  0  success (all jobs completed)    70   bug in adepoll
  1  jobs failed or were cancelled   74   cannot read or write a file
  2  wrong usage or wrong set-up     129  terminal closed (SIGHUP)
  3  unresolved jobs, missing        130  interrupted (Ctrl-C)
     results, or a failed request    141  reader of stdout closed the pipe
  4  API key refused, or no credits  143  terminated (SIGTERM)
  5  with --strict: partial results
"""


@click.group(
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="adepoll")
@click.option(
    "--debug", is_flag=True, help="Print debug logs and tracebacks on stderr (before COMMAND)."
)
def cli(*, debug: bool) -> None:
    """Wait for jobs of LandingAI ADE (Agentic Document Extraction), and download their results.

    A batch is the set of jobs that "adepoll watch --journal FILE" records in FILE, its journal.

    Try it without an API key: adepoll demo
    """
    from adepoll.cli.messages import LogHandler  # noqa: PLC0415 - slow to import; --help does not need it

    logging.basicConfig(
        level=logging.DEBUG if debug else logging.WARNING,
        format="%(asctime)s %(name)s: %(message)s" if debug else "adepoll: %(message)s",
        handlers=[LogHandler()],
    )


def main() -> NoReturn:
    """Run the subcommand that the command line names, and exit.

    A usage error is printed as one line on stderr. `exit_codes` lists the exit codes.
    """
    try:
        code = cli.main(prog_name="adepoll", standalone_mode=False)
    except click.UsageError as error:
        _show(error)
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(_INTERRUPTED)
    except OSError as error:  # --help or --version could not be printed
        _report(error)
    sys.exit(code if isinstance(code, int) else 0)


def _show(error: click.UsageError) -> None:
    """Print a usage error on stderr; do nothing if stderr cannot be written."""
    from adepoll.common.redaction import printable  # noqa: PLC0415 - slow to import; --help does not need it

    try:
        if sys.argv[1:]:
            path = _command_line() if error.ctx is None else error.ctx.command_path
            # The message can quote a file name, for example one that the shell has found for "*".
            message = printable(" ".join(error.format_message().split()).rstrip("."))
            see = " See" if message.endswith("?") else "; see"
            click.echo(f"{path}: {message}{see} {path} --help", err=True)
        else:
            error.show()  # prints the help, because no subcommand was given
    except OSError:
        from adepoll.cli.messages import discard  # noqa: PLC0415 - slow to import; --help does not need it

        discard(sys.__stderr__)


def _command_line() -> str:
    """Return ``adepoll COMMAND`` for an error message; ``adepoll`` if no command was given."""
    # Some errors of click have no context. Only flags can precede the name of the command.
    word = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    return f"adepoll {word}" if word in cli.commands else "adepoll"


def _report(error: OSError) -> NoReturn:
    """Print an error as one line on stderr, and exit with its code."""
    from adepoll.cli.run import run_sync  # noqa: PLC0415 - slow to import; --help does not need it
    from adepoll.cli.stdout_writer import naming_stdout  # noqa: PLC0415 - slow to import; --help does not need it

    def fail() -> NoReturn:
        with naming_stdout():
            raise error

    run_sync(fail)


for _command in COMMANDS:
    cli.add_command(_command)
