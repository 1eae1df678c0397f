"""The broker's contract, said against the port: whatever implements it passes this file (EVENT-2)."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from taskman_server.kit.broker import (
    Broker,
    BrokerError,
    BrokerUnavailable,
    Message,
    UnknownQueue,
    Unroutable,
    dead_letter_queue,
)
from taskman_server.kit.broker.embedded import EmbeddedBroker
from taskman_server.kit.events import Event
from tests.store.broker.shapes import Shape, finish, ids, messages, said, take
from tests.store.support import an_event, until

ON_SQLITE = pytest.mark.parametrize("shape", ["embedded"], indirect=True)


async def test_an_event_goes_to_every_queue_bound_for_it(broker: Broker) -> None:
    """EVENT-2: topic exchanges per context, a durable queue per consumer."""
    bindings = {
        "audit.all": ["#"],
        "notifications.task": ["task.assigned", "task.commented"],
        "authorization.iam": ["iam.#"],
        "users.any": ["*.created", "user.deleted"],
    }
    for queue, patterns in bindings.items():
        await broker.declare(queue, patterns)
    names = ["task.created", "task.assigned", "iam.role.created", "project.created", "user.deleted", "authz.denied"]
    await broker.publish([Message.of(an_event(name)) for name in names])
    heard = {queue: [message.name for message in await broker.peek(queue)] for queue in bindings}
    assert heard == {
        "audit.all": names,
        "notifications.task": ["task.assigned"],
        "authorization.iam": ["iam.role.created"],
        "users.any": ["task.created", "project.created", "user.deleted"],
    }


async def test_what_no_queue_is_bound_for_is_refused(broker: Broker) -> None:
    """EVENT-2: mandatory. A confirmed message that goes nowhere would be a lost event."""
    await broker.declare("notifications.task", ["task.#"])
    good, bad, unknown = (Message.of(an_event(name)) for name in ("task.created", "user.created", "weather.changed"))
    with pytest.raises(Unroutable, match=r"user\.created, weather\.changed") as caught:
        await broker.publish([good, bad, unknown])
    assert caught.value.event_ids == {bad.id, unknown.id}
    if good.id not in caught.value.durable_ids:
        await broker.publish([good])
    assert ids(await broker.peek("notifications.task")) == [good.id]


@ON_SQLITE
async def test_one_id_is_in_a_queue_once(broker: Broker) -> None:
    """EVENT-1: the relay publishes again after a crash. RabbitMQ keeps both, and the inbox drops the second."""
    await broker.declare("audit.all", ["#"])
    (message,) = messages(1)
    await asyncio.gather(*(broker.publish([message, message]) for _ in range(5)))
    assert ids(await broker.peek("audit.all")) == [message.id]


async def test_batches_come_in_order_and_no_more_than_asked_for(broker: Broker) -> None:
    """Prefetch bounds what a consumer holds."""
    await broker.declare("audit.all", ["#"])
    sent = messages(10)
    await broker.publish(sent)
    async with broker.consume("audit.all", prefetch=4) as deliveries:
        first = await take(deliveries, 4)
        assert ids(first) == ids(sent[:4])
        assert [delivery.attempt for delivery in first] == [1] * 4
        waiting = asyncio.create_task(take(deliveries, 1))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not waiting.done()
        assert (await broker.stats())["audit.all"].unsettled == 4
        await deliveries.ack(first)
        second = await waiting
        await deliveries.ack(second)
        rest = await take(deliveries, 10 - 4 - len(second))
        assert ids([*second, *rest]) == ids(sent[4:])
        await deliveries.ack(rest)

    async def empty() -> bool:
        stats = (await broker.stats())["audit.all"]
        return (stats.ready, stats.unsettled, stats.dead, stats.consumers, stats.oldest) == (0, 0, 0, 0, None)

    await until(empty)


async def test_a_waiting_consumer_is_woken_by_a_publish(tmp_path: Path) -> None:
    """EVENT-2: no polling on the way; the sweep is an hour off."""
    broker = await EmbeddedBroker.open(tmp_path / "quiet.db", sweep=3600)
    await broker.declare("audit.all", ["#"])
    async with broker.consume("audit.all") as deliveries:
        waiting = asyncio.create_task(take(deliveries, 1))
        await asyncio.sleep(0)
        sent = messages(1)
        await broker.publish(sent)
        assert ids(await waiting) == ids(sent)
    await broker.close()


async def test_a_poison_message_is_given_up_while_its_neighbours_flow(broker: Broker) -> None:
    """EVENT-2: delivery limit, dead-letter queue with the reason; a growing pause in between."""
    await broker.declare("audit.all", ["#"], delivery_limit=3)
    sent = messages(5)
    poison = sent[2].id
    await broker.publish(sent)
    attempts: list[int] = []
    done: list[str] = []
    async with broker.consume("audit.all") as deliveries:
        while len(done) < 4 or len(attempts) < 3:
            for delivery in await take(deliveries, 1):
                if delivery.message.id == poison:
                    attempts.append(delivery.attempt)
                    await deliveries.retry(delivery, "ValueError: no such thing")
                else:
                    done.append(delivery.message.id)
                    await deliveries.ack([delivery])
    assert attempts == [1, 2, 3]
    assert done == [message.id for message in sent if message.id != poison]
    (dead,) = await broker.dead_letters("audit.all")
    assert (dead.message, dead.attempts) == (sent[2], 3)
    assert dead.reason == "failed 3 times, the last time: ValueError: no such thing"
    assert await broker.peek("audit.all") == []
    assert dead_letter_queue("audit.all") == "audit.all.dead"


async def test_order_is_kept_per_key_while_one_waits(broker: Broker) -> None:
    """EVENT-3: later events of the key wait behind the one that failed; a given-up head releases them."""
    await broker.declare("audit.all", ["#"], delivery_limit=2)
    mine = messages(4, key="task_1")
    others = messages(3, key="task_2")
    await broker.publish([mine[0], others[0], mine[1], others[1], mine[2], mine[3], others[2]])
    done: list[str] = []
    async with broker.consume("audit.all", prefetch=3) as deliveries:
        while len(done) < 6:
            failed: set[str] = set()
            for delivery in await take(deliveries, 1):
                if delivery.message.key in failed:
                    await deliveries.release([delivery])
                elif delivery.message.id == mine[1].id:
                    failed.add(delivery.message.key)
                    await deliveries.retry(delivery, "not yet")
                else:
                    done.append(delivery.message.id)
                    await deliveries.ack([delivery])
    assert [i for i in done if i in ids(others)] == ids(others)
    assert [i for i in done if i in ids(mine)] == ids([mine[0], mine[2], mine[3]])
    assert [dead.message.id for dead in await broker.dead_letters("audit.all")] == [mine[1].id]
    assert done.index(others[2].id) < done.index(mine[2].id), "the other key did not wait"


async def test_what_was_not_settled_comes_again_after_a_restart(shape: Shape, broker: Broker) -> None:
    """EVENT-2: durable. A clean stop gives messages back; without counting the delivery where that can be."""
    await broker.declare("audit.all", ["#"])
    sent = messages(4)
    await broker.publish(sent)
    async with broker.consume("audit.all") as deliveries:
        taken = await take(deliveries, 4)
        await deliveries.ack(taken[:1])
        broker = await shape.restart()
        with pytest.raises(StopAsyncIteration):
            await anext(aiter(deliveries))
    async with broker.consume("audit.all") as deliveries:
        again = await finish(deliveries, 3)
        assert ids(again) == ids(sent[1:])
        assert [delivery.attempt for delivery in again] == [1 if shape.exact else 2] * 3
    broker = await shape.restart()
    assert await broker.peek("audit.all") == []


async def test_what_is_released_was_not_tried(shape: Shape, broker: Broker) -> None:
    """EVENT-2: also one that came back: while a database is away no message uses up its attempts."""
    await broker.declare("audit.all", ["#"], delivery_limit=3)
    sent = messages(2)
    await broker.publish(sent)
    async with broker.consume("audit.all") as deliveries:
        await take(deliveries, 2)
    seen: set[int] = set()
    async with broker.consume("audit.all") as deliveries:
        for _ in range(10):
            batch = await take(deliveries, 1)
            assert batch[0].message == sent[0]
            seen.add(batch[0].attempt)
            await deliveries.release(batch)
        assert ids(await finish(deliveries, 2)) == ids(sent)
    assert seen == {1 if shape.exact else 2}
    assert await broker.dead_letters("audit.all") == []


async def test_redrive_sends_back_what_an_operator_chose(shape: Shape, broker: Broker) -> None:
    """EVENT-2: inspect and redrive; dead letters are durable too."""
    await broker.declare("audit.all", ["#"])
    sent = messages(3)
    await broker.publish(sent)
    async with broker.consume("audit.all") as deliveries:
        for delivery in await take(deliveries, 3):
            await deliveries.reject(delivery, "event data: expected a JSON object")
    broker = await shape.restart()
    assert [dead.message for dead in await broker.dead_letters("audit.all")] == sent
    assert await broker.redrive("audit.all", [sent[1].id, "event_none"]) == 1
    async with broker.consume("audit.all") as deliveries:
        (delivery,) = await take(deliveries, 1)
        assert (delivery.message, delivery.attempt, delivery.redriven) == (sent[1], 1, True)
        await deliveries.ack([delivery])
        assert await broker.redrive("audit.all") == 2
        rest = await take(deliveries, 2)
        assert ids(rest) == [sent[0].id, sent[2].id]
        await deliveries.reject(rest[0], "again")
    assert (await broker.stats())["audit.all"].dead == 1
    assert await broker.purge("audit.all", dead=True) == 1
    assert await broker.dead_letters("audit.all") == []


async def test_purge_forgets_what_waits_and_leaves_what_is_at_work(broker: Broker) -> None:
    """EVENT-2: an operator's last resort."""
    await broker.declare("audit.all", ["#"])
    await broker.publish(messages(5))
    async with broker.consume("audit.all", prefetch=2) as deliveries:
        held = await take(deliveries, 2)
        assert await broker.purge("audit.all") == 3
        later = messages(1)
        await broker.publish(later)
        await deliveries.ack(held)
        assert ids(await take(deliveries, 1)) == ids(later)


async def test_two_consumers_share_a_queue(broker: Broker) -> None:
    """Each message goes to one of them, a key to one at a time."""
    await broker.declare("audit.all", ["#"])
    sent = [*messages(20, key="task_1"), *messages(20)]
    await broker.publish(sent)
    done: list[str] = []

    async def work() -> None:
        async with broker.consume("audit.all", prefetch=3) as deliveries:
            async for batch in deliveries:
                for delivery in batch:
                    await asyncio.sleep(0)
                    done.append(delivery.message.id)
                await deliveries.ack(batch)

    workers = [asyncio.create_task(work()) for _ in range(2)]

    async def all_done() -> bool:
        return len(done) >= 40

    await until(all_done)
    for worker in workers:
        worker.cancel()
    await asyncio.gather(*workers, return_exceptions=True)
    assert sorted(done) == sorted(ids(sent))
    assert [i for i in done if i in ids(sent[:20])] == ids(sent[:20])


async def test_a_consumer_that_leaves_gives_its_messages_to_the_next(broker: Broker) -> None:
    """Also when another one waits already."""
    await broker.declare("audit.all", ["#"])
    sent = messages(2)
    await broker.publish(sent)
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(broker.consume("audit.all"))
        await take(first, 2)
        async with broker.consume("audit.all") as second:
            waiting = asyncio.create_task(finish(second, 2))
            await asyncio.sleep(0)
            await stack.aclose()
            assert ids(await waiting) == ids(sent)


async def test_listeners_hear_what_was_published(shape: Shape, broker: Broker) -> None:
    """In-process caches are told of changes; one that fails hurts nobody."""
    await broker.declare("audit.all", ["#"])
    heard: list[Event] = []

    def bad(event: Event) -> None:
        raise ValueError(event.id)

    broker.listen("#", bad)
    stop = broker.listen("iam.#", heard.append)
    await until(shape.listening)
    event = an_event("iam.role.updated", "role_1")
    await broker.publish([Message.of(event), *messages(1)])
    await until(said(lambda: heard == [event]))
    stop()
    stop()
    others: list[Event] = []
    broker.listen("iam.#", others.append)
    await until(shape.listening)
    await broker.publish([Message.of(an_event("iam.role.updated"))])
    await until(said(lambda: len(others) == 1))
    assert heard == [event]
    with pytest.raises(ValueError, match="binding"):
        broker.listen("iam.", heard.append)


async def test_bindings_can_change_and_queues_can_go(shape: Shape, broker: Broker) -> None:
    """A new release listens to more; a queue that nobody reads would grow for ever."""
    await broker.declare("users.auth", ["auth.logout"])
    await broker.declare("users.auth", ["auth.#"])
    broker = await shape.restart()
    await broker.publish([Message.of(an_event("auth.login.succeeded"))])
    async with broker.consume("users.auth"):
        with pytest.raises(BrokerError, match="has consumers"):
            await broker.delete("users.auth")
    await broker.delete("users.auth")
    with pytest.raises(Unroutable):
        await broker.publish([Message.of(an_event("auth.login.succeeded"))])
    for call in (broker.peek, broker.dead_letters, broker.redrive, broker.purge, broker.delete):
        with pytest.raises(UnknownQueue, match=r"users\.auth"):
            await call("users.auth")
    with pytest.raises(UnknownQueue):
        async with broker.consume("users.auth"):
            pass


@pytest.mark.parametrize(
    ("queue", "bindings"), [("", ["#"]), ("Audit", ["#"]), ("audit.all.dead", ["#"]), ("a.b", []), ("a.b", ["tsk.*"])]
)
async def test_a_bad_declaration_is_refused(broker: Broker, queue: str, bindings: list[str]) -> None:
    """Names that would collide with a dead-letter queue, bindings that would hear nothing."""
    with pytest.raises(ValueError, match=r"queue|binding"):
        await broker.declare(queue, bindings)


async def test_a_closed_broker_says_so(shape: Shape, broker: Broker) -> None:
    """The relay keeps its events and tries again."""
    await broker.declare("audit.all", ["#"])
    await broker.close()
    with pytest.raises(BrokerUnavailable, match="closed"):
        await broker.publish(messages(1))
    await shape.restart()
