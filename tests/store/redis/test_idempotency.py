"""Idempotency keys in several processes (GATE-5)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from taskman_sdk import contract
from taskman_sdk.errors import AbortedError, TaskManError
from taskman_sdk.proto.taskman.iam.v1.iam_pb import CreateRoleRequest, ListRolesRequest, ListRolesResponse, Role
from taskman_server.kit.ids import new_id
from taskman_server.kit.redis import Redis
from taskman_server.kit.rpc import CallOptions, Pipeline
from taskman_server.kit.rpc import idempotency as module
from tests.contract.probe import Probe, running_probe
from tests.parts.proxy import TcpProxy
from tests.store.databases import Databases
from tests.store.iam.harness import House, open_house
from tests.store.redis.conftest import Connect
from tests.store.support import until


@pytest.fixture
async def houses(databases: Databases) -> AsyncIterator[tuple[House, House]]:
    """Two processes of each service."""
    async with open_house(databases) as house, open_house(databases, beside=house) as beside:
        yield house, beside


async def share(houses: tuple[House, House], connect: Connect) -> None:
    for house in houses:
        house.runtimes["iam"].redis = await connect("iam")


async def create(house: House, name: str, key: str, description: str = "") -> Role:
    request = CreateRoleRequest(role=Role(name=name, permissions=["tasks.read"], description=description))
    return await house.call("service:test", "IamAdminService.CreateRole", request, Role, idempotency_key=key)


async def together(houses: tuple[House, House], name: str) -> list[Role]:
    """The answers to one request that reaches both processes at once, repeated until each has one."""
    key = new_id("test")

    async def asked(house: House) -> Role:
        while True:
            try:
                return await create(house, name, key)
            except AbortedError as error:
                if error.reason != "IDEMPOTENCY_KEY_IN_FLIGHT":
                    raise
                await asyncio.sleep(0.01)

    return list(await asyncio.gather(*(asked(house) for house in houses)))


async def roles(house: House) -> list[str]:
    answer = await house.call("service:test", "IamAdminService.ListRoles", ListRolesRequest(), ListRolesResponse)
    return [role.name for role in answer.roles]


@pytest.mark.parametrize("with_redis", [True, False])
async def test_one_effect_and_one_answer_for_a_request_that_two_processes_get_at_once(
    houses: tuple[House, House], connect: Connect, with_redis: bool
) -> None:
    """GATE-5: the record's own key sees to it, also where the role's name would refuse the second one first."""
    if with_redis:
        await share(houses, connect)
    names = [f"role-{number}" for number in range(8)]
    for name in names:
        first, second = await together(houses, name)
        assert first == second
    assert [name for name in await roles(houses[0]) if name in names] == names


async def test_without_an_answer_from_redis_there_is_still_one_effect(
    houses: tuple[House, House], connect: Connect, network: TcpProxy
) -> None:
    """GATE-5: Redis is cut off while requests are under way."""
    await share(houses, connect)
    work = asyncio.gather(*(together(houses, f"role-{number}") for number in range(6)))
    await asyncio.sleep(0)
    network.cut()
    for first, second in await work:
        assert first == second
    assert sum(name.startswith("role-") for name in await roles(houses[0])) == 6


async def test_another_process_replays_and_refuses_as_the_first_would(
    houses: tuple[House, House], connect: Connect
) -> None:
    """GATE-5: the record is in the database."""
    await share(houses, connect)
    made = await create(houses[0], "reader", "key")
    assert await create(houses[1], "reader", "key") == made
    with pytest.raises(TaskManError) as caught:
        await create(houses[1], "reader", "key", "other")
    assert caught.value.reason == "IDEMPOTENCY_KEY_REUSED"


class Processes:
    """Two of a service whose call takes as long as the test wants."""

    def __init__(self, probe: Probe, redis: list[Redis]) -> None:
        self.probe = probe
        self.redis = redis[0]
        self.method = probe.service.methods["Hold"]
        self.pipelines = [Pipeline(probe.service, probe.handlers, replace(probe.runtime, redis=each)) for each in redis]

    async def hold(self, process: int, key: str = "key") -> Any:
        options = CallOptions({"idempotency-key": key})
        return await self.pipelines[process].unary(self.method, self.method.input(name="x"), options)

    async def refused(self, process: int, key: str = "key") -> bool:
        """Whether the key is said to be in flight, at once."""
        try:
            async with asyncio.timeout(5):
                await self.hold(process, key)
        except AbortedError as error:
            return error.reason == "IDEMPOTENCY_KEY_IN_FLIGHT"
        return False


@pytest.fixture
async def processes(service: contract.Service, tmp_path: Path, connect: Connect) -> AsyncIterator[Processes]:
    async with running_probe(service, tmp_path) as probe:
        yield Processes(probe, [await connect("probe"), await connect("probe")])


async def test_a_second_process_answers_at_once_that_the_first_is_at_work(processes: Processes) -> None:
    """GATE-5: 409 instead of a wait, until the first is done."""
    work = asyncio.create_task(processes.hold(0))
    await processes.probe.handlers.seen.started.wait()
    assert await processes.refused(1)
    assert await processes.refused(0)
    processes.probe.handlers.release.set()
    await work
    assert len(processes.probe.handlers.seen.calls) == 1

    async def free() -> bool:
        return not await processes.refused(1)

    await until(free)


async def test_a_call_that_was_given_up_leaves_no_mark(processes: Processes) -> None:
    work = asyncio.create_task(processes.hold(0))
    await processes.probe.handlers.seen.started.wait()
    work.cancel()
    processes.probe.handlers.release.set()

    async def free() -> bool:
        return not await processes.refused(1)

    await until(free, seconds=module.MARK / 2)


async def test_a_mark_lasts_as_long_as_its_call(processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    """GATE-5: and not longer than `MARK` when its process is killed."""
    monkeypatch.setattr(module, "MARK", 0.3)
    work = asyncio.create_task(processes.hold(0))
    await processes.probe.handlers.seen.started.wait()
    (mark,) = await processes.redis._ask("KEYS", "*idempotency:*")
    lengthened, before = 0, 300
    async with asyncio.timeout(20):
        while lengthened < 3:
            left = await processes.redis._ask("PTTL", mark)
            assert left > 0, "it was given up while its call was at work"
            lengthened += left > before
            before = left
            await asyncio.sleep(0.005)
    assert await processes.refused(1)
    processes.probe.handlers.release.set()
    await work


async def test_the_mark_of_a_process_that_was_killed_goes_away(processes: Processes) -> None:
    key = module._Mark(processes.redis, ("/anonymous", "key"))
    assert await processes.redis.add(key._key, "of a process that is no more", 60)
    processes.probe.handlers.release.set()
    assert await processes.refused(0)
    await processes.redis._ask("PEXPIRE", f"taskman:probe:{key._key}", 50)  # sooner than in service

    async def free() -> bool:
        return not await processes.refused(0)

    await until(free)
