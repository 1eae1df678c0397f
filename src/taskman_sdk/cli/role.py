"""`taskman role …`."""

from __future__ import annotations

from collections.abc import Sequence

import click

from taskman_sdk.cli._app import group, state
from taskman_sdk.cli._output import result, show, stamp, table


@group("role", short_help="Roles, and who has them.")
def role() -> None:
    """Roles, and who has them. A ROLE is a name or an id."""


def _role(name: str) -> str:
    """The id of a role by name or id."""
    import json

    if name.startswith("role_"):
        return name
    found = state().client().roles.list(filter=f"name == {json.dumps(name)}").to_list(1)
    return found[0].id if found else name


@role.command("ls", short_help="List roles.")
def ls() -> None:
    """List the roles of your organization.

    \b
    Examples:
      taskman role ls
    """
    table(
        state().client().roles.list(page_size=1000),
        [
            ("NAME", lambda r: r.name),
            ("SYSTEM", lambda r: "yes" if r.system else ""),
            ("PERMISSIONS", lambda r: " ".join(r.permissions)),
            ("DESCRIPTION", lambda r: r.description),
            ("ID", lambda r: r.id),
        ],
        lambda r: str(r.id),
    )


@role.command("show", short_help="Show one role.")
@click.argument("name", metavar="ROLE")
def show_role(name: str) -> None:
    """Show one role with its permissions.

    \b
    Examples:
      taskman role show member
    """
    show(
        state().client().roles.get(_role(name)),
        [
            ("Name", lambda r: r.name),
            ("Description", lambda r: r.description),
            ("System", lambda r: "yes" if r.system else "no"),
            ("Changed", lambda r: stamp(r.update_time)),
            ("Id", lambda r: r.id),
            ("Permissions", lambda r: "\n".join([*r.permissions, ""])),
        ],
        lambda r: str(r.id),
    )


@role.command("add", short_help="Create a role.")
@click.argument("name")
@click.argument("permissions", nargs=-1, required=True, metavar="PERMISSION...")
@click.option("-d", "--description", default="", help="What it is for.")
def add(name: str, permissions: Sequence[str], description: str) -> None:
    """Create a role with permissions such as tasks.update or tasks.*

    \b
    Examples:
      taskman role add triage tasks.read tasks.transition -d "Sorts what comes in"
    """
    made = state().client().roles.create(name=name, description=description, permissions=list(permissions))
    result(made, f"{made.id}  {made.name}", lambda r: str(r.id))


@role.command("rm", short_help="Delete a role.")
@click.argument("name", metavar="ROLE")
def rm(name: str) -> None:
    """Delete a role.

    \b
    Examples:
      taskman role rm triage
    """
    answer = state().client().roles.delete(_role(name))
    result(answer, f"{name} is deleted.", lambda _: name)


@role.command("grant", short_help="Give a role to a user.")
@click.argument("name", metavar="ROLE")
@click.argument("who", metavar="USER")
def grant(name: str, who: str) -> None:
    """Give a role to a user: `me`, an address or an id.

    \b
    Examples:
      taskman role grant triage ada@example.org
    """
    from taskman_sdk.cli._people import People

    made = state().client().assignments.create(principal=People(state().client()).id(who), role=name)
    result(made, f"{who} is {made.role}.", lambda a: str(a.id))


@role.command("revoke", short_help="Take a role from a user.")
@click.argument("name", metavar="ROLE")
@click.argument("who", metavar="USER")
def revoke(name: str, who: str) -> None:
    """Take a role from a user.

    \b
    Examples:
      taskman role revoke triage ada@example.org
    """
    import json

    from taskman_sdk.cli._people import People
    from taskman_sdk.errors import NotFoundError

    client = state().client()
    principal = People(client).id(who)
    expression = f"principal == {json.dumps(principal)} && role == {json.dumps(name)}"
    found = client.assignments.list(filter=expression).to_list()
    if not found:
        raise NotFoundError(f"{who} does not have the role {name!r}.")
    for each in found:
        client.assignments.delete(each.id)
    result(found[0], f"{who} is no longer {name}.", lambda a: str(a.id))


@role.command("permissions", short_help="List every permission there is.")
def permissions() -> None:
    """List every permission there is, with the calls that need it.

    \b
    Examples:
      taskman role permissions
    """
    table(
        state().client().permissions.list().permissions,
        [("PERMISSION", lambda p: p.name), ("METHODS", lambda p: " ".join(p.methods))],
        lambda p: str(p.name),
    )
