"""Events in traces: a span where an event is published, and one where it is handled, in the trace that it was made in.

Wrapped around a broker and a subscription where tracing is on, so that the relay and the consumers know nothing of it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from taskman_server.kit.broker import Broker, Message
    from taskman_server.kit.consumer import Subscription
    from taskman_server.kit.db import Transaction
    from taskman_server.kit.events import Event
    from taskman_server.kit.telemetry import Telemetry

__all__ = ["TracedBroker", "traced"]

_TRACEPARENT: Final = re.compile(r'"traceparent":"(00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2})"')


class TracedBroker:
    """A broker whose publishing is seen; everything else is the broker's own."""

    def __init__(self, broker: Broker, telemetry: Telemetry) -> None:
        self._broker = broker
        self._telemetry = telemetry

    def __getattr__(self, name: str) -> Any:
        return getattr(self._broker, name)

    async def publish(self, messages: Sequence[Message]) -> None:
        """See `Broker.publish`."""
        started = time.perf_counter()
        await self._broker.publish(messages)
        seconds = time.perf_counter() - started
        for message in messages:
            if found := _TRACEPARENT.search(message.body):
                self._telemetry.published(message.name, found[1], message.id, seconds)


def traced(subscription: Subscription, telemetry: Telemetry) -> Subscription:
    """The subscription with a span around its handler."""
    handle, together = subscription.handler, subscription.together

    async def handler(event: Event, tx: Transaction) -> None:
        with telemetry.event(event.name, subscription.queue, event.traceparent, event.id):
            await handle(event, tx)

    async def all_together(events: Sequence[Event], tx: Transaction) -> None:
        assert together is not None
        with ExitStack() as spans:
            for event in events:
                spans.enter_context(telemetry.event(event.name, subscription.queue, event.traceparent, event.id))
            await together(events, tx)

    return replace(subscription, handler=handler, together=all_together if together is not None else None)
