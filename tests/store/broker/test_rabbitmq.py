"""What RabbitMQ adds to the port's contract: topology, replicas, attempts that outlive a process (EVENT-2)."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import aio_pika
import pytest

from taskman_server.kit.broker import BrokerError, BrokerUnavailable, Message, TopologyMismatch, Unroutable
from taskman_server.kit.broker.rabbitmq import RabbitBroker
from tests.parts.rabbitmq import RabbitMQ
from tests.store.broker.shapes import finish, ids, messages, open_rabbit, take
from tests.store.support import an_event, start_child, until

CONSUMER = """
import asyncio, os, signal, sys
from tests.store.broker.shapes import open_rabbit

async def main(url, queue, poison, limit):
    broker = await open_rabbit(url)
    await broker.declare(queue, ["#"], delivery_limit=int(limit))
    async with broker.consume(queue) as deliveries:
        print("ready", flush=True)
        watching = asyncio.create_task(watch(broker, queue)) if poison != "hang" else None
        async for batch in deliveries:
            for delivery in batch:
                print(delivery.message.id, delivery.attempt, flush=True)
                if poison in ("hang", delivery.message.id):
                    if poison == "hang":
                        await asyncio.Event().wait()
                    os.kill(os.getpid(), signal.SIGKILL)
                await deliveries.ack([delivery])

async def watch(broker, queue):
    while True:
        stats = (await broker.stats())[queue]
        if stats.ready == stats.unsettled == 0:
            return await broker.close()
        await asyncio.sleep(0.05)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
def url(rabbitmq: RabbitMQ) -> str:
    """A virtual host of the test's own."""
    return rabbitmq.vhost("rabbit")


@pytest.fixture
async def replicas(url: str) -> AsyncIterator[list[RabbitBroker]]:
    """Two processes' brokers."""
    made = [await open_rabbit(url) for _ in range(2)]
    yield made
    for each in made:
        await each.close()


@pytest.fixture
def broker(replicas: list[RabbitBroker]) -> RabbitBroker:
    """The first of them."""
    return replicas[0]


async def test_a_queue_that_was_made_otherwise_is_told_of(replicas: list[RabbitBroker]) -> None:
    """EVENT-2: topology is declared by code and checked at the start; the difference and the way out are said."""
    first, second = replicas
    await first.declare("audit.all", ["#"], delivery_limit=3)
    expected = r"queue audit\.all is on the broker already.*x-delivery-limit.*'64'.*'48'.*rabbitmqctl delete_queue"
    with pytest.raises(TopologyMismatch, match=expected):
        await second.declare("audit.all", ["#"], delivery_limit=4)
    await second.declare("audit.all", ["#"], delivery_limit=3)


async def test_an_exchange_that_was_made_otherwise_is_told_of(url: str, broker: RabbitBroker) -> None:
    """EVENT-2: somebody else's exchange of the same name."""
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        await channel.declare_exchange("taskman.task", "fanout", durable=True)
    with pytest.raises(TopologyMismatch, match=r"exchange taskman\.task .*type"):
        await broker.declare("audit.all", ["#"])
    with pytest.raises(TopologyMismatch):
        await broker.publish(messages(1))


async def test_what_the_last_release_was_bound_to_is_unbound(replicas: list[RabbitBroker]) -> None:
    """EVENT-2: another process, started later, with other patterns."""
    old, new = replicas
    await old.declare("users.auth", ["auth.#", "user.*", "#.deleted"])
    await new.declare("users.auth", ["user.*", "iam.#"])
    await new.publish([Message.of(an_event("iam.role.created")), Message.of(an_event("user.created"))])
    for name in ("auth.logout", "task.deleted"):
        with pytest.raises(Unroutable):
            await new.publish([Message.of(an_event(name))])
    assert [message.name for message in await new.peek("users.auth")] == ["iam.role.created", "user.created"]


async def test_replicas_that_start_together_agree(replicas: list[RabbitBroker]) -> None:
    """EVENT-2: however their declarations mix, the bindings are the new ones in the end."""
    for patterns in (["task.#"], ["task.created", "user.#"], ["iam.#", "task.*"]):
        await asyncio.gather(*(each.declare("users.any", patterns) for each in replicas for _ in range(2)))
    await replicas[0].publish([Message.of(an_event("task.created")), Message.of(an_event("iam.role.created"))])
    with pytest.raises(Unroutable):
        await replicas[0].publish([Message.of(an_event("user.created"))])


async def test_two_installations_share_a_virtual_host(url: str) -> None:
    """The prefix keeps them apart."""
    async with AsyncExitStack() as stack:
        one, two = [await RabbitBroker.open(url, prefix=prefix) for prefix in ("one.", "two.")]
        for each in (one, two):
            stack.push_async_callback(each.close)
            await each.declare("audit.all", ["#"])
        await one.publish(messages(1))
        assert (len(await one.peek("audit.all")), len(await two.peek("audit.all"))) == (1, 0)


async def test_a_message_says_what_it_is(url: str, broker: RabbitBroker) -> None:
    """EVENT-3: CloudEvents over AMQP, structured; persistent; the trace can be followed without reading the body."""
    await broker.declare("audit.all", ["#"])
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    sent = Message.of(an_event(traceparent=trace))
    await broker.publish([sent])
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        queue = await channel.get_queue("audit.all")
        raw = await anext(aiter(queue.iterator()))
    assert raw.content_type == "application/cloudevents+json; charset=utf-8"
    assert (raw.message_id, raw.delivery_mode, raw.headers["traceparent"]) == (sent.id, 2, trace)
    assert raw.body.decode() == sent.body


async def test_unsettled_messages_come_back_one_at_a_time_then_many(replicas: list[RabbitBroker]) -> None:
    """EVENT-2: what was in hand when a consumer ended is handed out alone: one of them may be to blame."""
    first, second = replicas
    await first.declare("audit.all", ["#"])
    sent = messages(30)
    await first.publish(sent[:20])
    async with first.consume("audit.all", prefetch=10) as deliveries:
        await take(deliveries, 10)
    await first.publish(sent[20:])
    sizes: list[int] = []
    seen: list[tuple[str, int]] = []
    async with second.consume("audit.all", prefetch=10) as deliveries:
        while len(seen) < 30:
            batch = await take(deliveries, 1)
            sizes.append(len(batch))
            seen += [(delivery.message.id, delivery.attempt) for delivery in batch]
            await deliveries.ack(batch)
    assert [identifier for identifier, _ in seen] == ids(sent)
    assert [attempt for _, attempt in seen] == [2] * 20 + [1] * 10
    assert sizes == [1] * 20 + [10]


async def test_one_that_came_back_and_fails_does_not_stop_the_others(replicas: list[RabbitBroker]) -> None:
    """EVENT-2, EVENT-3: it waits, with the later ones of its key; it has shown that it kills nobody."""
    await replicas[0].declare("audit.all", ["#"], delivery_limit=4)
    mine, others = messages(3, key="task_bad"), messages(6)
    await replicas[0].publish([*mine[:2], *others, mine[2]])
    async with replicas[0].consume("audit.all") as deliveries:
        await take(deliveries, 1)
    done: list[str] = []
    failed: set[str] = set()
    async with replicas[0].consume("audit.all") as deliveries:
        while len(done) < 8:
            for delivery in await take(deliveries, 1):
                if delivery.message.id == mine[0].id:
                    failed.add(delivery.message.id)
                    await deliveries.retry(delivery, "not today")
                else:
                    done.append(delivery.message.id)
                    await deliveries.ack([delivery])
    assert [i for i in done if i in ids(others)] == ids(others)
    assert done[-2:] == ids(mine[1:])
    (dead,) = await replicas[0].dead_letters("audit.all")
    assert (dead.message, dead.attempts) == (mine[0], 4)


async def test_an_event_that_kills_its_consumer_is_given_up_alone(url: str, broker: RabbitBroker) -> None:
    """EVENT-2: its deliveries are counted by RabbitMQ; the neighbours that were fetched with it lose one at most."""
    await broker.declare("audit.all", ["#"], delivery_limit=3)
    sent = messages(20)
    poison = sent[5]
    await broker.publish(sent)
    seen: list[list[str]] = []
    codes = []
    for _ in range(4):
        child = start_child(CONSUMER, url, "audit.all", poison.id, "3")
        output, _ = await asyncio.to_thread(child.communicate, timeout=60)
        codes.append(child.returncode)
        seen += [line.split() for line in output.splitlines() if line != "ready"]
    assert codes == [-signal.SIGKILL] * 3 + [0]
    assert [attempt for identifier, attempt in seen if identifier == poison.id] == ["1", "2", "3"]
    rest = [(identifier, int(attempt)) for identifier, attempt in seen if identifier != poison.id]
    done = list(dict.fromkeys(identifier for identifier, _ in rest))
    assert done == [message.id for message in sent if message is not poison]
    assert max(attempt for _, attempt in rest) == 2
    (dead,) = await broker.dead_letters("audit.all")
    assert (dead.message, dead.attempts) == (poison, 3)
    assert dead.reason.startswith("delivered 3 times and never settled")


async def test_one_replica_is_active_and_the_next_takes_over_when_it_is_killed(url: str, broker: RabbitBroker) -> None:
    """EVENT-3, OPS-7: order per key over replicas; what the dead one held comes first, in its order."""
    await broker.declare("audit.all", ["#"])
    child = start_child(CONSUMER, url, "audit.all", "hang", "8")
    assert child.stdout is not None
    assert await asyncio.to_thread(child.stdout.readline) == "ready\n"
    mine = messages(20, key="task_a")
    sent = [message for pair in zip(mine, messages(20), strict=True) for message in pair]
    async with broker.consume("audit.all") as deliveries:
        await broker.publish(sent)
        assert await asyncio.to_thread(child.stdout.readline) == f"{sent[0].id} 1\n"
        waiting = asyncio.create_task(finish(deliveries, 40))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not waiting.done()
        child.kill()
        await asyncio.to_thread(child.wait)
        seen = await waiting
    assert sorted(ids(seen)) == sorted(ids(sent))
    assert [i for i in ids(seen) if i in ids(mine)] == ids(mine)


async def test_replicas_keep_the_order_of_each_key_when_they_come_and_go(
    url: str, replicas: list[RabbitBroker]
) -> None:
    """EVENT-3: a consumer leaves in the middle, its successor goes on; nothing is left out, a key never turns back."""
    await replicas[0].declare("audit.all", ["#"], delivery_limit=100)
    sent = [message for _ in range(40) for message in (messages(1, key=f"task_{n}")[0] for n in range(5))]
    done: list[Message] = []

    async def work(broker: RabbitBroker) -> None:
        while len({message.id for message in done}) < len(sent):
            count = 0
            async with broker.consume("audit.all", prefetch=8) as deliveries:
                try:
                    async with asyncio.timeout(0.5):
                        async for batch in deliveries:
                            done.extend(delivery.message for delivery in batch)
                            await deliveries.ack(batch)
                            count += len(batch)
                            if count >= 15:
                                break
                except TimeoutError:
                    pass

    async def send() -> None:
        for start in range(0, len(sent), 10):
            await replicas[0].publish(sent[start : start + 10])

    async with asyncio.timeout(60):
        await asyncio.gather(send(), *(work(each) for each in replicas))
    for key in {message.key for message in sent}:
        expected = [message.id for message in sent if message.key == key]
        assert list(dict.fromkeys(message.id for message in done if message.key == key)) == expected


async def test_what_rabbitmq_gives_up_itself_can_be_redriven(url: str, replicas: list[RabbitBroker]) -> None:
    """EVENT-2: the second line: the consumer never gets far enough to count."""
    await replicas[0].declare("audit.all", ["#"], delivery_limit=1)
    sent = messages(1)
    await replicas[0].publish(sent)
    for _ in range(17):
        async with await aio_pika.connect(url) as connection:
            queue = await (await connection.channel()).get_queue("audit.all")
            await anext(aiter(queue.iterator()))

    async def dead() -> bool:
        return len(await replicas[0].dead_letters("audit.all")) == 1

    await until(dead)
    (letter,) = await replicas[0].dead_letters("audit.all")
    assert (letter.message, letter.reason) == (sent[0], "RabbitMQ gave it up: delivery_limit")
    assert await replicas[0].redrive("audit.all") == 1
    async with replicas[0].consume("audit.all") as deliveries:
        (again,) = await take(deliveries, 1)
        assert (again.message, again.attempt, again.redriven) == (sent[0], 1, True)


async def test_looking_at_dead_letters_changes_nothing(broker: RabbitBroker) -> None:
    """EVENT-2: many looks, the same order; those that an operator does not choose stay where they are."""
    await broker.declare("audit.all", ["#"])
    sent = messages(6)
    await broker.publish(sent)
    async with broker.consume("audit.all") as deliveries:
        for delivery in await take(deliveries, 6):
            await deliveries.reject(delivery, "no")
    for limit in (2, 100, 3, 6):
        for _ in range(10):
            letters = await broker.dead_letters("audit.all", limit=limit)
            assert ids([letter.message for letter in letters]) == ids(sent)[:limit]
    assert await broker.redrive("audit.all", [sent[3].id]) == 1
    left = [letter.message for letter in await broker.dead_letters("audit.all")]
    assert ids(left) == [message.id for message in sent if message is not sent[3]]


async def test_what_waits_is_not_shown_past_a_consumer(broker: RabbitBroker) -> None:
    """RabbitMQ has no such look; the sentence says so."""
    await broker.declare("audit.all", ["#"])
    async with broker.consume("audit.all"):
        with pytest.raises(BrokerError, match="shows what waits to that one only"):
            await broker.peek("audit.all")


async def test_a_queue_that_is_deleted_ends_its_consumer(url: str, broker: RabbitBroker) -> None:
    """It is declared again when the consumer begins again."""
    await broker.declare("audit.all", ["#"])
    async with broker.consume("audit.all") as deliveries:
        async with await aio_pika.connect(url) as connection:
            await (await connection.channel()).queue_delete("audit.all")
        with pytest.raises(BrokerUnavailable, match=r"audit\.all is not consumed any more"):
            await take(deliveries, 1)
    async with broker.consume("audit.all") as deliveries:
        sent = messages(1)
        await broker.publish(sent)
        assert ids(await take(deliveries, 1)) == ids(sent)


async def test_messages_are_counted(url: str) -> None:
    """OPS-3: what metrics are made of."""
    seen: dict[tuple[str, str], int] = {}

    def observe(what: str, queue: str, number: int) -> None:
        seen[what, queue] = seen.get((what, queue), 0) + number

    broker = await RabbitBroker.open(url, retry_pause=0.01, observe=observe)
    await broker.declare("tasks.task", ["task.#"], delivery_limit=2)
    await broker.publish(messages(3))
    with pytest.raises(Unroutable):
        await broker.publish(messages(1, "user.created"))
    async with broker.consume("tasks.task") as deliveries:
        first, *_ = await take(deliveries, 3)
        await deliveries.retry(first, "no")
        (first,) = await take(deliveries, 1)
        await deliveries.retry(first, "no")
    await broker.close()
    queue = "tasks.task"
    assert seen == {
        ("published", ""): 4,
        ("confirmed", ""): 3,
        ("returned", ""): 1,
        ("delivered", queue): 4,
        ("retried", queue): 1,
        ("dead", queue): 1,
    }


async def test_who_may_not_in_is_told_why(rabbitmq: RabbitMQ, url: str) -> None:
    """OPS-2: what an operator reads on `/readyz` names what to mend, the same words at each try, and no password."""
    scheme, _, rest = url.rpartition("/")[0].partition("://")
    password = rest.partition("@")[0].partition(":")[2]
    for wrong, said in (
        (f"{scheme}://{rest}/nowhere", "refuses the virtual host of the broker URL: make it"),
        (url.replace(password, "wrong"), "refuses the user or the password: check the broker URL"),
    ):
        texts = set()
        for _ in range(2):
            with pytest.raises(BrokerUnavailable, match=said) as refused:
                await RabbitBroker.open(wrong)
            texts.add(str(refused.value))
        assert len(texts) == 1
        assert password not in texts.pop()
