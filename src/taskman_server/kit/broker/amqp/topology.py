"""Exchanges, queues and bindings: declared by code, checked against what is there.

A consumer's queue has three beside it: `<queue>.dead` for what was given up, `<queue>.attempts` for the notes of
`attempts`, and `<queue>.bindings`, whose one message says which patterns the queue may be bound to. AMQP cannot list
bindings, so this is how a release knows what the one before it had bound. It is written before anything is bound, and
the old one is taken away after everything in it that is wanted no more was unbound: a crash in between leaves both, and
the next start finishes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import aio_pika
from aio_pika import DeliveryMode
from aio_pika.exceptions import ChannelPreconditionFailed

from taskman_server.kit.broker import TopologyMismatch, dead_letter_queue
from taskman_server.kit.broker.routing import ALL_EXCHANGES, exchanges_for

if TYPE_CHECKING:
    from aiormq.abc import AbstractChannel as Wire

_AT_LEAST_ONCE = (3, 10)

# A quorum queue without a limit puts what was only looked at to its end (RabbitMQ 3) or drops it after the twentieth
# look (RabbitMQ 4). With one that is never reached it comes back to its place.
_NO_LIMIT = 2**31 - 1

# A note whose message was settled in the moment of a crash is of no use any more.
_NOTES_MILLISECONDS = 7 * 86_400_000

# RabbitMQ counts also for those that were only fetched together with one that kills its consumer.
_SLACK = 16


class Names:
    """What things are called on the broker: `prefix` keeps several installations on one virtual host apart."""

    def __init__(self, prefix: str) -> None:
        """Empty for a virtual host of one's own."""
        self._prefix = prefix

    def exchange(self, name: str) -> str:
        """An exchange of `routing`."""
        return f"{self._prefix}{name}"

    def queue(self, name: str) -> str:
        """A consumer's queue."""
        return f"{self._prefix}{name}"

    def dead(self, queue: str) -> str:
        """Its dead-letter queue."""
        return f"{self._prefix}{dead_letter_queue(queue)}"

    def attempts(self, queue: str) -> str:
        """The notes of its attempts."""
        return f"{self._prefix}{queue}.attempts"

    def bindings(self, queue: str) -> str:
        """The note of its bindings."""
        return f"{self._prefix}{queue}.bindings"


def arguments(names: Names, queue: str, delivery_limit: int, version: tuple[int, ...]) -> dict[str, Any]:
    """How a consumer's queue is declared.

    RabbitMQ's own delivery limit is the second line: `deliveries` keeps the one that was asked for.
    """
    values: dict[str, Any] = {
        "x-queue-type": "quorum",
        "x-delivery-limit": delivery_limit * _SLACK,
        "x-single-active-consumer": True,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": names.dead(queue),
    }
    if version >= _AT_LEAST_ONCE:
        values |= {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}
    return values


async def declare_exchanges(wire: Wire, names: Names) -> None:
    """Make the topic exchanges. Raises TopologyMismatch."""
    for name in ALL_EXCHANGES:
        with _checked(f"exchange {names.exchange(name)}", "delete it"):
            await wire.exchange_declare(names.exchange(name), exchange_type="topic", durable=True)


async def declare_queue(
    wire: Wire, names: Names, queue: str, bindings: Sequence[str], delivery_limit: int, version: tuple[int, ...]
) -> None:
    """Make a queue and what belongs to it, or check it; bind it to `bindings` and to nothing else.

    `wire` confirms. Raises TopologyMismatch.
    """
    await declare_exchanges(wire, names)
    aside: dict[str, Any] = {"x-queue-type": "quorum", "x-delivery-limit": _NO_LIMIT}
    todo = "stop its consumers and let it run empty, or redrive it; then delete it (rabbitmqctl delete_queue)"
    for name, values in (
        (names.dead(queue), aside),
        (names.bindings(queue), aside),
        (names.attempts(queue), aside | {"x-message-ttl": _NOTES_MILLISECONDS}),
        (names.queue(queue), arguments(names, queue, delivery_limit, version)),
    ):
        with _checked(f"queue {name}", todo):
            await wire.queue_declare(name, durable=True, arguments=values)
    await _bind(wire, names, queue, sorted(set(bindings)))


async def _bind(wire: Wire, names: Names, queue: str, wanted: list[str]) -> None:
    notes: list[tuple[int, list[str]]] = []
    while (raw := await wire.basic_get(names.bindings(queue))).delivery_tag:
        notes.append((raw.delivery_tag, _patterns(raw.body)))
    if [patterns for _, patterns in notes] != [wanted]:
        note = aio_pika.Message(json.dumps(wanted).encode(), delivery_mode=DeliveryMode.PERSISTENT)
        await wire.basic_publish(
            note.body, routing_key=names.bindings(queue), properties=note.properties, mandatory=True
        )
    for pattern in wanted:
        for exchange in exchanges_for(pattern):
            await wire.queue_bind(names.queue(queue), names.exchange(exchange), pattern)
    if [patterns for _, patterns in notes] == [wanted]:
        return
    for tag, patterns in notes:
        for pattern in sorted(set(patterns) - set(wanted)):
            for exchange in _exchanges_then(pattern):
                await wire.queue_unbind(names.queue(queue), names.exchange(exchange), pattern)
        await wire.basic_ack(tag)


def _patterns(body: bytes) -> list[str]:
    try:
        values = json.loads(body)
    except ValueError:
        return []
    return [value for value in values if isinstance(value, str)] if isinstance(values, list) else []


def _exchanges_then(pattern: str) -> Sequence[str]:
    try:
        return exchanges_for(pattern)
    except ValueError:  # a context that this release does not have: it was bound to one of the exchanges
        return ALL_EXCHANGES


@contextmanager
def _checked(what: str, todo: str) -> Iterator[None]:
    try:
        yield
    except ChannelPreconditionFailed as error:
        difference = str(error).removeprefix("PRECONDITION_FAILED - ")
        raise TopologyMismatch(
            f"{what} is on the broker already, declared otherwise: {difference}. To have it as this release"
            f" declares it, {todo} and start again"
        ) from None
