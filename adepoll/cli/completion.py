"""``adepoll completion``: print the script that completes commands, options and files."""

import click
from click.shell_completion import get_completion_class

from adepoll.cli.exit_codes import ExitCode
from adepoll.cli.run import run_sync
from adepoll.cli.stdout_writer import write_line

_NAME = "adepoll"
_VARIABLE = "_ADEPOLL_COMPLETE"  # the name that click derives from _NAME
INSTALL = """\b
To install it for each new shell:
  bash  echo 'eval "$(adepoll completion bash)"' >> ~/.bashrc
  zsh   echo 'eval "$(adepoll completion zsh)"' >> ~/.zshrc
  fish  adepoll completion fish > ~/.config/fish/completions/adepoll.fish
"""


@click.command(epilog=INSTALL)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, *, shell: str) -> None:
    """Print the completion script for a shell."""

    def main() -> ExitCode:
        if maker := get_completion_class(shell):
            script = maker(ctx.find_root().command, {}, _NAME, _VARIABLE).source()
            # click's script for fish cuts descriptions at their first comma.
            write_line(script.replace('string split ","', 'string split -m 1 ","'))
        return ExitCode.COMPLETED

    run_sync(main)
