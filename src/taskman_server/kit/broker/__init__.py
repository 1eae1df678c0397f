"""The broker as the services see it: RabbitMQ's contract, small enough for a second implementation (EVENT-2).

An event goes to the topic exchange of its context with its name as the routing key (`routing`). A queue is durable,
belongs to one consumer, is called `<service>.<context>` and has a dead-letter queue `<queue>.dead`. A publish is
durable in every bound queue before it returns, and refused when no queue is bound. Delivery is at least once; events
with one key are handed out in their order.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from taskman_server.kit.broker.routing import exchanges_for
from taskman_server.kit.events import Event

__all__ = [
    "DELIVERY_LIMIT",
    "Broker",
    "BrokerError",
    "BrokerUnavailable",
    "DeadLetter",
    "Deliveries",
    "Delivery",
    "Message",
    "QueueStats",
    "TopologyMismatch",
    "UnknownQueue",
    "Unroutable",
    "check_declaration",
    "dead_letter_queue",
]

DELIVERY_LIMIT = 8

_ASIDE = (".dead", ".bindings", ".attempts")
_QUEUE_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")


class BrokerError(Exception):
    """The broker refused or failed. Base of what a `Broker` raises."""


class BrokerUnavailable(BrokerError):
    """The broker cannot work at present; nothing is known to be published. Try again later."""


class TopologyMismatch(BrokerError):
    """A queue or exchange is there, but made in another way than it is declared; the message says what differs."""


class UnknownQueue(BrokerError):
    """No queue of this name was declared."""

    def __init__(self, queue: str) -> None:
        """Name the queue."""
        super().__init__(f"queue {queue} is not declared: start its consumer first, or check the name")
        self.queue = queue


class Unroutable(BrokerError):
    """Some messages go to no queue: `event_ids`. Those in `durable_ids` are published; the others are to be published
    again without these, and any of them may be durable too."""

    def __init__(self, messages: Sequence[Message], durable_ids: Iterable[str] = ()) -> None:
        """Name the messages that no queue is bound for."""
        names = sorted({message.name for message in messages})
        super().__init__(f"no queue is bound for {', '.join(names)}: declare the consumers' queues first")
        self.event_ids = frozenset(message.id for message in messages)
        self.durable_ids = frozenset(durable_ids)


@dataclass(frozen=True, slots=True)
class Message:
    """An event on the wire: `id`, `name` (the routing key), `key` (what keeps its order) and the envelope's text."""

    id: str
    name: str
    key: str
    body: str
    _read: Event | None = field(default=None, init=False, repr=False, compare=False)

    @classmethod
    def of(cls, event: Event) -> Message:
        """The message that carries `event`."""
        return cls(event.id, event.name, event.key, event.to_json())

    def event(self) -> Event:
        """The event in it, read once however many ask; nobody changes it. Raises BadEnvelope."""
        if (event := self._read) is None:
            event = Event.from_json(self.body)
            object.__setattr__(self, "_read", event)
        return event


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message handed to a consumer, to be settled once. `attempt` counts from 1; `redriven`: an operator sent it
    back from the dead-letter queue; `tag` is the broker's own mark."""

    message: Message
    queue: str
    attempt: int
    redriven: bool
    tag: int


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that was given up, why, when, and after how many deliveries."""

    message: Message
    queue: str
    attempts: int
    reason: str
    time: datetime


@dataclass(frozen=True, slots=True)
class QueueStats:
    """One queue: messages not handed out, handed out and not settled, given up; consumers; the oldest one's arrival
    (None when there is none, or it is not known)."""

    ready: int
    unsettled: int
    dead: int
    consumers: int
    oldest: datetime | None


class Deliveries(Protocol):
    """One consumer's stream of batches. What it has not settled when it closes is delivered again."""

    def __aiter__(self) -> AsyncIterator[list[Delivery]]:
        """Batches in the order of arrival, at most `prefetch` messages unsettled. A message that was delivered before
        comes alone, so that one that kills the consumer does not use up its neighbours' attempts."""

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Done: forget them."""

    async def retry(self, delivery: Delivery, reason: str) -> None:
        """Failed: deliver again after a pause that grows, later ones of its key after it; at the delivery limit move
        it to the dead-letter queue."""

    async def reject(self, delivery: Delivery, reason: str) -> None:
        """Hopeless: move it to the dead-letter queue now."""

    async def release(self, deliveries: Sequence[Delivery]) -> None:
        """Not tried: hand them out again as if they had not been delivered. Where the broker counts by itself, those
        that go back to it when the consumer closes have been delivered once."""


class Broker(Protocol):
    """Queues of events. Every method raises BrokerUnavailable."""

    async def declare(self, queue: str, bindings: Sequence[str], *, delivery_limit: int = DELIVERY_LIMIT) -> None:
        """Make a durable queue, or change its bindings: patterns such as `task.created`, `user.*`, `#`."""

    async def publish(self, messages: Sequence[Message]) -> None:
        """Return when all are durable in all their queues, or done with there. Where the broker can tell, an id that is
        in a queue still is not put there twice. A message whose key has an earlier one that goes nowhere is not
        published, as far as that is known in time. Raises Unroutable."""

    def consume(self, queue: str, *, prefetch: int = 64) -> AbstractAsyncContextManager[Deliveries]:
        """Take deliveries from a queue. Raises UnknownQueue on entering."""

    def listen(self, pattern: str, callback: Callable[[Event], None]) -> Callable[[], None]:
        """Call back for each event after it was published; not durable, for caches. The answer ends it."""

    async def stats(self) -> dict[str, QueueStats]:
        """Every queue's figures, as far as this process can know them."""

    async def peek(self, queue: str, *, limit: int = 20) -> list[Message]:
        """The oldest messages that wait or are at work; nothing changes, where the broker can do that. Raises
        UnknownQueue, and BrokerError where a queue that has consumers cannot be looked into."""

    async def dead_letters(self, queue: str, *, limit: int = 100) -> list[DeadLetter]:
        """The oldest messages given up. Raises UnknownQueue."""

    async def redrive(self, queue: str, event_ids: Sequence[str] | None = None) -> int:
        """Send messages given up (all, or these) to the end of the queue, attempts at zero; how many.
        Raises UnknownQueue."""

    async def purge(self, queue: str, *, dead: bool = False) -> int:
        """Forget the messages that wait (`dead`: those given up); how many. Raises UnknownQueue."""

    async def delete(self, queue: str) -> None:
        """Remove a queue with all its messages. Raises UnknownQueue, and BrokerError while it has consumers."""

    async def close(self) -> None:
        """End the consumers, give back what they hold, and close."""


def dead_letter_queue(queue: str) -> str:
    """The name of a queue's dead-letter queue."""
    return f"{queue}.dead"


def check_declaration(queue: str, bindings: Sequence[str], delivery_limit: int) -> None:
    """Raises ValueError for a queue's name, binding or limit that is none."""
    if not _QUEUE_NAME.fullmatch(queue) or queue.endswith(_ASIDE):
        raise ValueError(
            f"queue {queue!r}: expected <service>.<context>, in lower case, not ending in {', '.join(_ASIDE)}"
        )
    if not bindings or delivery_limit < 1:
        raise ValueError(f"queue {queue}: at least one binding and one delivery are needed")
    for pattern in bindings:
        exchanges_for(pattern)
