"""`taskman completion`: completion for the shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from taskman_sdk.cli._app import command


@command("completion", short_help="Print completion for a shell.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that completes `taskman` in a shell.

    \b
    Examples:
      eval "$(taskman completion bash)"                          # in ~/.bashrc
      taskman completion zsh > ~/.zfunc/_taskman
      taskman completion fish > ~/.config/fish/completions/taskman.fish
    """
    from taskman_sdk.cli import cli

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(cli, {}, "taskman", "_TASKMAN_COMPLETE").source())
