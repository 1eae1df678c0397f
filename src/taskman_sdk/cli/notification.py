"""`taskman notification …`."""

from __future__ import annotations

from collections.abc import Sequence

import click

from taskman_sdk.cli._app import group, state
from taskman_sdk.cli._output import result, stamp, table


@group("notification", short_help="Your inbox.")
def notification() -> None:
    """Your inbox."""


@notification.command("ls", short_help="List your notifications.")
@click.option("--all", "everything", is_flag=True, help="Also those you have read.")
@click.option("-n", "--limit", type=click.IntRange(min=1), default=20, show_default=True, help="How many.")
def ls(everything: bool, limit: int) -> None:
    """List what you have not read yet, newest first.

    \b
    Examples:
      taskman notification ls
      taskman notification ls --all -n 100
    """
    expression = "" if everything else "read_time == null"
    pages = state().client().notifications.list(filter=expression, page_size=min(limit, 1000))
    table(
        pages.to_list(limit),
        [
            ("TIME", lambda n: stamp(n.create_time)),
            ("TITLE", lambda n: n.title),
            ("READ", lambda n: stamp(n.read_time)),
            ("ID", lambda n: n.id),
        ],
        lambda n: str(n.id),
        empty="Nothing new.",
    )


@notification.command("read", short_help="Mark notifications as read.")
@click.argument("ids", nargs=-1, metavar="[NOTIFICATION]...")
@click.option("--all", "everything", is_flag=True, help="All that are not read.")
def read(ids: Sequence[str], everything: bool) -> None:
    """Mark notifications as read.

    \b
    Examples:
      taskman notification read notification_01j…
      taskman notification read --all
    """
    client = state().client()
    if everything:
        ids = [each.id for each in client.notifications.list(filter="read_time == null").to_list()]
    elif not ids:
        raise click.UsageError("Say which, or --all.")
    for each in ids:
        client.notifications.mark_read(each)
    result({"read": list(ids)}, f"{len(ids)} read.", lambda _: "\n".join(ids))
