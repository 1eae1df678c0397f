"""`taskman policy …`."""

from __future__ import annotations

from collections.abc import Sequence

import click

from taskman_sdk.cli._app import group, state
from taskman_sdk.cli._output import result, show, stamp, table


@group("policy", short_help="Rules with conditions.")
def policy() -> None:
    """Rules that grant or refuse permissions under a condition. A POLICY is a name or an id."""


def _policy(name: str) -> str:
    """The id of a policy by name or id."""
    import json

    if name.startswith("policy_"):
        return name
    found = state().client().policies.list(filter=f"name == {json.dumps(name)}").to_list(1)
    return found[0].id if found else name


def _effect(effect: str) -> str:
    return effect.removeprefix("EFFECT_").lower()


@policy.command("ls", short_help="List policies.")
def ls() -> None:
    """List the policies of your organization.

    \b
    Examples:
      taskman policy ls
    """
    table(
        state().client().policies.list(page_size=1000),
        [
            ("NAME", lambda p: p.name),
            ("EFFECT", lambda p: _effect(p.effect)),
            ("ROLES", lambda p: " ".join(p.roles) or "everyone"),
            ("PERMISSIONS", lambda p: " ".join(p.permissions)),
            ("CONDITION", lambda p: p.condition),
            ("ID", lambda p: p.id),
        ],
        lambda p: str(p.id),
    )


@policy.command("show", short_help="Show one policy.")
@click.argument("name", metavar="POLICY")
def show_policy(name: str) -> None:
    """Show one policy.

    \b
    Examples:
      taskman policy show no-deletes
    """
    show(
        state().client().policies.get(_policy(name)),
        [
            ("Name", lambda p: p.name),
            ("Effect", lambda p: _effect(p.effect)),
            ("Roles", lambda p: ", ".join(p.roles) or "everyone"),
            ("Permissions", lambda p: ", ".join(p.permissions)),
            ("Condition", lambda p: p.condition),
            ("Description", lambda p: p.description),
            ("System", lambda p: "yes" if p.system else "no"),
            ("Changed", lambda p: stamp(p.update_time)),
            ("Id", lambda p: p.id),
        ],
        lambda p: str(p.id),
    )


@policy.command("add", short_help="Create a policy.")
@click.argument("name")
@click.argument("effect", type=click.Choice(["allow", "deny"]))
@click.argument("permissions", nargs=-1, required=True, metavar="PERMISSION...")
@click.option("--role", "roles", multiple=True, help="A role it is about; several times. Everyone when not given.")
@click.option("--when", "condition", default="", help="A CEL expression over principal, resource and now.")
@click.option("-d", "--description", default="", help="What it is for.")
def add(
    name: str, effect: str, permissions: Sequence[str], roles: Sequence[str], condition: str, description: str
) -> None:
    """Create a policy.

    \b
    Examples:
      taskman policy add own-tasks allow tasks.update --role viewer --when 'resource.creator == principal.id'
      taskman policy add no-deletes deny tasks.delete
    """
    made = state().client().policies.create(
        name=name, effect=f"EFFECT_{effect.upper()}", permissions=list(permissions), roles=list(roles),
        condition=condition, description=description,
    )  # fmt: skip
    result(made, f"{made.id}  {made.name}", lambda p: str(p.id))


@policy.command("rm", short_help="Delete a policy.")
@click.argument("name", metavar="POLICY")
def rm(name: str) -> None:
    """Delete a policy.

    \b
    Examples:
      taskman policy rm no-deletes
    """
    answer = state().client().policies.delete(_policy(name))
    result(answer, f"{name} is deleted.", lambda _: name)
