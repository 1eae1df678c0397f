"""The command `taskman`.

Exit codes: 0 done · 1 the server or the network says no, or nobody reads the output any more · 2 the command line is
wrong · 3 not signed in · 4 not found · 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from typing import Final

import click

from taskman_sdk._version import __version__
from taskman_sdk.cli._app import State, lazy_group
from taskman_sdk.errors import TaskManError

__all__ = ["cli", "main"]

HELP: Final = """Tasks, projects and people from the command line.

\b
Examples:
  taskman login
  taskman add "Pay rent" -p HOME --due friday
  taskman ls label:fix state:todo assignee:me due:<2024-09-01
  taskman done WEB-42
  taskman task show WEB-42 -o json
  taskman import csv tasks.csv --dry-run

Results go to stdout, everything else to stderr. Exit codes: 0 done, 1 the server or the network says no, 2 the
command line is wrong, 3 not signed in, 4 not found, 130 interrupted.
"""

cli = lazy_group(
    {
        "login": "session:login",
        "logout": "session:logout",
        "whoami": "session:whoami",
        "register": "session:register",
        "add": "task:add",
        "ls": "task:ls",
        "start": "task:start",
        "done": "task:done",
        "reopen": "task:reopen",
        "search": "task:search",
        "task": "task:task",
        "project": "project:project",
        "user": "user:user",
        "role": "role:role",
        "policy": "policy:policy",
        "webhook": "webhook:webhook",
        "notification": "notification:notification",
        "audit": "audit:audit",
        "import": "transfer:import_group",
        "export": "transfer:export_group",
        "completion": "completion:completion",
    },
    name="taskman",
    help=HELP,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    params=[
        click.Option(
            ["--version"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            help="Show the version.",
            callback=lambda context, _, value: _version(context) if value else None,
        )
    ],
)


def _version(context: click.Context) -> None:
    click.echo(f"taskman {__version__}")
    context.exit()


def main() -> None:
    """Runs the command line and exits with its code."""
    state = State()
    try:
        code = _run(state)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains while it exits
        code = 1
    sys.exit(code)


def _run(state: State) -> int:
    from taskman_sdk.profiles import ProfileError

    try:
        answer = cli.main(prog_name="taskman", standalone_mode=False, obj=state)
        return answer if isinstance(answer, int) else 0
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        return 130
    except click.UsageError as error:
        error.show()
        return 2
    except click.ClickException as error:
        click.echo(f"Error: {error.format_message()}", err=True)
        return 1
    except BrokenPipeError:
        raise
    except (TaskManError, ProfileError, OSError) as error:
        if state.debug:
            raise
        from taskman_sdk.cli._errors import explain

        return explain(error, state)
    except Exception as error:
        if state.debug:
            raise
        click.echo(
            f"Error: {type(error).__name__}: {error}\nThis is a fault of taskman; --debug shows where.", err=True
        )
        return 1
    finally:
        state.close()
