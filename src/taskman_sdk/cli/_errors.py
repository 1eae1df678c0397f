"""Errors, as a line or two on stderr."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from taskman_sdk.cli._output import clean
from taskman_sdk.errors import NotFoundError, TaskManError, UnauthenticatedError

if TYPE_CHECKING:
    from taskman_sdk.cli._app import State

__all__ = ["explain"]


def explain(error: Exception, state: State, about: str = "") -> int:
    """Says what was wrong and what to do.

    Args:
        error: what was raised.
        state: of the command that ran.
        about: which of several things it is about.

    Returns:
        The exit code for it.
    """
    subject = f"{clean(about)}: " if about else ""
    if isinstance(error, UnauthenticatedError):
        return _unauthenticated(error, state)
    if not isinstance(error, TaskManError):
        click.echo(f"Error: {subject}{error}", err=True)
        return 1
    lines = [f"Error: {subject}{clean(error.message)}"]
    lines += [
        f"  {clean(v.field)}: {clean(v.description)}"
        for v in error.field_violations
        if v.description not in error.message
    ]
    if error.retry_after:
        lines.append(f"Try again in {error.retry_after:.0f} s.")
    elif error.code in ("INTERNAL", "UNKNOWN") and error.request_id:
        lines.append(f"The server's log has it under {error.request_id}.")
    click.echo("\n".join(lines), err=True)
    return 4 if isinstance(error, NotFoundError) else 1


def _unauthenticated(error: UnauthenticatedError, state: State) -> int:
    where = f" --profile {state.profile}" if state.profile != "default" else ""
    if error.reason == "TOKEN_MISSING":  # the server can only say how its API is called
        lines = [f"Not signed in to {state.current().url}.", f"Run `taskman login{where}`."]
    elif state.signing_in:
        lines = [f"Error: {clean(error.message)}"]
    elif state.token:
        lines = [f"Error: {clean(error.message)}", "The token is the one of --token or TASKMAN_TOKEN."]
    else:
        lines = [f"Not signed in: {clean(error.message)}", f"Run `taskman login{where}`."]
    click.echo("\n".join(lines), err=True)
    return 3
