"""Subcommands whose modules are imported when they are used. Imports click only."""

import importlib

import click


class LazyCommand(click.Command):
    """Name and summary of a subcommand: enough for the list of commands and for completion."""

    def __init__(self, name: str, path: str, summary: str) -> None:
        """Create a placeholder for a subcommand.

        Args:
            name: The subcommand's name on the command line.
            path: Its module and the name of the command there, as ``module:name``.
            summary: The first paragraph of its help.
        """
        super().__init__(name, help=summary)
        self._path = path

    def load(self) -> click.Command:
        """Import the module, and return the real command."""
        module, _, name = self._path.partition(":")
        command = getattr(importlib.import_module(module), name)
        if not isinstance(command, click.Command):
            raise TypeError(f"{self._path} is not a command")
        return command


class LazyGroup(click.Group):
    """A group that imports a subcommand when the command line names it."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the subcommand named in the arguments, to run it or to complete its options."""
        name, command, rest = super().resolve_command(ctx, args)
        if isinstance(command, LazyCommand):
            command = command.load()
        return name, command, rest
