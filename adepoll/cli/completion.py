"""``adepoll completion``: print the script that completes commands, options and files."""

from click.shell_completion import get_completion_class

from adepoll.cli import cli
from adepoll.cli.exit_codes import ExitCode
from adepoll.cli.run import run_sync
from adepoll.cli.stdout_writer import write_line

_NAME = "adepoll"
_VARIABLE = "_ADEPOLL_COMPLETE"  # the name that click derives from _NAME


def completion(*, shell: str) -> None:
    """Print the completion script for `shell`; see `commands.completion`."""

    def main() -> ExitCode:
        if maker := get_completion_class(shell):
            script = maker(cli, {}, _NAME, _VARIABLE).source()
            # Without this change, click's script for fish cuts each description at its first comma.
            write_line(script.replace('string split ","', 'string split -m 1 ","'))
        return ExitCode.COMPLETED

    run_sync(main)
