"""A whole service in a process that kills itself at a chosen step. Run by `test_crashes`.

Arguments: folder, how many writes, the step to die at, and at which time it comes by (0: never). It prints the id of
each event whose write was acknowledged, and `settled` when nothing is left to do.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from taskman_server.kit.broker import Delivery, Message
from taskman_server.kit.broker.embedded import EmbeddedBroker
from taskman_server.kit.broker.queue import QueueDeliveries
from taskman_server.kit.db import Row, Transaction
from taskman_server.kit.db.sqlite import SqliteDatabase
from taskman_server.kit.outbox import Consumer, Event, Outbox, Relay, Subscription
from tests.store.support import EFFECT, PUT, an_event, create_tables, until

STEPS = (
    "before commit",
    "after commit",
    "before publish",
    "after publish",
    "after delete",
    "before effect",
    "before effect's commit",
    "before ack",
    "after ack",
)
POISON = "poison"


class Fate:
    """Dies when its step comes by for the `turn`-th time."""

    def __init__(self, step: str, turn: int) -> None:
        self._step = step
        self._left = turn

    def at(self, step: str) -> None:
        if step != self._step or self._left == 0:
            return
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


class Broker(EmbeddedBroker):
    """The real broker, with steps around its publish."""

    fate: Fate

    async def publish(self, messages: Sequence[Message]) -> None:
        self.fate.at("before publish")
        await super().publish(messages)
        self.fate.at("after publish")


class Dying(Relay):
    """The real relay, with a step after the rows of a batch are deleted."""

    fate: Fate

    async def _publish(self, rows: Sequence[Row]) -> None:
        await super()._publish(rows)
        self.fate.at("after delete")


async def main(folder: Path, writes: int, step: str, turn: int) -> None:
    fate = Fate(step, turn)
    db = SqliteDatabase(folder / "service.db")
    await create_tables(db)
    broker = await Broker.open(folder / "broker.db", retry_pause=0.01)
    broker.fate = fate
    real_ack = QueueDeliveries.ack

    async def ack(self: QueueDeliveries, deliveries: Sequence[Delivery]) -> None:
        fate.at("before ack")
        await real_ack(self, deliveries)
        fate.at("after ack")

    QueueDeliveries.ack = ack  # type: ignore[method-assign]

    async def handle(event: Event, tx: Transaction) -> None:
        if event.data.get("text") == POISON:
            os.kill(os.getpid(), signal.SIGKILL)
        fate.at("before effect")
        await tx.execute(EFFECT, event_id=event.id, key=event.key)
        fate.at("before effect's commit")

    relay = Dying(db, broker, batch=3)
    relay.fate = fate
    outbox = Outbox(relay.wake)
    consumer = Consumer(db, broker, Subscription("tasks.task", ["#"], handle, delivery_limit=3, batch=4))
    await consumer.start()
    relay.start()

    async def write(number: int) -> None:
        text = POISON if step == POISON and number == 2 else ""
        event = an_event(key=f"task_{number % 3}", data={"text": text})
        async with db.transaction() as tx:
            await tx.execute(PUT, id=event.id, text=event.key)
            await outbox.append(tx, event)
            fate.at("before commit")
        print(event.id, flush=True)
        fate.at("after commit")

    for start in range(0, writes, 5):
        await asyncio.gather(*(write(number) for number in range(start, min(start + 5, writes))))

    async def settled() -> bool:
        pending = await relay.pending()
        stats = (await broker.stats())["tasks.task"]
        return bool(pending == stats.ready == stats.unsettled == 0)

    await until(settled, seconds=60)
    await consumer.stop()
    await relay.stop()
    await broker.close()
    await db.close()
    print("settled", flush=True)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4])))
