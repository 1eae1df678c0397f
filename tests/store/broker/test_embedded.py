"""What the embedded broker keeps in memory beside its file is what is in the file (EVENT-2)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from taskman_server.kit.broker import BrokerUnavailable, Message
from taskman_server.kit.broker.embedded import EmbeddedBroker
from taskman_server.kit.broker.snapshot import Snapshot
from taskman_server.kit.db import DatabaseUnavailable, Statement
from taskman_server.kit.db.sqlite_transaction import SqliteTransaction
from taskman_server.kit.events import Event
from tests.store.broker.shapes import finish, ids, messages, said, take
from tests.store.support import until


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[EmbeddedBroker]:
    """A broker with one queue, that looks into its file by itself hardly ever."""
    opened = await EmbeddedBroker.open(tmp_path / "broker.db", sweep=600)
    await opened.declare("audit.all", ["#"])
    yield opened
    await opened.close()


class Reads:
    """How often messages were read from the file."""

    def __init__(self, broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        fetch_all = broker._db.fetch_all

        async def counted(statement: Statement, /, **params: object) -> object:
            self.count += 1
            return await fetch_all(statement, **params)

        monkeypatch.setattr(broker._db, "fetch_all", counted)


async def test_who_waits_is_handed_what_comes_without_a_look_into_the_file(
    broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EVENT-2: in order, with publishers side by side; what waited before goes first."""
    old = messages(3, key="task_1")
    await broker.publish(old)
    async with broker.consume("audit.all") as deliveries:
        assert ids(await finish(deliveries, 3)) == ids(old)
        waiting = asyncio.create_task(finish(deliveries, 40))
        for _ in range(5):
            await asyncio.sleep(0)
        reads = Reads(broker, monkeypatch)
        batches = [messages(4, key="task_1") for _ in range(10)]
        await asyncio.gather(*(broker.publish(batch) for batch in batches))
        assert ids(await waiting) == [name for batch in batches for name in ids(batch)]
        assert reads.count == 0


async def test_more_than_memory_should_hold_stays_in_the_file(broker: EmbeddedBroker) -> None:
    """EVENT-2: a consumer that is slow has all of it in order, and only a page of it is held."""
    sent = [messages(100) for _ in range(10)]
    lanes = broker._queues["audit.all"].lanes
    async with broker.consume("audit.all", prefetch=10) as deliveries:
        first = asyncio.create_task(take(deliveries, 1))
        await asyncio.sleep(0)
        for batch in sent:
            await broker.publish(batch)
            assert lanes.held <= 256
        taken = await first
        await deliveries.ack(taken)
        taken += await finish(deliveries, 1000 - len(taken))
        assert ids(taken) == [name for batch in sent for name in ids(batch)]
    assert (await broker.stats())["audit.all"].ready == 0


async def test_a_message_that_is_there_still_does_not_come_twice(broker: EmbeddedBroker) -> None:
    """EVENT-2: a relay that was killed publishes again, also while the first one is handed out."""
    sent = messages(3)
    async with broker.consume("audit.all") as deliveries:
        waiting = asyncio.create_task(take(deliveries, 3))
        await asyncio.gather(broker.publish(sent), broker.publish(sent))
        taken = await waiting
        await broker.publish([*sent, *messages(1, key="task_9")])
        taken += await take(deliveries, 1)
        assert ids(taken[:3]) == ids(sent)
        assert len(set(ids(taken))) == 4
        await deliveries.ack(taken)
    assert await broker.peek("audit.all") == []


async def test_what_is_done_is_out_of_the_file_a_turn_later(broker: EmbeddedBroker, tmp_path: Path) -> None:
    """EVENT-2: figures count nothing that is done, and another process sees it soon."""
    await broker.publish(messages(5))
    snapshot = Snapshot(tmp_path / "broker.db")
    async with broker.consume("audit.all") as deliveries:
        taken = await take(deliveries, 5)
        await deliveries.ack(taken[:3])
        stats = (await broker.stats())["audit.all"]
        assert (stats.ready, stats.unsettled) == (0, 2)
        await deliveries.ack(taken[3:])
        await until(said(lambda: snapshot.stats()["audit.all"].ready == 0))


async def test_a_consumer_that_ends_while_it_is_handed_something_has_not_been_delivered_it(
    broker: EmbeddedBroker,
) -> None:
    """EVENT-2: the count of deliveries is of those that were handed out, at whatever moment it ends."""
    await broker.publish(messages(2))
    for turns in range(8):
        async with broker.consume("audit.all") as deliveries:
            waiting = asyncio.create_task(take(deliveries, 2))
            for _ in range(turns):
                await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
    await broker._ledger.settled()
    async with broker.consume("audit.all") as deliveries:
        assert {delivery.attempt for delivery in await take(deliveries, 2)} == {1}


async def test_what_could_not_be_noted_as_done_is_noted_later(
    broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EVENT-2: it is not delivered again meanwhile; and nothing is handed out that could not be counted."""
    await broker.publish(messages(3))
    begin = SqliteTransaction.__aenter__
    async with broker.consume("audit.all", prefetch=2) as deliveries:
        taken = await take(deliveries, 2)

        async def away(transaction: SqliteTransaction) -> SqliteTransaction:
            raise DatabaseUnavailable("the disk is full")

        monkeypatch.setattr(SqliteTransaction, "__aenter__", away)
        await deliveries.ack(taken)
        with pytest.raises(BrokerUnavailable):
            await take(deliveries, 1)
        with pytest.raises(BrokerUnavailable):
            await broker.stats()
        monkeypatch.setattr(SqliteTransaction, "__aenter__", begin)
        (last,) = await take(deliveries, 1)
        assert last.message.id not in ids(taken)
        assert last.attempt == 1
        stats = (await broker.stats())["audit.all"]
        assert (stats.ready, stats.unsettled) == (0, 1)


async def test_an_envelope_is_read_once_for_all_queues(broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """EVENT-2: whoever hears of an event has the same one."""
    await broker.declare("iam.user", ["#"])
    read: list[str | bytes] = []
    from_json = Event.from_json

    def counted(text: str | bytes) -> Event:
        read.append(text)
        return from_json(text)

    monkeypatch.setattr(Event, "from_json", counted)
    sent = messages(1)
    async with broker.consume("audit.all") as one, broker.consume("iam.user") as two:
        waiting = [asyncio.create_task(take(deliveries, 1)) for deliveries in (one, two)]
        await asyncio.sleep(0)
        await broker.publish(sent)
        heard = [delivery.message.event() for task in waiting for delivery in await task]
    assert heard[0] is heard[1]
    assert heard[0] == from_json(sent[0].body)
    assert len(read) == 1
    assert Message.of(heard[0]) == sent[0]
