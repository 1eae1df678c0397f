"""Consumers: an event and its effect are one commit, so that many deliveries have one effect (EVENT-1).

How long that holds: an inbox row is kept for the inbox window (30 days), counted by the time in the event's id. An
event that is older than the window when it arrives, and has no row, may have been handled and forgotten: it is not
handled but moved to the dead-letter queue, saying so. An operator who redrives it from there decides that it is to be
handled; then it is, unless it has a row.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeAlias

import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlalchemy.dialects.postgresql import insert as upsert  # SQLite's compiler takes it too

from taskman_server.kit.broker import DELIVERY_LIMIT, Broker, BrokerError, Deliveries, Delivery
from taskman_server.kit.clock import Clock, SystemClock
from taskman_server.kit.db import Database, DatabaseUnavailable, Statement, Transaction, TransactionConflict
from taskman_server.kit.event_tables import INBOX
from taskman_server.kit.events import ID_PREFIX, BadEnvelope, Event
from taskman_server.kit.ids import id_floor

_log = logging.getLogger(__name__)

Handler: TypeAlias = Callable[[Event, Transaction], Awaitable[None]]
BatchHandler: TypeAlias = Callable[[Sequence[Event], Transaction], Awaitable[None]]
Filter: TypeAlias = Callable[[Sequence[Event]], Awaitable[Sequence[Event]]]

_REASON_LENGTH = 300
_CONFLICTS = 4

_KNOWN = Statement(
    sa.select(INBOX.c.event_id).where(
        INBOX.c.consumer == bindparam("consumer"), INBOX.c.event_id.in_(bindparam("ids", expanding=True))
    )
)
_INSERT = Statement(
    upsert(INBOX).values({name: bindparam(name) for name in ("consumer", "event_id", "time")}).on_conflict_do_nothing()
)
_PRUNE = Statement(
    sa.delete(INBOX).where(INBOX.c.consumer == bindparam("consumer"), INBOX.c.event_id < bindparam("before"))
)


class RejectEvent(Exception):
    """Raised by a handler: this event can never be handled; move it to the dead-letter queue without another try."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """What a service listens to.

    Attributes:
        queue: the queue's name, `<service>.<context>`.
        bindings: patterns of event names, for example `user.*` or `#`.
        handler: called once per event, with the transaction that its effect must be written in. It makes no remote
            calls there. What it raises is kept as the reason of a retry, so it holds no secret.
        together: does the same for all events of a batch, in their order; where it is given, `handler` is not called.
        delivery_limit: after so many deliveries the event goes to the dead-letter queue.
        batch: how many events at most share a transaction.
        timeout: seconds that a batch may take.
        wanted: those of a batch that would have an effect. The others are done without a transaction, and without a
            trace: should one come again, it is asked about again.
    """

    queue: str
    bindings: Sequence[str]
    handler: Handler
    delivery_limit: int = DELIVERY_LIMIT
    batch: int = 64
    timeout: float = 30.0
    together: BatchHandler | None = None
    wanted: Filter | None = None


class Consumer:
    """Runs one subscription on a service's database."""

    def __init__(
        self,
        db: Database,
        broker: Broker,
        subscription: Subscription,
        *,
        clock: Clock | None = None,
        inbox_window: timedelta = timedelta(days=30),
        prune_every: float = 3600.0,
        pause: float = 1.0,
        patience: float = 30.0,
    ) -> None:
        """`prune_every`: seconds between two clean-ups of the inbox; `pause`: seconds of rest while the database or
        the broker is away; `patience`: after so many seconds without the database what is held is given back."""
        self._db = db
        self._broker = broker
        self._subscription = subscription
        self._clock = clock or SystemClock()
        self._window = inbox_window
        self._prune_every = prune_every
        self._pause = pause
        self._patience = patience
        self._pruned = float("-inf")
        self._told = ""
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Declare the queue, then consume in the background. Raises BrokerUnavailable."""
        subscription = self._subscription
        await self._broker.declare(
            subscription.queue, subscription.bindings, delivery_limit=subscription.delivery_limit
        )
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name=f"consume-{subscription.queue}")

    async def stop(self) -> None:
        """Stop now. A batch at work is rolled back and delivered again at the next start."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        subscription = self._subscription
        while True:
            try:
                async with self._broker.consume(subscription.queue, prefetch=subscription.batch) as deliveries:
                    async for batch in deliveries:
                        self._told = ""
                        try:
                            await self._handle(deliveries, batch)
                            await self._prune()
                        except DatabaseUnavailable as error:
                            # The batch was released to us: giving it back to the broker can count as a delivery.
                            self._tell(f"{subscription.queue} rests: {error}")
                            await self._database_answers(self._patience)
                return
            except DatabaseUnavailable as error:
                # Perhaps another process can; this one begins again when its database answers.
                self._tell(f"{subscription.queue} gives back what it holds: {error}")
                await self._database_answers(math.inf)
            except BrokerError as error:
                self._tell(f"{subscription.queue} rests: {error}")
            except Exception as error:
                _log.error("%s failed and starts again: %s", subscription.queue, type(error).__name__)
            await asyncio.sleep(self._pause * random.uniform(0.5, 1.0))

    def _tell(self, text: str) -> None:
        if text != self._told:  # once an outage, not once a second
            _log.warning(text)
        self._told = text

    async def _database_answers(self, patience: float) -> None:
        """Rest until the database answers. Raises DatabaseUnavailable when it has not after `patience` seconds."""
        deadline = self._clock.monotonic() + patience
        while True:
            await asyncio.sleep(self._pause * random.uniform(0.5, 1.0))
            try:
                await self._db.fetch_all(_KNOWN, consumer=self._subscription.queue, ids=[])
                return
            except DatabaseUnavailable:
                if self._clock.monotonic() > deadline:
                    raise

    async def _handle(self, deliveries: Deliveries, batch: Sequence[Delivery]) -> None:
        readable: list[tuple[Delivery, Event]] = []
        for delivery in batch:
            try:
                readable.append((delivery, delivery.message.event()))
            except BadEnvelope as error:
                await deliveries.reject(delivery, str(error))
        try:
            wanted = await self._wanted(readable)
            refused = await self._apply(wanted) if wanted else set()
        except DatabaseUnavailable:
            await deliveries.release([delivery for delivery, _ in readable])
            raise
        except Exception as error:
            await self._after_failure(deliveries, readable, error)
            return
        await self._settle(deliveries, readable, refused)

    async def _wanted(self, batch: Sequence[tuple[Delivery, Event]]) -> Sequence[tuple[Delivery, Event]]:
        if self._subscription.wanted is None:
            return batch
        wanted = {event.id for event in await self._subscription.wanted([event for _, event in batch])}
        return [(delivery, event) for delivery, event in batch if event.id in wanted]

    async def _after_failure(
        self, deliveries: Deliveries, batch: Sequence[tuple[Delivery, Event]], error: Exception
    ) -> None:
        """Find the one that fails: each by itself, in order; after a failure the rest of its key is given back."""
        failed: set[str] = set()
        for index, (delivery, event) in enumerate(batch):
            if event.key in failed:
                await deliveries.release([delivery])
                continue
            try:
                if len(batch) == 1:
                    raise error
                refused = await self._apply([(delivery, event)])
            except DatabaseUnavailable:
                await deliveries.release([left for left, _ in batch[index:]])
                raise
            except RejectEvent as problem:
                _log.warning("%s gives up %s: %s", delivery.queue, event.id, problem)
                await deliveries.reject(delivery, str(problem)[:_REASON_LENGTH])
            except Exception as problem:
                failed.add(event.key)
                reason = f"{type(problem).__name__}: {problem}"[:_REASON_LENGTH]
                _log.warning("%s failed on %s, attempt %d: %s", delivery.queue, event.id, delivery.attempt, reason)
                await deliveries.retry(delivery, reason)
            else:
                await self._settle(deliveries, [(delivery, event)], refused)

    async def _apply(self, batch: Sequence[tuple[Delivery, Event]]) -> set[str]:
        """Handle a batch in one commit, again when it met another transaction; the ids that are too old to tell."""
        for attempt in range(_CONFLICTS):
            try:
                return await self._apply_once(batch)
            except TransactionConflict:
                await asyncio.sleep(random.uniform(0, 0.01 * 2**attempt))
        return await self._apply_once(batch)

    async def _apply_once(self, batch: Sequence[tuple[Delivery, Event]]) -> set[str]:
        subscription = self._subscription
        now = self._clock.now()
        floor = id_floor(ID_PREFIX, now - self._window)
        too_old: set[str] = set()
        async with asyncio.timeout(subscription.timeout), self._db.transaction() as tx:
            # Of an event that is too old a row says that it was handled; of others the insert below does.
            old = [event.id for delivery, event in batch if event.id < floor and not delivery.redriven]
            known = await tx.fetch_all(_KNOWN, consumer=subscription.queue, ids=old) if old else []
            too_old.update(old)
            too_old.difference_update(row.event_id for row in known)
            new: list[Event] = []
            for _, event in batch:
                if event.id in too_old:
                    continue
                # Another consumer may be at the same event: the second waits here until the first has committed.
                if await tx.execute(_INSERT, consumer=subscription.queue, event_id=event.id, time=now):
                    if subscription.together is None:
                        await subscription.handler(event, tx)
                    new.append(event)
            if new and subscription.together is not None:
                await subscription.together(new, tx)
        return too_old

    async def _settle(self, deliveries: Deliveries, batch: Sequence[tuple[Delivery, Event]], refused: set[str]) -> None:
        await deliveries.ack([delivery for delivery, event in batch if event.id not in refused])
        for delivery, event in batch:
            if event.id in refused:
                await deliveries.reject(
                    delivery,
                    f"older than the inbox remembers ({self._window.days} days), so it may have been handled before:"
                    " redrive it to handle it",
                )

    async def _prune(self) -> None:
        now = self._clock.monotonic()
        if now - self._pruned < self._prune_every:
            return
        self._pruned = now
        before = id_floor(ID_PREFIX, self._clock.now() - self._window)
        async with self._db.transaction(durable=False, offload=True) as tx:
            await tx.execute(_PRUNE, consumer=self._subscription.queue, before=before)
