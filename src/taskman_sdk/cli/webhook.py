"""`taskman webhook …`."""

from __future__ import annotations

import json
from collections.abc import Sequence

import click

from taskman_sdk.cli._app import group, state
from taskman_sdk.cli._output import note, result, show, stamp, table


@group("webhook", short_help="Tell other systems of events.")
def webhook() -> None:
    """Tell other systems of events, with signed requests (Standard Webhooks)."""


@webhook.command("ls", short_help="List webhooks.")
def ls() -> None:
    """List the webhooks of your organization.

    \b
    Examples:
      taskman webhook ls
    """
    table(
        state().client().webhooks.list(page_size=1000),
        [
            ("ID", lambda w: w.id),
            ("URL", lambda w: w.url),
            ("EVENTS", lambda w: " ".join(w.event_types) or "all"),
            ("STATE", lambda w: "off" if w.disabled else "on"),
        ],
        lambda w: str(w.id),
        empty="No webhooks.",
    )


@webhook.command("add", short_help="Create a webhook.")
@click.argument("url")
@click.argument("events", nargs=-1, metavar="[EVENT]...")
@click.option("-d", "--description", default="", help="What it is for.")
def add(url: str, events: Sequence[str], description: str) -> None:
    """Create a webhook for events such as task.created or task.*; all when none is named.

    Its signing secret is shown now and never again.

    \b
    Examples:
      taskman webhook add https://example.org/hook task.created task.completed
    """
    made = state().client().webhooks.create(url=url, event_types=list(events), description=description)
    show(made, [("Id", lambda w: w.id), ("Secret", lambda w: w.secret), ("URL", lambda w: w.url)], lambda w: str(w.id))
    note("Keep the secret now; it is not shown again.")


@webhook.command("show", short_help="Show one webhook.")
@click.argument("webhook_id", metavar="WEBHOOK")
def show_webhook(webhook_id: str) -> None:
    """Show one webhook.

    \b
    Examples:
      taskman webhook show webhook_01j…
    """
    show(
        state().client().webhooks.get(webhook_id),
        [
            ("Id", lambda w: w.id),
            ("URL", lambda w: w.url),
            ("Events", lambda w: ", ".join(w.event_types) or "all"),
            ("State", lambda w: "off" if w.disabled else "on"),
            ("Description", lambda w: w.description),
            ("Created", lambda w: stamp(w.create_time)),
        ],
        lambda w: str(w.id),
    )


@webhook.command("rm", short_help="Delete a webhook.")
@click.argument("webhook_id", metavar="WEBHOOK")
def rm(webhook_id: str) -> None:
    """Delete a webhook.

    \b
    Examples:
      taskman webhook rm webhook_01j…
    """
    answer = state().client().webhooks.delete(webhook_id)
    result(answer, f"{webhook_id} is deleted.", lambda _: webhook_id)


@webhook.command("deliveries", short_help="List deliveries.")
@click.argument("webhook_id", metavar="[WEBHOOK]", required=False)
@click.option("--failed", is_flag=True, help="Only those that failed.")
@click.option("-n", "--limit", type=click.IntRange(min=1), default=20, show_default=True, help="How many.")
def deliveries(webhook_id: str | None, failed: bool, limit: int) -> None:
    """List deliveries by webhook and mail, newest first.

    \b
    Examples:
      taskman webhook deliveries --failed
    """
    terms = [f"webhook == {json.dumps(webhook_id)}"] if webhook_id else []
    terms += ['state == "failed"'] if failed else []
    pages = state().client().deliveries.list(filter=" && ".join(terms), page_size=min(limit, 1000))
    table(
        pages.to_list(limit),
        [
            ("ID", lambda d: d.id),
            ("CHANNEL", lambda d: d.channel),
            ("EVENT", lambda d: d.event_type),
            ("TO", lambda d: d.recipient),
            ("STATE", lambda d: d.state),
            ("ATTEMPTS", lambda d: str(len(d.attempts))),
            ("CREATED", lambda d: stamp(d.create_time)),
        ],
        lambda d: str(d.id),
        empty="No deliveries.",
    )


@webhook.command("retry", short_help="Send a delivery again.")
@click.argument("delivery_id", metavar="DELIVERY")
def retry(delivery_id: str) -> None:
    """Send a delivery again, now.

    \b
    Examples:
      taskman webhook retry delivery_01j…
    """
    changed = state().client().deliveries.retry(delivery_id)
    result(changed, f"{changed.id} is {changed.state}.", lambda d: str(d.id))
