"""`taskman audit …`."""

from __future__ import annotations

import json

import click

from taskman_sdk.cli._app import group, state
from taskman_sdk.cli._output import dump, show, stamp, table


@group("audit", short_help="Who did what, and proof that it is so.")
def audit() -> None:
    """Who did what, when, to what; and the check that nobody changed the records."""


@audit.command("ls", short_help="List records.")
@click.option("--type", "kind", default="", help="Only this event, for example task.created.")
@click.option("--actor", default="", help="Only what this user did: me, an address or an id.")
@click.option("--target", default="", help="Only what was done to this id.")
@click.option("--filter", "expression", default="", help="A CEL expression over the fields of a record.")
@click.option("-n", "--limit", type=click.IntRange(min=0), default=50, show_default=True, help="How many; 0 for all.")
def ls(kind: str, actor: str, target: str, expression: str, limit: int) -> None:
    """List records, newest first.

    \b
    Examples:
      taskman audit ls --type task.deleted
      taskman audit ls --actor me -n 10 -o json
      taskman audit ls --filter 'result == "denied"'
    """
    from taskman_sdk.cli._people import People

    people = People(state().client())
    terms = [f"type == {json.dumps(kind)}"] if kind else []
    terms += [f"actor == {json.dumps(people.id(actor))}"] if actor else []
    terms += [f"target_id == {json.dumps(target)}"] if target else []
    terms += [f"({expression})"] if expression else []
    pages = state().client().audit.list(filter=" && ".join(terms), page_size=min(limit, 1000) or 1000)
    found = pages.to_list(limit or None)
    names: dict[str, str] = {}
    if state().output == "table":
        names = people.shown(each.actor for each in found if each.actor.startswith("user_"))
    table(
        found,
        [
            ("TIME", lambda e: stamp(e.time)),
            ("TYPE", lambda e: e.type),
            ("RESULT", lambda e: e.result),
            ("ACTOR", lambda e: names.get(e.actor, e.actor)),
            ("TARGET", lambda e: e.target.id if e.target else ""),
            ("ID", lambda e: e.id),
        ],
        lambda e: str(e.id),
        empty="No records match.",
    )


@audit.command("show", short_help="Show one record.")
@click.argument("event_id", metavar="EVENT")
def show_event(event_id: str) -> None:
    """Show one record with what was changed.

    \b
    Examples:
      taskman audit show event_01j…
    """
    show(
        state().client().audit.get(event_id),
        [
            ("Time", lambda e: stamp(e.time)),
            ("Type", lambda e: e.type),
            ("Result", lambda e: e.result),
            ("Actor", lambda e: e.actor),
            ("Target", lambda e: f"{e.target.type} {e.target.id}" if e.target else ""),
            ("Request", lambda e: e.request_id),
            ("Service", lambda e: e.source),
            ("Address", lambda e: e.ip_address),
            ("Place", lambda e: str(e.sequence)),
            ("Hash", lambda e: e.hash),
            ("Id", lambda e: e.id),
            ("Data", lambda e: json.dumps(e.data, ensure_ascii=False, indent=2) if e.data else ""),
        ],
        lambda e: str(e.id),
    )


@audit.command("verify", short_help="Check the chain of records.")
def verify() -> None:
    """Walk the chain of records; exits with 1 when one was changed, removed or moved.

    \b
    Examples:
      taskman audit verify
    """
    answer = state().client().audit.verify(timeout=max(state().timeout, 600))
    if state().output == "json":
        dump(answer.model_dump(mode="json"))
    elif answer.valid:
        click.echo(f"{answer.verified_count} records, all as they were written. Head: {answer.head}")
    if not answer.valid:
        click.echo(f"Error: record {answer.first_invalid_sequence}: {answer.problem}", err=True)
        click.get_current_context().exit(1)
