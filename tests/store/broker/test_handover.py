"""What the embedded broker hands over without a row: the file has what stays, and nothing else (EVENT-2)."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from taskman_server.kit.broker import BrokerUnavailable, Deliveries, Delivery, Message, store
from taskman_server.kit.broker.embedded import EmbeddedBroker
from taskman_server.kit.db import DatabaseUnavailable
from taskman_server.kit.db.sqlite_transaction import SqliteTransaction
from taskman_server.kit.events import ID_PREFIX
from taskman_server.kit.ids import id_floor
from tests.store.broker.shapes import finish, ids, messages, said, take
from tests.store.support import until

QUEUE = "audit.all"
LONG = 3600.0


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[EmbeddedBroker]:
    """A broker that waits for its consumers as long as the test does."""
    opened = await open_broker(tmp_path)
    yield opened
    await opened.close()


async def open_broker(folder: Path, grace: float = LONG) -> EmbeddedBroker:
    opened = await EmbeddedBroker.open(folder / "broker.db", sweep=LONG, retry_pause=0.01, grace=grace)
    await opened.declare(QUEUE, ["#"])
    # What is made in the same millisecond may have been made before it was opened.
    await until(said(lambda: id_floor(ID_PREFIX, datetime.now(UTC)) >= opened._opened))
    return opened


async def rows(broker: EmbeddedBroker) -> dict[str, int]:
    """What is in the file, with the deliveries counted there."""
    found = await broker._db.fetch_all(store.NEXT, queue=QUEUE, after=0, limit=10_000)
    return {row.event_id: row.attempts for row in found}


async def handed(
    broker: EmbeddedBroker, deliveries: Deliveries, sent: list[Message]
) -> tuple[asyncio.Task[None], list[Delivery]]:
    """A publication that waits, and what its consumer was handed."""
    waiting = asyncio.create_task(take(deliveries, len(sent)))
    await until(said(lambda: not broker._queues[QUEUE].more))
    publishing = asyncio.create_task(broker.publish(sent))
    taken = await waiting
    assert ids(taken) == ids(sent)
    assert not publishing.done()
    return publishing, taken


def of_age(seconds: float) -> Message:
    """A message that was made so long ago."""
    return replace(messages(1)[0], id=id_floor(ID_PREFIX, datetime.now(UTC) - timedelta(seconds=seconds)))


async def test_what_is_acknowledged_at_once_is_never_written(broker: EmbeddedBroker) -> None:
    """EVENT-2: its publisher has it until then."""
    async with broker.consume(QUEUE) as deliveries:
        publishing, taken = await handed(broker, deliveries, messages(5))
        before = broker._db.changes()
        stats = (await broker.stats())[QUEUE]
        assert (stats.ready, stats.unsettled) == (0, 5)
        assert ids(await broker.peek(QUEUE)) == ids(taken)
        await deliveries.ack(taken[:4])
        assert not publishing.done()
        await deliveries.ack(taken[4:])
        await publishing
        assert broker._db.changes() == before
        stats = (await broker.stats())[QUEUE]
        assert (stats.ready, stats.unsettled) == (0, 0)


async def test_what_is_in_one_publication_twice_is_one_message(broker: EmbeddedBroker) -> None:
    """EVENT-1: as it is in the file, whether it gets there or not."""
    async with broker.consume(QUEUE) as deliveries:
        first, second = messages(2)
        waiting = asyncio.create_task(take(deliveries, 2))
        await until(said(lambda: not broker._queues[QUEUE].more))
        publishing = asyncio.create_task(broker.publish([first, second, first]))
        taken = await waiting
        assert ids(taken) == ids([first, second])
        await deliveries.retry(taken[0], "the consumer is not ready")
        await publishing
        assert await rows(broker) == {first.id: 1, second.id: 1}


async def test_a_slow_consumer_holds_up_the_publisher_for_the_grace_and_once(tmp_path: Path) -> None:
    """EVENT-2: then there are rows, for what comes later too, until all of it is done."""
    broker = await open_broker(tmp_path, grace=0.01)
    async with broker.consume(QUEUE) as deliveries:
        sent = messages(3)
        waiting = asyncio.create_task(take(deliveries, 3))
        await until(said(lambda: not broker._queues[QUEUE].more))
        await broker.publish(sent)
        taken = await waiting
        assert await rows(broker) == dict.fromkeys(ids(sent), 1)
        more = messages(2)
        await broker.publish(more)
        assert await rows(broker) == dict.fromkeys(ids(sent), 1) | dict.fromkeys(ids(more), 0)
        assert not broker._queues[QUEUE].unwritten
        await deliveries.ack(taken)
        await deliveries.ack(await take(deliveries, 2))
        await broker._ledger.settled()
        assert await rows(broker) == {}
        assert broker._queues[QUEUE].takes(1)
    await broker.close()


async def test_what_is_to_be_tried_again_has_a_row_with_its_attempts(broker: EmbeddedBroker) -> None:
    """EVENT-2: and the publisher goes on; what was acknowledged beside it has none."""
    async with broker.consume(QUEUE) as deliveries:
        publishing, (first, second) = await handed(broker, deliveries, messages(2))
        await deliveries.ack([second])
        await deliveries.retry(first, "not now")
        await publishing
        assert await rows(broker) == {first.message.id: 1}
        (again,) = await take(deliveries, 1)
        assert (again.message.id, again.attempt) == (first.message.id, 2)
        assert await rows(broker) == {first.message.id: 2}
        await deliveries.ack([again])
        await broker._ledger.settled()
        assert await rows(broker) == {}


async def test_what_is_hopeless_goes_to_the_dead_letters_without_a_row(broker: EmbeddedBroker) -> None:
    """EVENT-2."""
    async with broker.consume(QUEUE) as deliveries:
        publishing, (only,) = await handed(broker, deliveries, messages(1))
        await deliveries.reject(only, "hopeless")
        await publishing
    assert await rows(broker) == {}
    (dead,) = await broker.dead_letters(QUEUE)
    assert (dead.message.id, dead.attempts, dead.reason) == (only.message.id, 1, "hopeless")


async def test_what_could_not_be_given_up_is_written_by_its_publisher(
    broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EVENT-2: a fault loses nothing."""
    async with broker.consume(QUEUE) as deliveries:
        publishing, (only,) = await handed(broker, deliveries, messages(1))
        begin, failures = SqliteTransaction.__aenter__, [DatabaseUnavailable("the disk is full")]

        async def away(transaction: SqliteTransaction) -> SqliteTransaction:
            if failures:
                raise failures.pop()
            return await begin(transaction)

        monkeypatch.setattr(SqliteTransaction, "__aenter__", away)
        with pytest.raises(BrokerUnavailable):
            await deliveries.reject(only, "hopeless")
        await publishing
        assert await rows(broker) == {only.message.id: 1}


async def test_a_consumer_that_leaves_leaves_rows(broker: EmbeddedBroker, tmp_path: Path) -> None:
    """EVENT-2: not counted as delivered, for the next one or the next process."""
    async with broker.consume(QUEUE) as deliveries:
        publishing, taken = await handed(broker, deliveries, messages(3))
    await publishing
    assert await rows(broker) == dict.fromkeys(ids(taken), 0)
    async with broker.consume(QUEUE) as deliveries:
        again = await finish(deliveries, 3)
        assert [(each.message.id, each.attempt) for each in again] == [(name, 1) for name in ids(taken)]


async def test_a_broker_that_closes_leaves_no_publisher_waiting(tmp_path: Path) -> None:
    """EVENT-2: what it was told is published is in the file."""
    broker = await open_broker(tmp_path)
    context = broker.consume(QUEUE)
    publishing, taken = await handed(broker, await context.__aenter__(), messages(3))
    await broker.close()
    (told,) = await asyncio.wait_for(asyncio.gather(publishing, return_exceptions=True), 10)
    await context.__aexit__(None, None, None)
    broker = await open_broker(tmp_path)
    assert isinstance(told, BrokerUnavailable) or list(await rows(broker)) == ids(taken)
    await broker.close()


async def test_a_publication_that_fails_can_be_repeated(
    broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EVENT-1, EVENT-2: what its consumer holds is not handed out twice, and is the new one's to write."""
    async with broker.consume(QUEUE) as deliveries:
        sent = messages(2)
        publishing, (first, second) = await handed(broker, deliveries, sent)
        begin = SqliteTransaction.__aenter__

        async def away(transaction: SqliteTransaction) -> SqliteTransaction:
            raise DatabaseUnavailable("the disk is full")

        monkeypatch.setattr(SqliteTransaction, "__aenter__", away)
        await deliveries.retry(first, "not now")
        with pytest.raises(BrokerUnavailable):
            await publishing
        monkeypatch.setattr(SqliteTransaction, "__aenter__", begin)
        again = asyncio.create_task(broker.publish(sent))
        (repeated,) = await take(deliveries, 1)
        assert (repeated.message.id, repeated.attempt) == (first.message.id, 2)
        again.cancel()
        await asyncio.gather(again, return_exceptions=True)
        last = asyncio.create_task(broker.publish(sent))
        await asyncio.sleep(0)
        await deliveries.ack([repeated, second])
        await last
        assert await rows(broker) == {}
        assert await broker.peek(QUEUE) == []


async def test_what_is_on_its_way_to_the_dead_letters_is_published_again_later(broker: EmbeddedBroker) -> None:
    """EVENT-2: a publication that was cut off meets its message while that is given up."""
    async with broker.consume(QUEUE) as deliveries:
        sent = messages(1)
        publishing, (only,) = await handed(broker, deliveries, sent)
        publishing.cancel()
        await asyncio.gather(publishing, return_exceptions=True)
        async with broker._db.transaction():  # nobody else writes meanwhile
            rejecting = asyncio.create_task(deliveries.reject(only, "hopeless"))
            await asyncio.sleep(0)
            with pytest.raises(BrokerUnavailable, match="publish it again"):
                await broker.publish(sent)
        await rejecting
    assert await rows(broker) == {}
    assert ids([dead.message for dead in await broker.dead_letters(QUEUE)]) == ids(sent)


async def test_what_is_redriven_is_not_passed_over_by_what_comes_meanwhile(
    broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EVENT-2: at whatever moment a publication comes, all is handed out, and the older first."""
    async with broker.consume(QUEUE) as deliveries:
        publishing, (dead,) = await handed(broker, deliveries, messages(1, key="task_1"))
        await deliveries.reject(dead, "hopeless")
        await publishing
        group = broker._db.group  # type: ignore[attr-defined]
        submit, waiting = group.submit, []

        def publish_then_submit(callbacks: Any) -> Any:
            monkeypatch.setattr(group, "submit", submit)
            waiting.append(asyncio.create_task(broker.publish(messages(1, key="task_1"))))
            return submit(callbacks)

        monkeypatch.setattr(group, "submit", publish_then_submit)
        assert await broker.redrive(QUEUE) == 1
        first, second = await finish(deliveries, 2)
        assert (first.message.id, first.redriven) == (dead.message.id, True)
        assert not second.redriven
        await asyncio.gather(*waiting)


async def test_rows_of_a_publication_that_was_cut_off_are_not_passed_over(
    broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EVENT-2: they were committed, and nobody waits for their sync any more."""
    async with broker.consume(QUEUE) as deliveries:
        publishing, taken = await handed(broker, deliveries, messages(1))
        await deliveries.ack(taken)
        await publishing
        group, syncing = broker._db.group, asyncio.Event()  # type: ignore[attr-defined]
        submit = group.submit

        def noted(callbacks: Any) -> Any:
            syncing.set()
            return submit(callbacks)

        monkeypatch.setattr(group, "submit", noted)
        old = of_age(5)
        cut_off = asyncio.create_task(broker.publish([old]))
        await syncing.wait()
        cut_off.cancel()
        await asyncio.gather(cut_off, return_exceptions=True)
        last = messages(1)
        publishing = asyncio.create_task(broker.publish(last))
        assert ids(await finish(deliveries, 2)) == [old.id, last[0].id]
        await publishing
    assert await broker.peek(QUEUE) == []


async def test_purged_messages_keep_no_publisher_waiting(broker: EmbeddedBroker) -> None:
    """EVENT-2: those at work stay their consumer's."""
    async with broker.consume(QUEUE, prefetch=2) as deliveries:
        waiting = asyncio.create_task(take(deliveries, 2))
        await until(said(lambda: not broker._queues[QUEUE].more))
        publishing = asyncio.create_task(broker.publish(messages(5)))
        taken = await waiting
        assert await broker.purge(QUEUE) == 3
        assert not publishing.done()
        await deliveries.ack(taken)
        await publishing
    assert await rows(broker) == {}


@pytest.mark.parametrize("age", [5, -3600], ids=["before", "before the clock was set back"])
async def test_what_is_older_than_the_broker_is_counted_from_its_first_delivery(tmp_path: Path, age: int) -> None:
    """EVENT-2: it may have killed the process before."""
    broker = await open_broker(tmp_path)
    old = of_age(age)
    async with broker.consume(QUEUE) as deliveries:
        waiting = asyncio.create_task(take(deliveries, 1))
        await until(said(lambda: not broker._queues[QUEUE].more))
        await broker.publish([old])
        assert ids(await waiting) == [old.id]
        assert await rows(broker) == {old.id: 1}
    await broker.close()


def _counted(calls: Counter[str], name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    def counted(*args: Any) -> Any:
        calls[name] += 1
        return call(*args)

    return counted


@pytest.mark.parametrize(("seed", "trouble"), [(1, 0.0), (2, 0.02), (3, 0.05), (4, 0.1)])
async def test_order_and_number_hold_whichever_way_they_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, trouble: float
) -> None:
    """EVENT-2: with publishers side by side, consumers that are slow, fail, give back and leave, and a short grace."""
    chance = random.Random(seed)
    broker = await open_broker(tmp_path, grace=0.002 if trouble else LONG)
    ways: Counter[str] = Counter()
    for way in ("_write", "_write_left", "_hand_over"):
        monkeypatch.setattr(broker, way, _counted(ways, way, getattr(broker, way)))
    sent = {
        f"task_{key}": [message for _ in range(40) for message in messages(1, key=f"task_{key}")] for key in range(6)
    }
    done: dict[str, list[str]] = {key: [] for key in sent}

    async def publish(key: str) -> None:
        left = list(sent[key])
        while left:
            number = chance.randint(1, 6)
            await broker.publish(left[:number])
            del left[:number]
            for _ in range(chance.randint(0, 60)):
                await asyncio.sleep(0)

    async def handle(deliveries: Deliveries, batch: list[Delivery]) -> None:
        for place, delivery in enumerate(batch):
            what = chance.random()
            if what < trouble:
                await asyncio.sleep(chance.choice((0, 0.005)))
            if trouble < what < 2 * trouble and delivery.attempt < 3:
                await deliveries.retry(delivery, "by chance")
                key = delivery.message.key
                await deliveries.release([each for each in batch[place + 1 :] if each.message.key == key])
                batch[place + 1 :] = [each for each in batch[place + 1 :] if each.message.key != key]
                continue
            if 2 * trouble < what < 3 * trouble:
                await deliveries.release(batch[place:])
                return
            done[delivery.message.key].append(delivery.message.id)
            await deliveries.ack([delivery])

    async def consume() -> None:
        while True:
            async with broker.consume(QUEUE, prefetch=chance.randint(1, 20)) as deliveries:
                async for batch in deliveries:
                    await handle(deliveries, batch)
                    if chance.random() < trouble:
                        break

    consumers = [asyncio.create_task(consume()) for _ in range(2)]
    await until(said(lambda: not broker._queues[QUEUE].more))
    await asyncio.gather(*map(publish, sent))
    await until(said(lambda: sum(map(len, done.values())) >= 240))
    for consumer in consumers:
        consumer.cancel()
    await asyncio.gather(*consumers, return_exceptions=True)
    assert ways["_hand_over"] > ways["_write"], "some were handed over without a row"
    assert bool(ways["_write_left"]) == bool(trouble), "what stayed was given one"
    assert done == {key: ids(each) for key, each in sent.items()}
    await broker._ledger.settled()
    assert await rows(broker) == {}
    assert not broker._queues[QUEUE].unwritten
    await broker.close()
