"""Outbox to effect: nothing lost, nothing twice, order kept (EVENT-1, EVENT-3)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from taskman_server.kit.broker import BrokerUnavailable, Message
from taskman_server.kit.broker.embedded import EmbeddedBroker
from taskman_server.kit.clock import ManualClock
from taskman_server.kit.db import Database, DatabaseUnavailable, Transaction, UniqueViolation
from taskman_server.kit.db.sqlite import SqliteDatabase
from taskman_server.kit.ids import id_floor
from taskman_server.kit.outbox import (
    IDEMPOTENCY_INSERT,
    IDEMPOTENCY_PRUNE,
    IDEMPOTENCY_SELECT,
    INBOX,
    Consumer,
    Event,
    Handler,
    Outbox,
    RejectEvent,
    Relay,
    Subscription,
)
from tests.contract.waiting import eventually
from tests.store.support import ALL_EFFECTS, EFFECT, PUT, an_event, count, until

ON_SQLITE = pytest.mark.parametrize("kind", ["sqlite"], indirect=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def kind(request: pytest.FixtureRequest) -> str:
    """The promises hold on both databases."""
    return str(request.param)


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[EmbeddedBroker]:
    """A broker that retries soon."""
    made = await EmbeddedBroker.open(tmp_path / "broker.db", retry_pause=0.01, retry_pause_limit=0.05)
    yield made
    await made.close()


@pytest.fixture
async def relay(db: Database, broker: EmbeddedBroker) -> AsyncIterator[Relay]:
    """The relay of `db`, not started."""
    made = Relay(db, broker, batch=4, backoff=0.005, backoff_limit=0.02, sweep=3600)
    yield made
    await made.stop()


async def write(db: Database, outbox: Outbox, *events: Event) -> None:
    async with db.transaction() as tx:
        for event in events:
            await tx.execute(PUT, id=event.id, text="")
            await outbox.append(tx, event)


async def note_effect(event: Event, tx: Transaction) -> None:
    """A handler whose effect shows the order and every repetition."""
    await tx.execute(EFFECT, event_id=event.id, key=event.key)


async def effects(db: Database) -> list[str]:
    return [row.event_id for row in await db.fetch_all(ALL_EFFECTS)]


async def consume(db: Database, broker: EmbeddedBroker, handler: Handler, **options: Any) -> Consumer:
    consumer = Consumer(db, broker, Subscription("tasks.task", ["#"], handler, **options), pause=0.01)
    await consumer.start()
    return consumer


async def until_effects(db: Database, number: int) -> list[str]:
    async def condition() -> bool:
        return len(await effects(db)) >= number

    await until(condition)
    return await effects(db)


async def until_settled(broker: EmbeddedBroker, *, dead: int = 0) -> None:
    async def condition() -> bool:
        stats = (await broker.stats())["tasks.task"]
        return (stats.ready, stats.unsettled, stats.dead) == (0, 0, dead)

    await until(condition)


async def test_a_write_and_its_event_are_one_commit(db: Database, broker: EmbeddedBroker, relay: Relay) -> None:
    """EVENT-1: a transaction that rolls back has no event."""
    outbox = Outbox(relay.wake)
    with pytest.raises(UniqueViolation):
        await write(db, outbox, *[an_event()] * 2)
    assert await count(db) == 0
    assert await relay.pending() == 0
    await write(db, outbox, an_event())
    assert await relay.pending() == 1


async def test_what_has_no_effect_leaves_no_trace(db: Database, broker: EmbeddedBroker) -> None:
    """EVENT-1: what nobody wants is not remembered; the rest of its batch is handled, in order."""
    asked: list[int] = []

    async def wanted(events: Sequence[Event]) -> list[Event]:
        asked.append(len(events))
        return [event for event in events if event.data["wanted"]]

    events = [an_event(key="task_1", data={"wanted": number % 3 == 0}) for number in range(9)]
    await broker.declare("tasks.task", ["#"])
    await broker.publish([Message.of(event) for event in events])
    consumer = await consume(db, broker, note_effect, wanted=wanted)
    await until_settled(broker)
    assert await effects(db) == [event.id for event in events[::3]]
    await broker.publish([Message.of(an_event(data={"wanted": False})) for _ in range(5)])
    await until_settled(broker)
    assert sum(asked) == 14
    traces = await db.fetch_all(sa.select(INBOX.c.event_id).order_by(INBOX.c.event_id))
    assert [row.event_id for row in traces] == [event.id for event in events[::3]]
    await consumer.stop()


async def test_a_filter_that_fails_costs_no_event(db: Database, broker: EmbeddedBroker) -> None:
    """EVENT-1: each is then handled by itself."""
    failures = [RuntimeError("no answer")]

    async def wanted(events: Sequence[Event]) -> Sequence[Event]:
        if failures:
            raise failures.pop()
        return events

    events = [an_event() for _ in range(3)]
    await broker.declare("tasks.task", ["#"])
    await broker.publish([Message.of(event) for event in events])
    consumer = await consume(db, broker, note_effect, wanted=wanted)
    assert sorted(await until_effects(db, 3)) == sorted(event.id for event in events)
    await until_settled(broker)
    await consumer.stop()


async def test_from_the_write_to_the_effect(db: Database, broker: EmbeddedBroker, relay: Relay) -> None:
    """EVENT-1, EVENT-3: through relay, broker and consumer, whole and in order, no poll on the way."""
    heard: list[Event] = []

    async def handle(event: Event, tx: Transaction) -> None:
        heard.append(event)
        await note_effect(event, tx)

    consumer = await consume(db, broker, handle)
    relay.start()
    outbox = Outbox(relay.wake)
    events = [an_event(key=f"task_{number % 3}", data={"n": number}) for number in range(30)]
    for event in events:
        await write(db, outbox, event)
    effects = await until_effects(db, 30)
    assert effects == [event.id for event in heard]
    # A relay that shares an outbox takes key by key, so only the order within each is promised.
    in_order = [sorted(each, key=lambda event: event.key) for each in (heard, events)]
    assert in_order[0] == in_order[1]
    await until_settled(broker)

    async def nothing_waits() -> bool:
        return await relay.pending() == 0  # the relay commits after the broker has what it sent

    await until(nothing_waits)
    await consumer.stop()


async def test_an_event_alone_goes_at_once_and_many_go_together(db: Database, broker: EmbeddedBroker) -> None:
    """EVENT-1: rounds keep their pace, and whoever is in a hurry begins one."""
    await broker.declare("tasks.task", ["#"])
    rounds: list[int] = []
    publish = broker.publish

    async def counted(messages: Sequence[Message]) -> None:
        await publish(messages)
        rounds.append(len(messages))

    broker.publish = counted  # type: ignore[method-assign]
    relay = Relay(db, broker, sweep=3600, pace=3600)
    outbox = Outbox(relay.wake)

    async def published() -> bool:
        return await relay.pending() == 0

    await write(db, outbox, an_event())
    relay.start()
    await eventually(published, "the event that came alone")
    for _ in range(5):
        await write(db, outbox, an_event())
    assert await relay.pending() == 5
    relay.hurry()
    await eventually(published, "the round")
    assert rounds == [1, 5]
    await write(db, outbox, an_event())
    await asyncio.wait_for(relay.stop(), 10)
    assert await relay.pending() == 1, "what is left is published at the next start"


async def test_order_is_that_of_the_writes_not_of_the_ids(db: Database, broker: EmbeddedBroker, relay: Relay) -> None:
    """EVENT-3: an event's id is made before its transaction has its turn."""
    earlier, later = an_event(), an_event()
    await broker.declare("tasks.task", ["#"])
    outbox = Outbox(relay.wake)
    await write(db, outbox, later)
    await write(db, outbox, earlier)
    await relay.drain()
    assert [message.id for message in await broker.peek("tasks.task")] == [later.id, earlier.id]


async def test_one_event_many_times_at_once_has_one_effect(db: Database, broker: EmbeddedBroker) -> None:
    """EVENT-1: published five times at once, and again after it was handled."""
    consumer = await consume(db, broker, note_effect)
    event = an_event()
    await asyncio.gather(*(broker.publish([Message.of(event)]) for _ in range(5)))
    await until_effects(db, 1)
    await until_settled(broker)
    for _ in range(5):
        await broker.publish([Message.of(event)])
        await until_settled(broker)
    assert await effects(db) == [event.id]
    await consumer.stop()


async def test_while_the_broker_is_away_events_wait(db: Database, tmp_path: Path) -> None:
    """EVENT-1: nothing is lost, and the relay goes on by itself."""
    broker = await EmbeddedBroker.open(tmp_path / "b.db")
    await broker.declare("tasks.task", ["#"])
    real, failures = broker.publish, 0

    async def away(messages: Sequence[Message]) -> None:
        nonlocal failures
        failures += 1
        if failures < 4:
            raise BrokerUnavailable("away")
        await real(messages)

    broker.publish = away  # type: ignore[method-assign]
    relay = Relay(db, broker, backoff=0.005, backoff_limit=0.01, sweep=3600)
    relay.start()
    await write(db, Outbox(relay.wake), an_event())

    async def published() -> bool:
        return await relay.pending() == 0

    await until(published)
    assert failures == 4
    assert len(await broker.peek("tasks.task")) == 1
    await relay.stop()
    await broker.close()


@ON_SQLITE
async def test_no_event_leaves_before_its_write_is_on_disk(
    db: SqliteDatabase, broker: EmbeddedBroker, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EVENT-1: a row can be read a moment before its sync; in a power cut the event would outlive the write."""
    await broker.declare("tasks.task", ["#"])
    assert db.group is not None
    real, disk = db.group._sync, threading.Event()

    def slow() -> None:
        disk.wait(20)
        real()

    monkeypatch.setattr(db.group, "_sync", slow)
    writing = asyncio.create_task(write(db, Outbox(relay.wake), an_event()))

    async def readable() -> bool:
        return await relay.pending() == 1

    await until(readable)
    draining = asyncio.create_task(relay.drain())
    for _ in range(50):
        await asyncio.sleep(0)
    assert await broker.peek("tasks.task") == []
    disk.set()
    await asyncio.gather(writing, draining)
    assert len(await broker.peek("tasks.task")) == 1


async def test_an_unroutable_event_stays_and_holds_back_its_key_only(
    db: Database, broker: EmbeddedBroker, relay: Relay
) -> None:
    """EVENT-2, EVENT-3: kept until somebody listens; then it goes before the later ones of its key."""
    await broker.declare("tasks.task", ["task.#"])
    outbox = Outbox(relay.wake)
    lost = an_event("user.created", "user_1")
    behind = an_event("task.assigned", "user_1")
    others = [an_event("task.created", f"task_{number}") for number in range(10)]
    await write(db, outbox, others[0], lost, behind, *others[1:])
    relay.start()

    async def others_published() -> bool:
        return await relay.pending() == 2

    await until(others_published)
    assert [message.id for message in await broker.peek("tasks.task")] == [event.id for event in others]
    await broker.declare("tasks.task", ["task.#", "user.*"])

    async def all_published() -> bool:
        return await relay.pending() == 0

    await until(all_published)
    assert [message.id for message in await broker.peek("tasks.task")][-2:] == [lost.id, behind.id]


async def test_what_was_held_back_is_tried_again_though_others_never_rest(
    db: Database, broker: EmbeddedBroker, relay: Relay
) -> None:
    """EVENT-2: a relay that is woken again and again still looks whether somebody listens now."""
    await broker.declare("tasks.task", ["task.#"])
    outbox = Outbox(relay.wake)
    lost = an_event("user.created", "user_1")
    await write(db, outbox, lost)
    relay.start()

    async def never_rest() -> None:
        while True:
            relay.wake()
            await asyncio.sleep(0)

    others = asyncio.create_task(never_rest())
    try:
        await until(lambda: _returns(bool(relay.blocked)))
        await broker.declare("tasks.task", ["task.#", "user.*"])

        async def published() -> bool:
            return await relay.pending() == 0

        await until(published)
    finally:
        others.cancel()


async def _returns(value: bool) -> bool:
    return value


async def test_what_a_crash_left_goes_first_at_the_start(db: Database, broker: EmbeddedBroker) -> None:
    """EVENT-1: published, not deleted: published again, queued once."""
    await broker.declare("tasks.task", ["#"])
    crashed = Relay(db, broker)
    events = [an_event(), an_event()]
    await write(db, Outbox(crashed.wake), *events)
    await broker.publish([Message.of(events[0])])
    relay = Relay(db, broker, sweep=3600)
    relay.start()

    async def drained() -> bool:
        return await relay.pending() == 0

    await until(drained)
    await relay.stop()
    assert [message.id for message in await broker.peek("tasks.task")] == [event.id for event in events]


async def test_a_handler_of_batches_is_given_the_new_events_of_each_once(db: Database, broker: EmbeddedBroker) -> None:
    """EVENT-1, EVENT-2: in their order; the events around one that fails are handled by themselves, that one undone."""
    poison = an_event(key="task_9")
    heard: list[int] = []

    async def handle_all(events: Sequence[Event], tx: Transaction) -> None:
        heard.append(len(events))
        for event in events:
            await note_effect(event, tx)
        if poison in events:
            raise ValueError("cannot")

    events = [an_event(key=f"task_{number % 4}") for number in range(20)]
    await broker.declare("tasks.task", ["#"])
    await broker.publish([Message.of(event) for event in events[:9]])
    consumer = await consume(db, broker, never, together=handle_all, delivery_limit=3)
    assert await until_effects(db, 9) == [event.id for event in events[:9]]
    await until_settled(broker)
    assert sum(heard) == 9
    await broker.publish([Message.of(event) for event in (*events[:10], poison, *events[10:])])
    await until_settled(broker, dead=1)
    assert await effects(db) == [event.id for event in events]
    await consumer.stop()


async def never(event: Event, tx: Transaction) -> None:
    """A handler that is not called where there is one of batches."""
    raise AssertionError(event.id)


async def test_a_poison_event_is_given_up_and_the_batch_around_it_counts_once(
    db: Database, broker: EmbeddedBroker
) -> None:
    """EVENT-2: only the bad one is tried again; its effects of every attempt are undone."""
    poison = an_event(key="task_9")

    async def handle(event: Event, tx: Transaction) -> None:
        await note_effect(event, tx)
        if event.id == poison.id:
            raise ValueError("cannot")

    events = [an_event(key=f"task_{number % 4}") for number in range(20)]
    await broker.declare("tasks.task", ["#"])
    await broker.publish([Message.of(event) for event in [*events[:10], poison, *events[10:]]])
    consumer = await consume(db, broker, handle, delivery_limit=3)
    await until_settled(broker, dead=1)
    assert await effects(db) == [event.id for event in events]
    (dead,) = await broker.dead_letters("tasks.task")
    assert (dead.message.id, dead.attempts) == (poison.id, 3)
    assert dead.reason == "failed 3 times, the last time: ValueError: cannot"
    await consumer.stop()


async def test_a_failure_that_passes_keeps_the_order_of_its_key(db: Database, broker: EmbeddedBroker) -> None:
    """EVENT-3: the later events of the key wait for the retry."""
    events = [an_event(key="task_1") for _ in range(5)]
    failures = 2

    async def handle(event: Event, tx: Transaction) -> None:
        nonlocal failures
        if event.id == events[1].id and failures:
            failures -= 1
            raise ValueError("not yet")
        await note_effect(event, tx)

    await broker.declare("tasks.task", ["#"])
    await broker.publish([Message.of(event) for event in events])
    consumer = await consume(db, broker, handle)
    assert await until_effects(db, 5) == [event.id for event in events]
    await until_settled(broker)
    await consumer.stop()


async def test_what_can_never_be_handled_is_given_up_at_once(db: Database, broker: EmbeddedBroker) -> None:
    """EVENT-2, EVENT-3: an envelope that is none, and an event that its handler rejects."""

    async def handle(event: Event, tx: Transaction) -> None:
        if event.name == "task.deleted":
            raise RejectEvent("no such task")
        await note_effect(event, tx)

    good, rejected = an_event(), an_event("task.deleted", "task_2")
    await broker.declare("tasks.task", ["#"])
    await broker.publish([Message("x", "task.created", "k", "{}"), Message.of(rejected), Message.of(good)])
    consumer = await consume(db, broker, handle)
    await until_settled(broker, dead=2)
    dead = {letter.message.id: (letter.reason, letter.attempts) for letter in await broker.dead_letters("tasks.task")}
    assert dead == {"x": ("event specversion: expected 1.0", 1), rejected.id: ("no such task", 1)}
    assert await effects(db) == [good.id]
    await consumer.stop()


async def test_a_database_that_is_away_costs_no_attempt(db: Database, broker: EmbeddedBroker) -> None:
    """EVENT-2: the event is not to blame."""
    away = 12

    async def handle(event: Event, tx: Transaction) -> None:
        nonlocal away
        if away:
            away -= 1
            raise DatabaseUnavailable("away")
        await note_effect(event, tx)

    consumer = await consume(db, broker, handle, delivery_limit=2)
    events = [an_event(), an_event()]
    await broker.publish([Message.of(event) for event in events])
    assert await until_effects(db, 2) == [event.id for event in events]
    await until_settled(broker)
    await consumer.stop()


async def test_a_handler_that_hangs_is_a_failure(db: Database, broker: EmbeddedBroker) -> None:
    """It would hold the writer's turn for ever."""

    async def handle(event: Event, tx: Transaction) -> None:
        await asyncio.Event().wait()

    subscription = Subscription("tasks.task", ["#"], handle, delivery_limit=1, timeout=0.02)
    consumer = Consumer(db, broker, subscription)
    await consumer.start()
    await broker.publish([Message.of(an_event())])
    await until_settled(broker, dead=1)
    await db.execute(PUT, id="1", text="")
    await consumer.stop()


async def test_a_consumer_stopped_in_the_middle_starts_again_there(db: Database, broker: EmbeddedBroker) -> None:
    """OPS-7: graceful stop; the batch at work is undone, delivered again and counts as one attempt."""
    started = asyncio.Event()

    async def stuck(event: Event, tx: Transaction) -> None:
        await note_effect(event, tx)
        started.set()
        await asyncio.Event().wait()

    event = an_event()
    consumer = await consume(db, broker, stuck)
    await broker.publish([Message.of(event)])
    await started.wait()
    await consumer.stop()
    assert await effects(db) == []
    async with broker.consume("tasks.task") as deliveries:
        attempts = [delivery.attempt for delivery in await anext(aiter(deliveries))]
    assert attempts == [1]
    consumer = await consume(db, broker, note_effect)
    assert await until_effects(db, 1) == [event.id]
    await consumer.stop()


async def test_a_stop_is_heard_at_any_moment(db: Database, broker: EmbeddedBroker) -> None:
    """OPS-7: also in the very moment in which a message wakes the consumer."""
    await broker.declare("tasks.task", ["#"])
    queue = broker._queues["tasks.task"]
    for _ in range(3):
        consumer = await consume(db, broker, note_effect)

        async def waits() -> bool:
            return bool(queue.consumers)

        await until(waits)
        for _ in range(5):
            await asyncio.sleep(0)
        queue.look()
        await asyncio.sleep(0)
        async with asyncio.timeout(3):
            await consumer.stop()


async def test_older_than_the_inbox_remembers(db: Database, broker: EmbeddedBroker) -> None:
    """EVENT-1: after the clean-up a late duplicate has no second effect; an operator may decide otherwise."""
    now = datetime(2030, 6, 1, tzinfo=UTC)
    old, recent = (an_event(id=id_floor("event", now - timedelta(days=days))) for days in (31, 29))
    clock = ManualClock(now - timedelta(days=5))
    subscription = Subscription("tasks.task", ["#"], note_effect)
    consumer = Consumer(db, broker, subscription, clock=clock, prune_every=0)
    await consumer.start()
    await broker.publish([Message.of(old), Message.of(recent)])
    assert await until_effects(db, 2) == [old.id, recent.id]
    await until_settled(broker)
    clock.advance(5 * 86400)
    await broker.publish([Message.of(an_event(id=id_floor("event", clock.now())))])

    async def pruned() -> bool:
        rows = await db.fetch_all(sa.select(INBOX.c.event_id))
        return old.id not in {row.event_id for row in rows}

    await until(pruned)
    await broker.publish([Message.of(old), Message.of(recent)])
    await until_settled(broker, dead=1)
    (dead,) = await broker.dead_letters("tasks.task")
    assert dead.message.id == old.id
    assert "older than the inbox remembers (30 days)" in dead.reason
    assert (await effects(db)).count(old.id) == (await effects(db)).count(recent.id) == 1
    await broker.redrive("tasks.task")
    await until_settled(broker)
    assert (await effects(db)).count(old.id) == 2
    await consumer.stop()


async def test_a_handler_can_write_events_of_its_own(db: Database, broker: EmbeddedBroker, relay: Relay) -> None:
    """EVENT-4: flows of several steps; each step is one commit."""
    outbox = Outbox(relay.wake)

    async def handle(event: Event, tx: Transaction) -> None:
        await note_effect(event, tx)
        if event.name == "user.created":
            await outbox.append(tx, an_event("auth.password.changed", event.key))

    consumer = await consume(db, broker, handle)
    relay.start()
    await write(db, outbox, an_event("user.created", "user_1"))
    await until_effects(db, 2)
    await consumer.stop()


async def test_idempotency_keys_are_kept_once(db: Database) -> None:
    """GATE-5: the record of a key, and forgetting it."""
    now = datetime(2030, 1, 1, tzinfo=UTC)
    record = {"scope": "org/user", "key": "k", "method": "m", "request_hash": "h", "response": b"\x00\xff"}
    await db.execute(IDEMPOTENCY_INSERT, **record, create_time=now)
    row = await db.fetch_one(IDEMPOTENCY_SELECT, scope="org/user", key="k")
    assert row is not None
    assert (row.method, row.request_hash, row.response, row.create_time) == ("m", "h", b"\x00\xff", now)
    with pytest.raises(UniqueViolation) as caught:
        await db.execute(IDEMPOTENCY_INSERT, **record, create_time=now)
    assert caught.value.table == "idempotency"
    assert await db.execute(IDEMPOTENCY_PRUNE, before=now) == 0
    assert await db.execute(IDEMPOTENCY_PRUNE, before=now + timedelta(seconds=1)) == 1
