"""The real servers that other tests stand on."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import aio_pika
import aiormq
import asyncpg
import psutil
import pytest
import redis.asyncio

from tests.parts.postgresql import PostgreSQL, private_postgresql, private_replica
from tests.parts.rabbitmq import RabbitMQ, private_rabbitmq
from tests.parts.redis import RedisServer, private_redis
from tests.parts.servers import Handle


def family(*parts: Handle) -> list[psutil.Process]:
    """The guards of running parts and everything under them."""
    guards = [psutil.Process(part.pid).parent() for part in parts]
    return [process for guard in guards if guard for process in (guard, *guard.children(recursive=True))]


def gone(processes: list[psutil.Process], seconds: float) -> bool:
    """Whether all of them have ended in time; a zombie has ended, whoever should have buried it."""
    _, left = psutil.wait_procs([p for p in processes if p.is_running()], timeout=seconds)
    return all(process.status() == psutil.STATUS_ZOMBIE for process in left if process.is_running())


async def value(url: str, sql: str) -> object:
    """What a database answers."""
    connection = await asyncpg.connect(url)
    try:
        found: object = await connection.fetchval(sql)
        return found
    finally:
        await connection.close()


async def test_a_database_is_empty_and_ones_own(postgresql: PostgreSQL) -> None:
    """Two tests that ask for the same name do not meet."""
    first, second = postgresql.database("same"), postgresql.database("same")
    await value(first, "CREATE TABLE mine (x int)")
    assert await value(first, "SELECT to_regclass('mine')::text") == "mine"
    assert await value(second, "SELECT to_regclass('mine')::text") is None
    postgresql.drop(first)
    with pytest.raises(asyncpg.InvalidCatalogNameError):
        await value(first, "SELECT 1")


async def test_a_family_of_databases_has_one_address(postgresql: PostgreSQL) -> None:
    """`{service}` in a database URL becomes the name of the service, and there is a database for each."""
    url = postgresql.family(["tasks", "users"])
    for service in ("tasks", "users"):
        assert str(await value(url.format(service=service), "SELECT current_database()")).endswith(f"_{service}")


async def test_postgresql_wants_its_password(postgresql: PostgreSQL) -> None:
    """Nobody else on the machine gets in."""
    url = postgresql.url().replace("taskman:", "taskman:not-")
    with pytest.raises(asyncpg.InvalidPasswordError):
        await value(url, "SELECT 1")


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
    async with await aio_pika.connect(first) as one, await aio_pika.connect(second) as other:
        await (await one.channel()).declare_queue("mine", durable=True, arguments={"x-queue-type": "quorum"})
        with pytest.raises(aiormq.exceptions.ChannelNotFoundEntity):
            await (await other.channel()).declare_queue("mine", passive=True)
    rabbitmq.drop(first)
    with pytest.raises(aiormq.exceptions.AMQPError):
        await aio_pika.connect(first)


async def test_postgresql_comes_back_where_it_was(tmp_path: Path) -> None:
    """A chaos test that stops or kills it finds it again on the same port, with all that was committed."""
    with private_postgresql(tmp_path) as part:
        url = part.database()
        await value(url, "CREATE TABLE kept AS SELECT 1 AS x")
        part.restart()
        await value(url, "INSERT INTO kept VALUES (2)")
        before = family(part)
        part.kill()
        assert gone(before, 0)
        with pytest.raises(ConnectionRefusedError):
            await value(url, "SELECT 1")
        part.start()
        assert await value(url, "SELECT sum(x) FROM kept") == 3
        last = family(part)
        assert len(last) > 5
    assert gone(last, 0)


async def test_a_replica_lags_for_as_long_as_it_is_paused(tmp_path: Path) -> None:
    """It shows what was committed before the pause, and the rest when it goes on."""
    with private_postgresql(tmp_path) as primary, private_replica(primary, tmp_path) as replica:
        primary.execute("CREATE TABLE early (x int)")
        replica.wait_for(primary)
        assert replica.execute("SELECT to_regclass('early')::text") == "early"
        replica.pause()
        primary.execute("CREATE TABLE late (x int)")
        assert replica.execute("SELECT to_regclass('late')::text") is None
        replica.resume()
        replica.wait_for(primary)
        assert replica.execute("SELECT to_regclass('late')::text") == "late"
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            replica.execute("CREATE TABLE mine (x int)")


@pytest.mark.parametrize("durable", [True, False])
async def test_redis_comes_back_where_it_was(tmp_path: Path, durable: bool) -> None:
    """A durable one has kept everything when it is killed, another nothing."""
    with private_redis(tmp_path, durable=durable) as part:
        async with redis.asyncio.from_url(part.url) as client:
            await client.set("key", "value")
        before = family(part)
        part.kill()
        assert gone(before, 0)
        part.start()
        part.restart()
        async with redis.asyncio.from_url(part.url) as client:
            assert await client.get("key") == (b"value" if durable else None)
        last = family(part)
    assert gone(last, 0)


async def test_rabbitmq_comes_back_where_it_was(tmp_path: Path) -> None:
    """A confirmed message in a quorum queue is there after a kill; the node leaves no helper behind, no epmd."""
    with private_rabbitmq(tmp_path) as part:
        url = part.vhost()
        async with await aio_pika.connect(url) as connection:
            channel = await connection.channel(publisher_confirms=True)
            await channel.declare_queue("kept", durable=True, arguments={"x-queue-type": "quorum"})
            message = aio_pika.Message(b"here", delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
            await channel.default_exchange.publish(message, "kept")
        part.settle()
        before = family(part)
        assert {"beam.smp", "erl_child_setup"} <= {process.name() for process in before}
        part.kill()
        assert gone(before, 0)
        with pytest.raises(OSError):
            await aio_pika.connect(url)
        part.start()
        async with await aio_pika.connect(url) as connection:
            queue = await (await connection.channel()).get_queue("kept")
            found = await queue.get(timeout=30)
            assert found.body == b"here"
            await found.ack()
        async with await aio_pika.connect(url) as connection:
            channel = await connection.channel(publisher_confirms=True)
            part.alarm(True)
            publishing = asyncio.ensure_future(channel.default_exchange.publish(aio_pika.Message(b"late"), "kept"))
            assert not (await asyncio.wait([publishing], timeout=0.3))[0], "published while publishers are blocked"
            part.alarm(False)
            await asyncio.wait_for(publishing, 30)
        last = family(part)
    assert gone(last, 0)


SUICIDE = """
import os, signal
from pathlib import Path
import psutil
from tests.parts.postgresql import private_postgresql

def test_dies(redis_server, rabbitmq, tmp_path):
    with private_postgresql(tmp_path) as database:
        own = [psutil.Process(part.pid).parent() for part in (redis_server, rabbitmq, database)]
        found = [process.pid for guard in own for process in (guard, *guard.children(recursive=True))]
        homes = [guard.cwd() for guard in own]
        Path({said!r}).write_text("\\n".join([*map(str, found), *homes]))
        os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_nothing_is_left_of_a_run_that_was_killed(tmp_path: Path, repo: Path) -> None:
    """The guards end the servers when the process that owned them is no more, and remove their data."""
    said = tmp_path / "said"
    case = tmp_path / "test_dies.py"
    case.write_text(SUICIDE.format(said=str(said)), encoding="utf-8")
    subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.parts.plugin", "-n", "1", "-q", "--rootdir", tmp_path, case],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(repo)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=100,
    )
    pids = [int(line) for line in said.read_text().splitlines() if line.isdigit()]
    homes = [Path(line) for line in said.read_text().splitlines() if not line.isdigit()]
    assert len(pids) > 10
    assert len(homes) == 3
    assert gone([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)], 20)
    assert [home for home in homes if home.exists()] == []
