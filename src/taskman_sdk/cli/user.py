"""`taskman user …`."""

from __future__ import annotations

import click

from taskman_sdk.cli._app import group, state
from taskman_sdk.cli._output import result, show, stamp, table


@group("user", short_help="The people of your organization.")
def user() -> None:
    """The people of your organization. A USER is `me`, an address or an id."""


def _id(who: str) -> str:
    from taskman_sdk.cli._people import People

    return People(state().client()).id(who)


@user.command("ls", short_help="List people.")
@click.option("--filter", "expression", default="", help="A CEL expression, for example 'state == \"active\"'.")
def ls(expression: str) -> None:
    """List the people of your organization.

    \b
    Examples:
      taskman user ls
      taskman user ls --filter 'state == "active"' -o json
    """
    table(
        state().client().users.list(filter=expression, page_size=1000),
        [
            ("E-MAIL", lambda u: u.email),
            ("NAME", lambda u: u.display_name),
            ("STATE", lambda u: u.state),
            ("SINCE", lambda u: stamp(u.create_time, day=True)),
            ("ID", lambda u: u.id),
        ],
        lambda u: str(u.id),
        empty="Nobody matches.",
    )


@user.command("show", short_help="Show one person.")
@click.argument("who", metavar="USER")
def show_user(who: str) -> None:
    """Show one person.

    \b
    Examples:
      taskman user show ada@example.org
    """
    show(
        state().client().users.get(_id(who)),
        [
            ("Name", lambda u: u.display_name),
            ("E-mail", lambda u: u.email),
            ("State", lambda u: u.state),
            ("Language", lambda u: u.locale),
            ("Time zone", lambda u: u.time_zone),
            ("Since", lambda u: stamp(u.create_time)),
            ("Id", lambda u: u.id),
        ],
        lambda u: str(u.id),
    )


@user.command("add", short_help="Create a user.")
@click.argument("email")
@click.option("--name", help="The name that others see; the address' first part when not given.")
def add(email: str, name: str | None) -> None:
    """Create a user, who is sent a link to choose a password.

    \b
    Examples:
      taskman user add ada@example.org --name "Ada Lovelace"
    """
    made = state().client().users.create(email=email, display_name=name or email.partition("@")[0])
    result(made, f"{made.id}  {made.email}", lambda u: str(u.id))


@user.command("deactivate", short_help="Shut a user out.")
@click.argument("who", metavar="USER")
def deactivate(who: str) -> None:
    """Shut a user out: sessions end, signing in is refused, the record stays.

    \b
    Examples:
      taskman user deactivate ada@example.org
    """
    changed = state().client().users.deactivate(_id(who))
    result(changed, f"{changed.email} is deactivated.", lambda u: str(u.id))


@user.command("activate", short_help="Let a user in again.")
@click.argument("who", metavar="USER")
def activate(who: str) -> None:
    """Let a user who was shut out sign in again.

    \b
    Examples:
      taskman user activate ada@example.org
    """
    changed = state().client().users.activate(_id(who))
    result(changed, f"{changed.email} is active again.", lambda u: str(u.id))
