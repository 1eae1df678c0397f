"""What the log hears: everything (AUDIT-1). A batch of events is appended in one commit, with the consumer's inbox."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from taskman_sdk import contract
from taskman_server.kit.db import Transaction
from taskman_server.kit.outbox import Event, RejectEvent, Subscription
from taskman_server.kit.rpc.runtime import Runtime
from taskman_server.services.audit.retention import EXPIRED
from taskman_server.services.audit.rules import draft_of
from taskman_server.services.audit.stores import store_of

__all__ = ["HEARS", "QUEUE", "AuditConsumers"]

QUEUE: Final = "audit.all"
HEARS: Final = {QUEUE: ("#",)}
"""The queues of this service, and what each is bound to."""


class AuditConsumers:
    """Events to records."""

    def __init__(self, runtime: Runtime) -> None:
        self._store = store_of(runtime.db)
        self._clock = runtime.clock
        self._secret = contract.secret_fields()

    def subscriptions(self) -> list[Subscription]:
        """One queue, bound to every exchange."""
        return [Subscription(QUEUE, HEARS[QUEUE], self.record, together=self.record_all)]

    async def record(self, event: Event, tx: Transaction) -> None:
        """See `record_all`."""
        await self.record_all([event], tx)

    async def record_all(self, events: Sequence[Event], tx: Transaction) -> None:
        """Appends each event to the chain of its organization; of no organization, to the system's chain (``).

        Raises:
            RejectEvent: one says that records were removed, which only this service writes, and never publishes.
        """
        if any(event.name == EXPIRED for event in events):
            raise RejectEvent(f"{EXPIRED} is no event that anybody publishes: it would make a deletion look allowed")
        await self._store.append(tx, [draft_of(event, self._secret) for event in events], self._clock.now())
