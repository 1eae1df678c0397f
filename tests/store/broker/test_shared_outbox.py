"""Relays and consumers of several replicas on one PostgreSQL and one RabbitMQ (EVENT-1, EVENT-3)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from taskman_server.kit.broker import Broker, BrokerUnavailable, Message
from taskman_server.kit.broker.rabbitmq import RabbitBroker
from taskman_server.kit.clock import ManualClock
from taskman_server.kit.db import Database, Transaction, TransactionConflict
from taskman_server.kit.ids import id_floor
from taskman_server.kit.outbox import INBOX, Consumer, Event, Outbox, Relay, Subscription
from tests.parts.rabbitmq import RabbitMQ
from tests.store.broker.shapes import finish, open_rabbit
from tests.store.support import ALL_EFFECTS, EFFECT, OpenDatabase, an_event, create_tables, until

ON_POSTGRESQL = pytest.mark.parametrize("kind", ["postgresql"], indirect=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def kind(request: pytest.FixtureRequest) -> str:
    """Which database."""
    return str(request.param)


@pytest.fixture
def url(rabbitmq: RabbitMQ) -> str:
    """A virtual host of the test's own."""
    return rabbitmq.vhost("shared")


@pytest.fixture
async def broker(url: str) -> AsyncIterator[RabbitBroker]:
    """One process's broker."""
    made = await open_rabbit(url)
    yield made
    await made.close()


async def write(db: Database, outbox: Outbox, events: Sequence[Event]) -> None:
    async with db.transaction() as tx:
        for event in events:
            await outbox.append(tx, event)


async def note_effect(event: Event, tx: Transaction) -> None:
    await tx.execute(EFFECT, event_id=event.id, key=event.key)


async def effects(db: Database) -> list[str]:
    return [row.event_id for row in await db.fetch_all(ALL_EFFECTS)]


async def until_pending(relay: Relay, number: int) -> None:
    async def condition() -> bool:
        return await relay.pending() == number

    await until(condition)


@ON_POSTGRESQL
async def test_relays_of_several_replicas_keep_the_order_of_each_key(
    open_db: OpenDatabase, broker: RabbitBroker
) -> None:
    """EVENT-3: three at once on one outbox, more written meanwhile; each event goes out once."""
    databases = [await open_db() for _ in range(3)]
    await create_tables(databases[0])
    await broker.declare("audit.all", ["#"])
    relays = [Relay(db, broker, batch=7, backoff=0.01, sweep=0.05) for db in databases]
    events = [an_event(key=f"task_{number % 11}") for number in range(600)]
    await write(databases[0], Outbox(relays[0].wake), events[:300])
    for relay in relays:
        relay.start()
    for start in range(300, 600, 10):
        turn = start // 10 % 3
        await write(databases[turn], Outbox(relays[turn].wake), events[start : start + 10])
    await until_pending(relays[0], 0)
    for relay in relays:
        await relay.stop()
    async with broker.consume("audit.all") as deliveries:
        seen = [delivery.message for delivery in await finish(deliveries, 600)]
    for key in {event.key for event in events}:
        assert [each.id for each in seen if each.key == key] == [event.id for event in events if event.key == key]


class Hanging:
    """A broker that never answers a publish: the process is alive, its network is not."""

    def __init__(self, real: Broker) -> None:
        self._real = real
        self.asked = asyncio.Event()

    async def publish(self, messages: Sequence[Message]) -> None:
        self.asked.set()
        await asyncio.Event().wait()


@ON_POSTGRESQL
async def test_a_relay_that_hangs_holds_back_its_keys_only(open_db: OpenDatabase, broker: RabbitBroker) -> None:
    """EVENT-1: and when it dies, another one takes them."""
    db, other = await open_db(), await open_db()
    await create_tables(db)
    await broker.declare("audit.all", ["#"])
    hanging = Hanging(broker)
    first = Relay(db, hanging, sweep=3600)  # type: ignore[arg-type]
    second = Relay(other, broker, sweep=3600)
    mine = [an_event(key="task_1") for _ in range(2)]
    await write(db, Outbox(first.wake), mine)
    stuck = asyncio.create_task(first.drain())
    await hanging.asked.wait()
    later = [an_event(key="task_1"), an_event(key="task_2")]
    await write(other, Outbox(second.wake), later)
    await second.drain()
    assert await second.pending() == 3
    stuck.cancel()
    await asyncio.gather(stuck, return_exceptions=True)

    async def drained() -> bool:
        await second.drain()
        return await second.pending() == 0

    await until(drained)
    async with broker.consume("audit.all") as deliveries:
        seen = [delivery.message.id for delivery in await finish(deliveries, 4)]
    assert seen == [later[1].id, mine[0].id, mine[1].id, later[0].id]


async def test_an_unroutable_event_is_kept_and_others_flow(
    kind: str, open_db: OpenDatabase, broker: RabbitBroker
) -> None:
    """EVENT-2: confirmed and returned at once; when somebody listens it goes, before the later ones of its key."""
    db = await open_db()
    await create_tables(db)
    await broker.declare("tasks.task", ["task.#"])
    relay = Relay(db, broker, batch=4, backoff=0.01, backoff_limit=0.05, sweep=3600)
    lost, behind = an_event("user.created", "user_1"), an_event("task.assigned", "user_1")
    others = [an_event(key=f"task_{number}") for number in range(20)]
    await write(db, Outbox(relay.wake), [others[0], lost, behind, *others[1:]])
    relay.start()
    await until_pending(relay, 2)
    await broker.declare("users.user", ["user.*"])
    await until_pending(relay, 0)
    await relay.stop()
    async with broker.consume("tasks.task") as deliveries:
        seen = [delivery.message.id for delivery in await finish(deliveries, 21)]
    assert seen == [event.id for event in (*others, behind)]


async def test_the_backlog_tells_how_many_and_how_old(kind: str, open_db: OpenDatabase, broker: RabbitBroker) -> None:
    """OPS-3: a growing age is the sign of a relay that cannot publish."""
    db = await open_db()
    await create_tables(db)
    clock = ManualClock(datetime.now(UTC) + timedelta(seconds=90))
    relay = Relay(db, broker, clock=clock)
    assert (await relay.backlog()).events == 0
    await write(db, Outbox(relay.wake), [an_event() for _ in range(3)])
    backlog = await relay.backlog()
    assert backlog.events == 3
    assert 85 < backlog.oldest_seconds < 120


async def test_the_same_event_five_times_at_once_has_one_effect(
    kind: str, open_db: OpenDatabase, rabbitmq: RabbitMQ, caplog: pytest.LogCaptureFixture
) -> None:
    """EVENT-1: also when replicas handle it in the same moment, as two may while one takes over from the other."""
    db = await open_db()
    await create_tables(db)
    brokers = [await open_rabbit(rabbitmq.vhost("twice")) for _ in range(3)]
    event = an_event()
    databases = [db, await open_db(), await open_db()] if kind == "postgresql" else [db, db, db]
    consumers = []
    for database, broker in zip(databases, brokers, strict=True):
        consumers.append(Consumer(database, broker, Subscription("tasks.task", ["#"], note_effect), pause=0.01))
        await consumers[-1].start()
    with caplog.at_level(logging.WARNING):
        await asyncio.gather(*(broker.publish([Message.of(event)]) for broker in brokers for _ in range(5)))

        async def settled() -> bool:
            stats = [(await broker.stats())["tasks.task"] for broker in brokers]
            return bool(await effects(db)) and all(each.ready == each.unsettled == each.dead == 0 for each in stats)

        await until(settled)
    assert await effects(db) == [event.id]
    assert [record.message for record in caplog.records] == []
    for consumer in consumers:
        await consumer.stop()
    for broker in brokers:
        await broker.close()


async def test_again_after_the_inbox_has_forgotten_it(kind: str, open_db: OpenDatabase, broker: RabbitBroker) -> None:
    """EVENT-1: an old duplicate goes to the dead letters; it has no second effect."""
    db = await open_db()
    await create_tables(db)
    now = datetime(2030, 6, 1, tzinfo=UTC)
    clock = ManualClock(now)
    event = an_event(id=id_floor("event", now))
    consumer = Consumer(db, broker, Subscription("tasks.task", ["#"], note_effect), clock=clock, prune_every=0)
    await consumer.start()
    await broker.publish([Message.of(event)])

    async def handled() -> bool:
        return await effects(db) == [event.id]

    await until(handled)
    clock.advance(31 * 86400)
    await broker.publish([Message.of(an_event(id=id_floor("event", clock.now())))])

    async def forgotten() -> bool:
        return event.id not in {row.event_id for row in await db.fetch_all(sa.select(INBOX.c.event_id))}

    await until(forgotten)
    await broker.publish([Message.of(event)])

    async def dead() -> bool:
        return [letter.message.id for letter in await broker.dead_letters("tasks.task")] == [event.id]

    await until(dead)
    assert (await effects(db)).count(event.id) == 1
    await consumer.stop()


async def test_a_conflict_of_transactions_costs_no_attempt(
    kind: str, open_db: OpenDatabase, broker: RabbitBroker, caplog: pytest.LogCaptureFixture
) -> None:
    """EVENT-1: deadlock or serialization failure: the batch runs again, as if nothing had happened."""
    db = await open_db()
    await create_tables(db)
    conflicts = 3

    async def handle(event: Event, tx: Transaction) -> None:
        nonlocal conflicts
        await note_effect(event, tx)
        if conflicts:
            conflicts -= 1
            raise TransactionConflict("deadlock")

    consumer = Consumer(db, broker, Subscription("tasks.task", ["#"], handle, delivery_limit=1))
    await consumer.start()
    events = [an_event(), an_event()]
    await broker.publish([Message.of(event) for event in events])

    async def handled() -> bool:
        return len(await effects(db)) == 2

    with caplog.at_level(logging.WARNING):
        await until(handled)
    assert await effects(db) == [event.id for event in events]
    assert caplog.records == []
    await consumer.stop()


@ON_POSTGRESQL
async def test_a_broker_that_is_away_leaves_the_outbox_to_others(open_db: OpenDatabase, broker: RabbitBroker) -> None:
    """EVENT-1: nothing is deleted, no key stays locked."""
    db = await open_db()
    await create_tables(db)

    class Away:
        async def publish(self, messages: Sequence[Message]) -> None:
            raise BrokerUnavailable("away")

    relay = Relay(db, Away())  # type: ignore[arg-type]
    await broker.declare("audit.all", ["#"])
    await write(db, Outbox(relay.wake), [an_event() for _ in range(3)])
    with pytest.raises(BrokerUnavailable):
        await relay.drain()
    other = Relay(db, broker)
    assert await other.pending() == 3
    await other.drain()
    assert await other.pending() == 0
