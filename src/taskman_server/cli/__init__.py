"""The command `taskman-server`."""

from __future__ import annotations

import os
import sys

import click

from taskman_sdk._version import __version__
from taskman_server.cli.certs import certs
from taskman_server.cli.doctor import doctor
from taskman_server.cli.events import events
from taskman_server.cli.run import run
from taskman_server.cli.settings import settings
from taskman_server.cli.up import up
from taskman_server.cli.worker import worker

__all__ = ["group", "main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="taskman-server")
def group() -> None:
    """TaskMan's server: all eight services with one command.

    \b
    Examples:
      taskman-server up
      taskman-server up --data /var/lib/taskman --admin-email me@example.org
      taskman-server doctor
    """


group.add_command(up)
group.add_command(run)
group.add_command(certs)
group.add_command(doctor)
group.add_command(events)
group.add_command(settings)
group.add_command(worker)


def main() -> None:
    """Runs the command; a fault of the user's making ends with a sentence, never a traceback."""
    # gRPC's core writes lines of its own about what we say in ours.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        group(standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
