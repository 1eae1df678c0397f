"""Redis as a part that everything must do without (GATE-3, AUTHN-4, AUTHZ-4)."""

from __future__ import annotations

import asyncio
import time
from contextlib import closing
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from taskman_server.kit.redis import Redis, RedisError, RedisWriteMarks, Script
from taskman_server.kit.telemetry import Telemetry
from tests.parts.proxy import TcpProxy
from tests.parts.redis import PrivateRedis, RedisServer, private_redis
from tests.parts.servers import Port, running
from tests.store.redis.conftest import Connect
from tests.store.support import until


async def healthy(redis: Redis) -> bool:
    return not redis.degraded


async def test_what_is_put_can_be_got_until_its_time_is_over(connect: Connect) -> None:
    redis = await connect()
    assert await redis.set("a", "1", 60)
    assert await redis.get("a") == b"1"
    assert await redis.get("b") is None
    assert await redis.mget(["b", "a"]) == [None, b"1"]
    assert await redis.set("short", b"x", 0.01)
    await until(lambda: gone(redis, "short"))
    assert await redis.delete("a", "b")
    assert await redis.get("a") is None


async def gone(redis: Redis, key: str) -> bool:
    return await redis.get(key) is None


async def test_only_one_of_many_adds_a_key(connect: Connect) -> None:
    first, second = await connect(), await connect()
    added = await asyncio.gather(*(redis.add("mark", "me", 60) for redis in (first, second) for _ in range(10)))
    assert sorted(added) == [False] * 19 + [True]


async def test_services_do_not_see_each_other(connect: Connect) -> None:
    tasks, users = await connect("tasks"), await connect("users")
    await tasks.set("a", "1", 60)
    assert await users.get("a") is None


async def test_scripts_run_also_where_they_were_never_heard_of(connect: Connect) -> None:
    redis = await connect()
    script = Script("redis.call('SET', KEYS[1], ARGV[1], 'PX', 60000) return {KEYS[1], ARGV[1]}")
    assert await redis.eval(script, ["a"], 7) == [b"taskman:tasks:a", b"7"]
    await redis._ask("SCRIPT", "FLUSH")
    assert await redis.eval(script, ["a"], 8) == [b"taskman:tasks:a", b"8"]
    assert await redis.eval(Script("return redis.call('NO SUCH')"), ["a"]) is None


async def test_signals_reach_all_who_listen_and_go_on_after_a_break(connect: Connect, network: TcpProxy) -> None:
    ours, theirs = await connect("authorization"), await connect("tasks")
    heard: list[str] = []
    channel = f"changed-{network.port}"
    theirs.subscribe("authorization", channel, heard.append)

    async def arrives() -> list[str]:
        await ours.publish(channel, "org_1")
        return heard

    await until(arrives)
    assert set(heard) == {"org_1"}
    network.cut()
    assert not await ours.publish(channel, "org_1")
    network.heal()
    heard.clear()
    await until(arrives)


async def test_a_redis_that_is_gone_answers_nothing_and_costs_nothing_until_it_is_back(
    connect: Connect, network: TcpProxy
) -> None:
    redis = await connect()
    await redis.set("a", "1", 60)
    network.cut()
    for _ in range(6):
        assert await redis.get("a") is None
    assert redis.degraded
    assert redis.reason
    assert await redis.add("b", "1", 60) is None
    assert not await redis.set("b", "1", 60)
    assert not await redis.delete("a")
    assert await redis.eval(Script("return 1"), []) is None
    started = time.perf_counter()
    for _ in range(1000):
        await redis.get("a")
    assert time.perf_counter() - started < 0.5, "nobody waits for a Redis that is known to be gone"
    network.heal()
    await until(lambda: healthy(redis))
    assert (await redis.get("a"), redis.reason) == (b"1", "")


async def test_a_redis_that_is_not_there_at_the_start_is_found_later(connect: Connect, network: TcpProxy) -> None:
    network.cut()
    redis = await connect()
    assert redis.degraded
    network.heal()
    await until(lambda: healthy(redis))
    assert await redis.set("a", "1", 60)


async def test_nobody_waits_longer_than_the_time_out_for_a_slow_redis(connect: Connect, network: TcpProxy) -> None:
    redis = await connect(timeout=0.2)
    await redis.set("a", "1", 60)
    network.freeze()
    started = time.perf_counter()
    assert await asyncio.gather(*(redis.get("a") for _ in range(2000))) == [None] * 2000
    assert time.perf_counter() - started < 2
    while not redis.degraded:
        await redis.get("a")
    network.heal()
    await until(lambda: healthy(redis))
    assert await redis.get("a") == b"1"


async def test_late_answers_go_to_nobody(connect: Connect, network: TcpProxy) -> None:
    """An answer that came too late must not be taken for that of the next command on the connection."""
    redis = await connect(timeout=0.15)
    for number in range(20):
        assert await redis.set(f"k{number}", str(number), 60)
    network.delay(0.1)  # there and back: too slow
    late = await asyncio.gather(*(redis.get(f"k{number}") for number in range(20)))
    assert set(late) == {None}
    network.delay(0)
    for number in (*range(20), *range(20)):
        assert await redis.get(f"k{number}") in (str(number).encode(), None)
    await until(lambda: healthy(redis))
    assert await redis.mget([f"k{number}" for number in range(20)]) == [str(n).encode() for n in range(20)]


async def test_callers_who_give_up_leave_the_others_their_answer(connect: Connect) -> None:
    redis = await connect()
    await redis.set("a", "1", 60)
    impatient, patient = asyncio.create_task(redis.get("a")), asyncio.create_task(redis.get("a"))
    await asyncio.sleep(0)
    impatient.cancel()
    assert await patient == b"1"
    assert not redis.degraded


async def test_a_full_redis_takes_no_writes_and_still_answers(tmp_path: Path) -> None:
    with private_redis(tmp_path) as server:
        redis = await Redis.open(server.url, "tasks", timeout=1)
        try:
            assert await redis.set("a", "1", 60)
            await redis._ask("CONFIG", "SET", "maxmemory", "1")
            for _ in range(10):
                assert not await redis.set("b", "1", 60)
            assert (await redis.get("a"), redis.degraded) == (b"1", False)
        finally:
            await redis.close()


async def test_a_cluster_takes_keys_in_any_slot(tmp_path: Path) -> None:
    """CLUSTERDOWN until it has its slots, then all works; no command names keys of two slots."""
    server = ClusterRedis(tmp_path)
    with running(server):
        address = RedisServer(server).url.rpartition("/")[0]
        redis = await Redis.open(f"{address}?cluster=true", "tasks", timeout=1)
        try:
            server.ask("CLUSTER ADDSLOTSRANGE 0 16383")
            await until(lambda: redis.set("a", "1", 60))
            keys = [f"k{number}" for number in range(50)]
            assert all(await asyncio.gather(*(redis.set(key, key, 60) for key in keys)))
            assert await redis.mget(keys) == [key.encode() for key in keys]
            assert await redis.eval(Script("return {KEYS[1], ARGV[1]}"), ["a"], 1) == [b"taskman:tasks:a", b"1"]
            assert await redis.add("k1", "2", 60) is False
            heard: list[str] = []
            redis.subscribe("tasks", "changed", heard.append)

            async def arrives() -> list[str]:
                await redis.publish("changed", "x")
                return heard

            await until(arrives)
            assert await redis.delete(*keys)
        finally:
            await redis.close()


async def test_what_is_asked_is_counted(redis_server: RedisServer) -> None:
    registry = CollectorRegistry()
    with TcpProxy(redis_server.database()) as network:
        redis = await Redis.open(network.url, "tasks", Telemetry("tasks", registry), timeout=1)
        await asyncio.gather(redis.get("a"), redis.get("b"))
        network.cut()
        while not redis.degraded:
            await redis.get("a")
        await redis.get("a")
        await redis.close()

    def commands(outcome: str) -> float | None:
        return registry.get_sample_value("taskman_redis_commands_total", {"service": "tasks", "outcome": outcome})

    assert commands("ok") == 2
    assert (commands("failed") or 0) >= 3
    assert commands("skipped") == 1


def test_a_url_that_is_none_is_named() -> None:
    with pytest.raises(RedisError, match="TASKMAN_REDIS_URL"):
        asyncio.run(Redis.open("http://127.0.0.1", "tasks"))


class ClusterRedis(PrivateRedis):
    """A node that is a whole cluster, once it is given all slots."""

    def prepare(self) -> None:
        super().prepare()
        with closing(Port()) as bus, (self.home / "redis.conf").open("a", encoding="utf-8") as file:
            file.write(f"cluster-enabled yes\ncluster-port {bus.number}\n")


class TestWriteMarks:
    """Reads from a replica never lie behind the reader's own writes, whatever Redis forgets."""

    async def test_the_last_write_of_a_principal_is_known_to_all_processes(self, connect: Connect) -> None:
        ours, theirs = RedisWriteMarks(await connect()), RedisWriteMarks(await connect())
        await ours.put("ann", 70)
        await theirs.put("ann", 50)
        assert (await ours.get("ann"), await theirs.get("ann")) == (70, 70)

    async def test_who_is_not_known_may_have_written(self, connect: Connect) -> None:
        """Until so much time has passed that any replica has what may have been lost."""
        marks = RedisWriteMarks(await connect())
        assert await marks.get("ann") is None
        marks.LASTS = 0.05
        assert await until(lambda: says(marks, "ann", 0))
        await marks.put("ann", 70)
        marks.LASTS = 60
        assert await marks.get("ann") == 70

    async def test_after_a_flush_nothing_is_known(self, connect: Connect) -> None:
        redis = await connect()
        marks = RedisWriteMarks(redis)
        await marks.put("ann", 70)
        await redis._ask("FLUSHDB")
        assert await marks.get("ann") is None

    async def test_a_mark_that_cannot_be_kept_is_said(self, connect: Connect, network: TcpProxy) -> None:
        marks = RedisWriteMarks(await connect())
        network.cut()
        with pytest.raises(ConnectionError):
            await marks.put("ann", 70)
        assert await marks.get("ann") is None


async def says(marks: RedisWriteMarks, key: str, value: int) -> bool:
    return await marks.get(key) == value
