"""`taskman audit …`."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import click

from taskman_sdk.cli._app import group, state
from taskman_sdk.cli._output import dump, show, stamp, table

_SPAN: Final = re.compile(r"(\d{1,6})\s*(s|m|min|h|d|w)")
_SECONDS: Final = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 604800}


def _seconds(text: str) -> int | None:
    found = _SPAN.fullmatch(text.strip().lower())
    return None if found is None else int(found.group(1)) * _SECONDS[found.group(2)]


def _width(context: click.Context, parameter: click.Parameter, text: str) -> int:
    if (seconds := _seconds(text)) is None:
        raise click.BadParameter(f"{text!r} is no width; write one like 60s, 15m, 1h or 1d")
    return seconds


def _time(context: click.Context, parameter: click.Parameter, text: str) -> datetime | None:
    """A date, or a span before now."""
    from taskman_sdk.cli._dates import moment

    if not text:
        return None
    if (seconds := _seconds(text)) is not None:
        return datetime.now(UTC) - timedelta(seconds=seconds)
    try:
        return moment(text)[0]
    except ValueError as error:
        raise click.BadParameter(f"{error}, or 12h for twelve hours ago") from None


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


@audit.command("metrics", short_help="Count records over time.")
@click.option("--since", default="", callback=_time, help="From when on: 7d, 12h, a date. A day before --until.")
@click.option("--until", default="", callback=_time, help="Until when; now unless said.")
@click.option("--bucket", default="1h", show_default=True, callback=_width, help="Width of a line: 60s, 15m, 1h, 1d.")
@click.option("--by", default="", type=click.Choice(["", "type", "actor", "result"]), help="What to count apart.")
@click.option("--filter", "expression", default="", help="A CEL expression over the fields of a record.")
def metrics(since: datetime | None, until: datetime | None, bucket: int, by: str, expression: str) -> None:
    """Count records in spans of time; -o json has the empty spans too.

    \b
    Examples:
      taskman audit metrics
      taskman audit metrics --since 30d --bucket 1d --by type
      taskman audit metrics --since 1h --bucket 60s --filter 'result == "denied"' -o json
    """
    answer = (
        state()
        .client()
        .audit.query_metrics(start_time=since, end_time=until, bucket_seconds=bucket, group_by=by, filter=expression)
    )
    if state().output == "json":
        dump(answer.model_dump(mode="json"))
        return
    lines: list[tuple[Any, Any]] = [
        (each, part) for each in answer.buckets for part in (each.groups if by else [each]) if part.count
    ]
    names: dict[str, str] = {}
    if by == "actor" and state().output == "table":
        from taskman_sdk.cli._people import People

        names = People(state().client()).shown(part.key for _, part in lines if part.key.startswith("user_"))
    columns = [
        ("TIME", lambda line: stamp(line[0].start_time)),
        (by.upper(), lambda line: "(others)" if line[1].other else names.get(line[1].key, line[1].key)),
        ("COUNT", lambda line: str(line[1].count)),
        ("PER SECOND", lambda line: f"{line[1].rate:.4g}"),
    ]
    table(
        lines,
        [column for column in columns if column[0]],
        lambda line: str(line[1].count),
        empty="No records match.",
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
        gone = f" {answer.expired_count} before were removed, their time was up." if answer.expired_count else ""
        click.echo(f"{answer.verified_count} records, all as they were written.{gone} Head: {answer.head}")
    if not answer.valid:
        click.echo(f"Error: record {answer.first_invalid_sequence}: {answer.problem}", err=True)
        click.get_current_context().exit(1)
