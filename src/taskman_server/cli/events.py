"""`taskman-server events`: queues and dead letters for operators (EVENT-2)."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from taskman_server import data_folder
from taskman_server.cli.options import load_settings, setting_options
from taskman_server.settings import Settings

if TYPE_CHECKING:
    from taskman_server.kit.broker import Broker, DeadLetter, Message, QueueStats
    from taskman_server.kit.broker.rabbitmq import RabbitBroker

__all__ = ["QUEUES", "events"]

QUEUES: Final = (
    "audit.all",
    "authentication.users",
    "authorization.iam",
    "iam.user",
    "notifications.people",
    "notifications.users",
    "notifications.webhooks",
)
"""The queues of the services' consumers. RabbitMQ cannot be asked for a list."""

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

_output = click.option(
    "-o", "--output", type=click.Choice(["table", "json"]), default="table", help="For people, or for programs."
)


def _where(function: F) -> F:
    return setting_options("data", "broker_url")(function)


@click.group()
def events() -> None:
    """Queues of events, and those that no consumer could handle.

    With a broker's address (--broker-url, TASKMAN_BROKER_URL) the queues of RabbitMQ, else those of the server on this
    machine (--data). An event that failed too often waits in the dead-letter queue of its consumer: `show` says why,
    `redrive` sends it back when the reason is gone.

    \b
    Examples:
      taskman-server events list
      taskman-server events show notifications.webhooks
      taskman-server events redrive notifications.webhooks --all
      taskman-server events redrive audit.all event_01j9zq3v5k8m2n4p6r7s8t9v0w
      taskman-server events purge notifications.people
      taskman-server events list --broker-url amqp://taskman:secret@rabbitmq:5672/taskman -o json
    """


@events.command("list")
@_where
@_output
def list_queues(config: Path | None, output: str, **flags: Any) -> None:
    """List the queues with what waits in them.

    Messages a consumer of another process has at work are in no figure on RabbitMQ.
    """
    settings = load_settings(config, flags)

    async def look(broker: RabbitBroker) -> dict[str, QueueStats]:
        return await broker.stats_of(QUEUES)

    stats = _rabbit(settings, look) if settings.broker_url else _read(settings, lambda broker: broker.stats())
    if output == "json":
        _json([{"queue": name, **_figures(each, settings)} for name, each in sorted(stats.items())])
        return
    if not stats:
        click.echo("No queue is declared yet: the services do that when they start.")
        return
    _table(
        ("QUEUE", "WAITING", "DEAD", "CONSUMERS", "OLDEST"),
        [
            (name, *(_text(value) for value in list(_figures(each, settings).values())))
            for name, each in sorted(stats.items())
        ],
    )


@events.command()
@click.argument("queue")
@_where
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="How many at most.")
@click.option("--waiting", is_flag=True, help="Those that wait instead of those given up; on RabbitMQ only while the "
              "queue has no consumer, and it counts as a delivery.")  # fmt: skip
@_output
def show(queue: str, limit: int, waiting: bool, config: Path | None, output: str, **flags: Any) -> None:
    """Show the dead letters of QUEUE, the oldest first: what, why, when. With `-o json` their content too."""
    settings = load_settings(config, flags)
    if waiting:

        async def peek(broker: RabbitBroker) -> list[Message]:
            return await broker.peek(queue, limit=limit)

        messages = (
            _rabbit(settings, peek)
            if settings.broker_url
            else _read(settings, lambda broker: broker.peek(queue, limit=limit))
        )
        if output == "json":
            _json([_content(message) for message in messages])
        else:
            _table(("ID", "NAME", "KEY"), [(each.id, each.name, each.key) for each in messages])
        return

    async def dead(broker: RabbitBroker) -> list[DeadLetter]:
        return await broker.dead_letters(queue, limit=limit)

    letters = (
        _rabbit(settings, dead)
        if settings.broker_url
        else _read(settings, lambda broker: broker.dead_letters(queue, limit=limit))
    )
    if output == "json":
        _json(
            [
                {
                    **_content(letter.message),
                    "attempts": letter.attempts,
                    "reason": letter.reason,
                    "time": _text(letter.time),
                }
                for letter in letters
            ]
        )
    elif not letters:
        click.echo(f"{queue} has no dead letters.")
    else:
        _table(
            ("ID", "NAME", "ATTEMPTS", "TIME", "REASON"),
            [
                (each.message.id, each.message.name, str(each.attempts), _text(each.time), each.reason)
                for each in letters
            ],
        )


@events.command()
@click.argument("queue")
@click.argument("event_ids", nargs=-1, metavar="[EVENT]...")
@_where
@click.option("--all", "everything", is_flag=True, help="All dead letters of the queue.")
def redrive(queue: str, event_ids: tuple[str, ...], everything: bool, config: Path | None, **flags: Any) -> None:
    """Send dead letters of QUEUE back to it: these events, or all with --all.

    They come after what waits there, and their attempts begin anew. The embedded server must be stopped.
    """
    if bool(event_ids) == everything:
        raise click.UsageError("name the events to send back, or say --all")

    async def do(broker: Broker) -> int:
        return await broker.redrive(queue, None if everything else list(event_ids))

    count = _change(load_settings(config, flags), do)
    if event_ids and count < len(set(event_ids)):
        raise click.ClickException(
            f"{count} of {len(set(event_ids))} sent back to {queue}; the others are not among its dead letters"
        )
    click.echo(f"{count} sent back to {queue}.")


@events.command()
@click.argument("queue")
@_where
@click.option("--waiting", is_flag=True, help="Forget what waits to be handled instead of the dead letters.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def purge(queue: str, waiting: bool, yes: bool, config: Path | None, **flags: Any) -> None:
    """Forget the dead letters of QUEUE for ever.

    The embedded server must be stopped.
    """
    what = "messages that wait" if waiting else "dead letters"
    settings = load_settings(config, flags)
    if not yes:
        if not sys.stdin.isatty():
            raise click.ClickException(f"this forgets the {what} of {queue} for ever: say --yes")
        click.confirm(f"Forget the {what} of {queue} for ever?", abort=True)

    async def do(broker: Broker) -> int:
        return await broker.purge(queue, dead=not waiting)

    click.echo(f"{_change(settings, do)} {what} of {queue} are forgotten.")


def _rabbit(settings: Settings, work: Callable[[RabbitBroker], Awaitable[T]]) -> T:
    from taskman_server.kit.broker.rabbitmq import RabbitBroker

    @asynccontextmanager
    async def opened() -> AsyncIterator[RabbitBroker]:
        broker = await RabbitBroker.open(settings.broker_url, name="taskman-server events")
        try:
            yield broker
        finally:
            await broker.close()

    async def run() -> T:
        async with opened() as broker:
            return await work(broker)

    return _told(lambda: asyncio.run(run()))


def _read(settings: Settings, work: Callable[[Any], T]) -> T:
    from taskman_server.kit.broker.snapshot import Snapshot

    return _told(lambda: work(Snapshot(_broker_file(settings))))


def _change(settings: Settings, work: Callable[[Broker], Awaitable[T]]) -> T:
    if settings.broker_url:
        return _rabbit(settings, work)
    path = _broker_file(settings)

    async def run() -> T:
        from taskman_server.kit.broker.embedded import EmbeddedBroker

        broker = await EmbeddedBroker.open(path)
        try:
            return await work(broker)
        finally:
            await broker.close()

    try:
        handle = data_folder.lock(settings.data)
    except data_folder.DataFolderInUse:
        raise click.ClickException(
            f"a server is running on {settings.data} and owns its queues: stop it, then run this again"
        ) from None
    with handle:
        return _told(lambda: asyncio.run(run()))


def _told(work: Callable[[], T]) -> T:
    from taskman_server.kit.broker import BrokerError

    try:
        return work()
    except BrokerError as error:
        raise click.ClickException(str(error)) from None


def _broker_file(settings: Settings) -> Path:
    path = settings.data / data_folder.BROKER
    if not path.exists():
        raise click.ClickException(
            f"there is no {path}: name the server's folder with --data, or RabbitMQ with --broker-url"
        )
    return path


def _figures(stats: QueueStats, settings: Settings) -> dict[str, Any]:
    rabbit = bool(settings.broker_url)
    return {
        "waiting": stats.ready,
        "dead": stats.dead,
        "consumers": stats.consumers if rabbit else None,
        "oldest": None if stats.oldest is None else _text(stats.oldest),
    }


def _content(message: Message) -> dict[str, Any]:
    try:
        body: Any = json.loads(message.body)
    except ValueError:
        body = message.body
    return {"id": message.id, "name": message.name, "key": message.key, "event": body}


def _text(value: Any) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return "-" if value is None else str(value)


def _json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    lines = [head, *([" ".join(cell.split()) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
