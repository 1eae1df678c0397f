"""The real parts that the other tests stand on."""

from __future__ import annotations

from pathlib import Path

import aio_pika
import asyncpg
import redis.asyncio

from tests.parts.postgresql import PostgreSQL, private_postgresql, private_replica
from tests.parts.rabbitmq import RabbitMQ, private_rabbitmq
from tests.parts.redis import RedisServer, private_redis


async def test_a_database_is_empty_and_ones_own(postgresql: PostgreSQL) -> None:
    """Two tests that ask for the same name do not meet."""
    first, second = postgresql.database("same"), postgresql.database("same")
    connection = await asyncpg.connect(first)
    await connection.execute("CREATE TABLE mine (x int)")
    await connection.close()
    connection = await asyncpg.connect(second)
    assert await connection.fetchval("SELECT to_regclass('mine')") is None
    await connection.close()


async def test_a_redis_database_is_ones_own(redis_server: RedisServer) -> None:
    """What one test writes, another does not read."""
    first, second = redis_server.database(), redis_server.database()
    async with redis.asyncio.from_url(first) as one, redis.asyncio.from_url(second) as other:
        await one.set("key", "value")
        assert await one.get("key") == b"value"
        assert await other.get("key") is None


async def test_a_virtual_host_is_ones_own(rabbitmq: RabbitMQ) -> None:
    """A queue of one test is not there for another."""
    first, second = rabbitmq.vhost("same"), rabbitmq.vhost("same")
    async with await aio_pika.connect(first) as connection:
        channel = await connection.channel()
        await channel.declare_queue("mine", durable=True)
        async with await aio_pika.connect(second) as other:
            channel = await other.channel()
            queue = await channel.declare_queue("mine", durable=False)
            assert queue.name == "mine"


async def test_private_ones_come_back_on_the_same_port(tmp_path: Path) -> None:
    """A chaos test that stops or kills a part finds it again where it was."""
    with private_postgresql(tmp_path) as part:
        url = part.database()
        part.restart()
        part.kill()
        part.start()
        connection = await asyncpg.connect(url)
        assert await connection.fetchval("SELECT 1") == 1
        await connection.close()
        with private_replica(part, tmp_path) as replica:
            replica.pause()
            part.execute("CREATE TABLE late (x int)")
            assert replica.execute("SELECT to_regclass('late')") is None
            replica.resume()
            replica.wait_for(part)
            assert replica.execute("SELECT to_regclass('late')::text") == "late"
    with private_redis(tmp_path, durable=True) as store:
        async with redis.asyncio.from_url(store.url) as client:
            await client.set("key", "value")
        store.kill()
        store.start()
        store.restart()
        async with redis.asyncio.from_url(store.url) as client:
            assert await client.get("key") == b"value"
    with private_rabbitmq(tmp_path) as broker:
        url = broker.vhost()
        broker.kill()
        broker.start()
        broker.restart()
        async with await aio_pika.connect(url) as connection2:
            await connection2.channel()
