"""``adepoll completion``: what makes a shell complete commands, options and files."""

import click
from click.shell_completion import get_completion_class

from adepoll.cli.running import ExitCode, run_plain, write_line

_NAME = "adepoll"
_VARIABLE = "_ADEPOLL_COMPLETE"  # as click derives it from the name
INSTALL = """\b
To have it in each new shell:
  bash  echo 'eval "$(adepoll completion bash)"' >> ~/.bashrc
  zsh   echo 'eval "$(adepoll completion zsh)"' >> ~/.zshrc
  fish  adepoll completion fish > ~/.config/fish/completions/adepoll.fish
"""


@click.command(epilog=INSTALL)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, *, shell: str) -> None:
    """Print the script that makes a shell complete adepoll."""

    def main() -> ExitCode:
        if maker := get_completion_class(shell):
            write_line(maker(ctx.find_root().command, {}, _NAME, _VARIABLE).source())
        return ExitCode.COMPLETED

    run_plain(main)
