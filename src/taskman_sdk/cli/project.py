"""`taskman project …`."""

from __future__ import annotations

import click

from taskman_sdk.cli._app import group, state
from taskman_sdk.cli._output import result, show, stamp, table

ROLES = click.Choice(["viewer", "editor", "admin"])
VISIBILITY = click.Choice(["private", "organization"])


@group("project", short_help="Projects and their members.")
def project() -> None:
    """Projects and their members. A PROJECT is a key such as WEB, or an id."""


@project.command("ls", short_help="List projects.")
@click.option("--filter", "expression", default="", help="A CEL expression over the fields of a project.")
def ls(expression: str) -> None:
    """List the projects that you may see.

    \b
    Examples:
      taskman project ls
      taskman project ls --filter 'visibility == "organization"' -o quiet
    """
    table(
        state().client().projects.list(filter=expression, page_size=1000),
        [
            ("KEY", lambda p: p.key),
            ("NAME", lambda p: p.display_name),
            ("VISIBILITY", lambda p: p.visibility),
            ("MEMBERS", lambda p: str(len(p.members))),
            ("CREATED", lambda p: stamp(p.create_time, day=True)),
        ],
        lambda p: str(p.key),
        empty='No projects yet; `taskman project add WEB "The web site"` makes one.',
    )


@project.command("add", short_help="Create a project.")
@click.argument("key")
@click.argument("name", required=False)
@click.option("-d", "--description", default="", help="What it is for, in Markdown.")
@click.option("--visibility", type=VISIBILITY, default="private", show_default=True, help="Who may read it.")
def add(key: str, name: str | None, description: str, visibility: str) -> None:
    """Create a project. KEY begins the keys of its tasks: WEB-1, WEB-2 …

    \b
    Examples:
      taskman project add WEB "The web site"
      taskman project add HOME --visibility organization
    """
    made = state().client().projects.create(
        key=key, display_name=name or key, description=description, visibility=visibility
    )  # fmt: skip
    result(made, f"{made.key}  {made.display_name}", lambda p: str(p.key))


@project.command("show", short_help="Show one project.")
@click.argument("key", metavar="PROJECT")
def show_project(key: str) -> None:
    """Show one project with its members.

    \b
    Examples:
      taskman project show WEB
    """
    from taskman_sdk.cli._people import People

    found = state().client().projects.get(key)
    names = People(state().client()).shown(m.user for m in found.members) if state().output == "table" else {}
    members = "".join(f"{names.get(m.user, m.user)}  {m.role}\n" for m in found.members)
    show(
        found,
        [
            ("Key", lambda p: p.key),
            ("Name", lambda p: p.display_name),
            ("Visibility", lambda p: p.visibility),
            ("Created", lambda p: stamp(p.create_time)),
            ("Id", lambda p: p.id),
            ("Description", lambda p: p.description),
            ("Members", lambda _: members),
        ],
        lambda p: str(p.key),
    )


@project.group("members", short_help="Add and remove members.")
def members() -> None:
    """Add and remove members of a project."""


@members.command("add", short_help="Add a member, or change a member's role.")
@click.argument("key", metavar="PROJECT")
@click.argument("who")
@click.option("--role", type=ROLES, default="editor", show_default=True, help="What they may do.")
def add_member(key: str, who: str, role: str) -> None:
    """Add a member, or change a member's role. WHO is `me`, an address or an id.

    \b
    Examples:
      taskman project members add WEB ada@example.org
      taskman project members add WEB ada@example.org --role admin
    """
    from taskman_sdk.cli._people import People

    changed = state().client().projects.add_member(key, user=People(state().client()).id(who), role=role)
    result(changed, f"{changed.key}  {who} is {role}", lambda p: str(p.key))


@members.command("rm", short_help="Remove a member.")
@click.argument("key", metavar="PROJECT")
@click.argument("who")
def remove_member(key: str, who: str) -> None:
    """Remove a member. WHO is `me`, an address or an id.

    \b
    Examples:
      taskman project members rm WEB ada@example.org
    """
    from taskman_sdk.cli._people import People

    changed = state().client().projects.remove_member(key, People(state().client()).id(who))
    result(changed, f"{changed.key}  {who} is no longer a member", lambda p: str(p.key))
