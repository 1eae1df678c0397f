"""Events that cannot be handled, that nobody hears, that come again and again: on the running cluster."""

from __future__ import annotations

import asyncio
import json
import secrets
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta

import aio_pika
import asyncpg  # type: ignore[import-untyped]
import pytest

from taskman_server.app.units import SERVICES
from taskman_server.kit.broker import Message
from taskman_server.kit.broker.amqp.wire import encode
from taskman_server.kit.broker.routing import exchange_of, exchanges_for
from taskman_server.kit.ids import id_floor
from tests.chaos.cluster import Cluster
from tests.chaos.conftest import Size
from tests.chaos.spy import spying
from tests.chaos.trial import Run
from tests.contract.waiting import eventually
from tests.parts.proxy import TcpProxy

EXCHANGE = "taskman.task"
FAULT = "a fault that the next release mends"


async def _events(cluster: Cluster, *arguments: str) -> str:
    """What `taskman-server events` says."""
    broker = cluster.parts.rabbitmq.url(cluster.parts.vhost)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "from taskman_server.cli import main; main()", "events", *arguments,
        "--broker-url", broker, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()
    return said.decode()


def _one(run: Run, number: int) -> tuple[str, asyncio.Task[None]]:
    return run.crew.one(run.scene.writers[0], f"{run.scene.run}-probe{number}")


@asynccontextmanager
async def _fault(url: str, table: str, condition: str) -> AsyncIterator[None]:
    """Such rows cannot be written, as if the code had a fault."""
    name = f"fault_{secrets.token_hex(4)}"
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(
            f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION '{FAULT}'; END $$;"
            f"CREATE TRIGGER {name} BEFORE INSERT ON {table} FOR EACH ROW WHEN ({condition}) EXECUTE FUNCTION {name}()"
        )
        try:
            yield
        finally:
            await connection.execute(f"DROP FUNCTION {name} CASCADE")
    finally:
        await connection.close()


async def _dead(cluster: Cluster) -> dict[str, int]:
    return {
        queue: count for queue, count in (await cluster.stores.queues()).items() if queue.endswith(".dead") and count
    }


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("told")
async def test_a_poison_message_is_given_up_while_others_flow_and_comes_after_the_fix(
    cluster: Cluster, size: Size
) -> None:
    """EVENT-2: two consumers cannot handle one event. After its last attempt it is a dead letter with the reason; those
    beside it were not held up. When the fault is mended, `taskman-server events redrive` brings it."""
    async with cluster.run("a poison message", rate=min(size.rate, 20), writers=size.writers) as run:
        key = f"write-{run.scene.run}-probe1-1"
        audit, people = cluster.stores.database("audit"), cluster.stores.database("notifications")
        async with (
            _fault(audit, "records", f"NEW.type = 'task.assigned' AND NEW.request_id LIKE '{key}.%'"),
            _fault(people, "notifications", f"NEW.title || NEW.body LIKE '%{key}%'"),
        ):
            began = time.monotonic()
            assert _one(run, 1)[0] == key
            lags = []
            while await _dead(cluster) != {"audit.all.dead": 1, "notifications.people.dead": 1}:
                assert time.monotonic() - began < 120, await _dead(cluster)
                lags.append(await run.caught_up())
            run.notes.append(
                f"given up after {time.monotonic() - began:.1f} s; {len(lags)} events beside it arrived meanwhile,"
                f" within {max(lags):.1f} s at most"
            )
            assert max(lags) < 5
        for queue in ("audit.all", "notifications.people"):
            (letter,) = json.loads(await _events(cluster, "show", queue, "-o", "json"))
            assert key in json.dumps(letter["event"])
            assert letter["attempts"] == 8
            assert letter["reason"], letter
            assert await _events(cluster, "redrive", queue, "--all") == f"1 sent back to {queue}.\n"


@contextmanager
def _frozen(way: TcpProxy) -> Iterator[None]:
    way.freeze()
    try:
        yield
    finally:
        way.heal()


@asynccontextmanager
async def _deaf(cluster: Cluster) -> AsyncIterator[None]:
    """Nobody hears events of tasks. For those who publish it is one moment: no event goes to some queues only."""
    heard = [
        (queue, pattern)
        for service in SERVICES
        for queue, patterns in service.hears.items()
        for pattern in patterns
        if EXCHANGE in exchanges_for(pattern)
    ]
    connection = await aio_pika.connect(cluster.parts.rabbitmq.url(cluster.parts.vhost))
    async with connection:
        channel = await connection.channel()
        wire = await channel.get_underlay_channel()
        with _frozen(cluster.parts.broker_way):
            for queue, pattern in heard:
                await wire.queue_unbind(queue, EXCHANGE, pattern)
        try:
            yield
        finally:
            with _frozen(cluster.parts.broker_way):
                for queue, pattern in heard:
                    await wire.queue_bind(queue, EXCHANGE, pattern)


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("told")
async def test_an_event_that_nobody_hears_stays_in_the_outbox(cluster: Cluster, size: Size) -> None:
    """EVENT-2: an exchange without a queue returns what is published; the row stays, the log and a metric tell of it,
    and it leaves by itself when somebody listens again. Events of others flow meanwhile."""
    waiting = "SELECT count(*) FROM outbox"
    async with cluster.run("an exchange that is not bound", rate=size.rate, writers=size.writers) as run:
        async with _deaf(cluster):
            await run.wrote(10)

            async def returned() -> bool:
                return "the outbox keeps events that no queue is bound for" in cluster.process.stderr.read_text()

            await eventually(returned, "the line in the log", seconds=20)

            async def told() -> bool:
                return bool(await cluster.metric("tasks", "taskman_outbox_backlog") >= 10)

            await eventually(told, "the backlog in the metrics", seconds=20)
            ((kept,),) = await cluster.stores.rows("tasks", waiting)
            assert kept >= 10
            other = f"SELECT count(*) FROM records WHERE request_id = '{await run.scene.somebody_signs_in()}'"

            async def heard() -> bool:
                return bool((await cluster.stores.rows("audit", other))[0][0])

            await eventually(heard, "an event of another exchange", seconds=20)
        bound = time.monotonic()

        async def fewer() -> bool:
            ((left,),) = await cluster.stores.rows("tasks", waiting)
            return bool(left < kept)

        await eventually(fewer, "the events that waited", seconds=60)
        run.notes.append(
            f"{kept} events waited, and left {time.monotonic() - bound:.1f} s after somebody listened again"
        )


async def _publish(cluster: Cluster, message: Message) -> None:
    """Over a connection of its own, as another process does."""
    connection = await aio_pika.connect(cluster.parts.rabbitmq.url(cluster.parts.vhost))
    async with connection:
        channel = await connection.channel(publisher_confirms=True)
        exchange = await channel.get_exchange(exchange_of(message.name) or "", ensure=False)
        await exchange.publish(encode(message), message.name)


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("told")
async def test_an_event_that_comes_again_has_one_effect(cluster: Cluster, size: Size) -> None:
    """EVENT-1: five times at once from five processes; and again when its row in the inbox has aged away: then nobody
    knows any more whether it was handled, so that it is kept for an operator, who decides once."""
    stores, queues = cluster.stores, ("audit.all", "notifications.people")
    async with (
        spying(cluster.parts.rabbitmq.url(cluster.parts.vhost), EXCHANGE) as spy,
        cluster.run("the same event again", rate=min(size.rate, 20), writers=size.writers) as run,
    ):
        key, answered = _one(run, 1)
        await answered

        async def effects(event: str) -> tuple[int, int]:
            told = f"SELECT count(*) FROM notifications WHERE event = '{event}'"
            ((records,),) = await stores.rows("audit", f"SELECT count(*) FROM records WHERE id = '{event}'")
            return records, (await stores.rows("notifications", told))[0][0]

        async def published() -> str:
            await spy.heard(key)
            return next((body for name, body in spy.bodies.values() if name == "task.assigned" and key in body), "")

        body = await eventually(published, "the event of the probe")
        event = json.loads(body)["id"]
        again = Message(event, "task.assigned", json.loads(body)["subject"], body)

        async def arrived() -> bool:
            return all(await effects(event))

        await eventually(arrived, "its effect")
        once = await effects(event)
        await asyncio.gather(*(_publish(cluster, again) for _ in range(5)))
        await _through(run, queues)
        assert await effects(event) == once

        # It happened a day longer ago than the inbox remembers; by that it is another event.
        old = id_floor("event", datetime.now(UTC) - timedelta(days=31))[:-8] + secrets.token_hex(4)
        text = body.replace(event, old).replace(f"{key}.1", f"scene-{run.scene.run}-aged")
        aged = Message(old, "task.assigned", again.key, text)
        await asyncio.gather(*(_publish(cluster, aged) for _ in range(5)))
        await _given_up(cluster, dict.fromkeys((f"{queue}.dead" for queue in queues), 5))
        assert await effects(old) == (0, 0)
        letters = json.loads(await _events(cluster, "show", "audit.all", "-o", "json"))
        assert all("older than the inbox remembers" in letter["reason"] for letter in letters)
        for queue in queues:
            # Five of one id: sent back together, handled once.
            await _events(cluster, "redrive", queue, "--all")
        await _given_up(cluster, {})
        await _through(run, queues)
        assert await effects(old) == once
        inboxes = {"audit": "audit.all", "notifications": "notifications.people"}
        for service, queue in inboxes.items():  # as at the next pruning
            forget = f"DELETE FROM inbox WHERE event_id = '{old}' AND consumer = '{queue}'"
            await _execute(cluster, service, forget)
        await _publish(cluster, aged)
        await _given_up(cluster, {"audit.all.dead": 1, "notifications.people.dead": 1})
        assert await effects(old) == once
        for queue in inboxes.values():
            assert await _events(cluster, "purge", queue, "--yes") == f"1 dead letters of {queue} are forgotten.\n"
        run.notes.append(
            f"published 6 times: {once[0]} record, {once[1]} notifications; aged: given up, then once by hand"
        )


async def _execute(cluster: Cluster, service: str, query: str) -> None:
    connection = await asyncpg.connect(cluster.stores.database(service))
    try:
        await connection.execute(query)
    finally:
        await connection.close()


async def _through(run: Run, queues: Sequence[str]) -> None:
    """Returns when the queues have been empty: what was in them is done."""

    async def empty() -> bool:
        found = await run.place.stores.queues()
        return not any(found[queue] for queue in queues)

    await run.crew.pause()
    await eventually(empty, "empty queues", seconds=30)
    run.crew.up.set()


async def _given_up(cluster: Cluster, expected: dict[str, int]) -> None:
    """Returns when these are the dead letters."""

    async def look() -> bool:
        return await _dead(cluster) == expected

    await eventually(look, f"the dead letters {expected}", seconds=30)
