"""RabbitMQ goes away and comes back: nothing hangs, nothing is lost, all goes on by itself (EVENT-1, OPS-7)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from taskman_server.kit.broker import BrokerUnavailable
from taskman_server.kit.broker.rabbitmq import RabbitBroker
from taskman_server.kit.db import Transaction
from taskman_server.kit.db.sqlite import SqliteDatabase
from taskman_server.kit.outbox import Consumer, Event, Outbox, Relay, Subscription
from tests.parts.proxy import TcpProxy
from tests.parts.rabbitmq import RabbitMQ, private_rabbitmq
from tests.store.broker.shapes import finish, ids, messages, open_rabbit, said, take
from tests.store.support import ALL_EFFECTS, EFFECT, PUT, an_event, create_tables, until


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQ]:
    """A RabbitMQ that may be stopped."""
    with private_rabbitmq(tmp_path_factory.mktemp("rabbitmq")) as server:
        yield server


@pytest.fixture
async def broker(private: RabbitMQ) -> AsyncIterator[RabbitBroker]:
    made = await open_rabbit(private.vhost("outage"))
    yield made
    await made.close()


async def publish_until_taken(broker: RabbitBroker, number: int) -> list[str]:
    """Publish again and again, as a relay does; the ids."""
    batch = messages(number)

    async def taken() -> bool:
        try:
            await broker.publish(batch)
        except BrokerUnavailable:
            return False
        return True

    await until(taken, seconds=60)
    return ids(batch)


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_it_comes_back_and_everything_goes_on(private: RabbitMQ, how: str, tmp_path: Path) -> None:
    """EVENT-1: from the write to the effect, through an outage: each has one effect, in order; no task is left."""
    before = asyncio.all_tasks()
    db = SqliteDatabase(tmp_path / "service.db")
    await create_tables(db)
    broker = await open_rabbit(private.vhost("outage"))
    relay = Relay(db, broker, batch=8, backoff=0.05, backoff_limit=0.2)
    outbox = Outbox(relay.wake)

    async def note(event: Event, tx: Transaction) -> None:
        await tx.execute(EFFECT, event_id=event.id, key=event.key)

    consumer = Consumer(db, broker, Subscription("tasks.task", ["task.#"], note, batch=4), pause=0.05)
    await consumer.start()
    relay.start()
    written: list[Event] = []

    async def write(number: int) -> None:
        for index in range(number):
            event = an_event(key=f"task_{index % 3}")
            async with db.transaction() as tx:
                await tx.execute(PUT, id=event.id, text="")
                await outbox.append(tx, event)
            written.append(event)
            await asyncio.sleep(0)

    async def effects() -> list[str]:
        return [row.event_id for row in await db.fetch_all(ALL_EFFECTS)]

    async def all_done() -> bool:
        return len(await effects()) >= len(written)

    writing = asyncio.create_task(write(200))
    await until(said(lambda: len(written) >= 100))
    await asyncio.to_thread(private.settle)
    await asyncio.to_thread(getattr(private, how))
    await writing
    await write(50)
    assert (await relay.backlog()).events > 0
    await asyncio.to_thread(private.start)
    await until(all_done, seconds=60)
    done = await effects()
    assert len(done) == len(set(done)) == len(written)
    for key in ("task_0", "task_1", "task_2"):
        mine = [event.id for event in written if event.key == key]
        assert [identifier for identifier in done if identifier in set(mine)] == mine
    assert (await broker.stats())["tasks.task"].dead == 0
    await consumer.stop()
    await relay.stop()
    await broker.close()
    await db.close()
    await until(said(lambda: asyncio.all_tasks() <= before | {asyncio.current_task()}))


async def test_while_it_is_away_every_call_says_so_soon(private: RabbitMQ, broker: RabbitBroker) -> None:
    """EVENT-1: the relay rests and tries again; nobody waits for a connection that is not there."""
    await broker.declare("audit.all", ["#"])
    await broker.publish(messages(1))
    await asyncio.to_thread(private.stop)
    try:
        for _ in range(3):
            began = time.monotonic()
            with pytest.raises(BrokerUnavailable, match=r"RabbitMQ at 127\.0\.0\.1:\d+ does not answer"):
                await broker.publish(messages(1))
            for call in (broker.stats(), broker.dead_letters("audit.all"), broker.purge("audit.all")):
                with pytest.raises(BrokerUnavailable):
                    await call
            with pytest.raises(BrokerUnavailable):
                async with broker.consume("audit.all"):
                    pass
            assert time.monotonic() - began < 6
        assert not broker.connected
    finally:
        await asyncio.to_thread(private.start)
    await publish_until_taken(broker, 1)
    assert broker.connected


async def test_who_hears_and_says_nothing_connects_again_when_asked_for_figures(
    private: RabbitMQ, broker: RabbitBroker
) -> None:
    """OPS-7: a service without queues that writes nothing just then would stay degraded in `/readyz` for ever."""
    await asyncio.to_thread(private.restart)
    assert not broker.connected

    async def asked() -> bool:
        try:
            return await broker.stats_of([]) == {}
        except BrokerUnavailable:
            return False

    await until(asked, seconds=30)
    assert broker.connected


async def test_what_was_in_hand_comes_again_and_listeners_go_on(private: RabbitMQ, broker: RabbitBroker) -> None:
    """EVENT-2: durable; what was acknowledged does not come again."""
    await broker.declare("audit.all", ["#"])
    heard: list[str] = []
    broker.listen("task.#", lambda event: heard.append(event.id))
    await until(said(lambda: broker.listening))
    sent = messages(10)
    await broker.publish(sent)
    async with broker.consume("audit.all") as deliveries:
        await deliveries.ack((await take(deliveries, 10))[:4])
        await broker.stats()  # the acknowledgement has gone out before
        await asyncio.to_thread(private.restart)
        with pytest.raises(BrokerUnavailable, match="not consumed any more"):
            await take(deliveries, 1)
    later = await publish_until_taken(broker, 3)

    async def again() -> list[str]:
        try:
            async with broker.consume("audit.all") as deliveries:
                return ids(await finish(deliveries, 9))
        except BrokerUnavailable:
            return []

    assert await until(again) == [*ids(sent[4:]), *later]
    await until(said(lambda: broker.listening))
    last = await publish_until_taken(broker, 1)
    await until(said(lambda: last[0] in heard))


async def test_a_connection_that_hangs_is_given_up_in_time(private: RabbitMQ) -> None:
    """EVENT-1: the network drops packets without a word: no confirm, no error."""
    with TcpProxy(private.vhost("outage")) as proxy:
        broker = await RabbitBroker.open(proxy.url, timeout=0.5)
        await broker.declare("audit.all", ["#"])
        await broker.publish(messages(1))
        proxy.freeze()
        began = time.monotonic()
        with pytest.raises(BrokerUnavailable, match=r"did not confirm in 0\.5 seconds|does not answer"):
            await broker.publish(messages(1))
        assert time.monotonic() - began < 3
        proxy.heal()
        await publish_until_taken(broker, 1)
        await broker.close()


async def test_a_broker_that_is_short_of_memory_blocks_nobody_for_long(private: RabbitMQ) -> None:
    """EVENT-1: it stops reading what is published; consumers go on."""
    broker = await RabbitBroker.open(private.vhost("outage"), timeout=0.5)
    await broker.declare("audit.all", ["#"])
    sent = messages(3)
    await broker.publish(sent)
    await asyncio.to_thread(private.alarm, True)
    try:
        with pytest.raises(BrokerUnavailable):
            await broker.publish(messages(1))
        async with broker.consume("audit.all") as deliveries:
            assert ids(await finish(deliveries, 3)) == ids(sent)
    finally:
        await asyncio.to_thread(private.alarm, False)
    await publish_until_taken(broker, 1)
    await broker.close()
