"""Subcommands whose modules are imported when they are used. Imports click only."""

import importlib

import click


class LazyCommand(click.Command):
    """The name and the summary of a subcommand: enough to list and to complete its name."""

    def __init__(self, name: str, path: str, summary: str) -> None:
        """Describe a subcommand.

        Args:
            name: The word that calls it.
            path: Its module and its name therein, ``module:name``.
            summary: The first paragraph of its help.
        """
        super().__init__(name, help=summary)
        self._path = path

    def load(self) -> click.Command:
        """Import the subcommand."""
        module, _, name = self._path.partition(":")
        command = getattr(importlib.import_module(module), name)
        if not isinstance(command, click.Command):
            raise TypeError(f"{self._path} is not a command")
        return command


class LazyGroup(click.Group):
    """A group that loads a lazy subcommand when the command line names it."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the subcommand that the arguments name, to run it or to complete its options."""
        name, command, rest = super().resolve_command(ctx, args)
        if isinstance(command, LazyCommand):
            command = command.load()
        return name, command, rest
