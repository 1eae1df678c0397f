"""What replicas share of decisions, and what services remember of them (AUTHZ-4)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from taskman_sdk import contract
from taskman_sdk.proto.taskman.authorization.v1.authorization_pb import (
    PlanKind,
    PlanResourcesRequest,
    PlanResourcesResponse,
)
from taskman_server.kit import guard
from taskman_server.kit.guard import Guard
from taskman_server.kit.rpc import CallOptions, Origin, Pipeline, Principal, Runtime, service_principal
from taskman_server.kit.telemetry import CacheUse, Telemetry
from taskman_server.services.authorization import SERVICE
from taskman_server.services.authorization.rulebook_cache import _decode, _encode
from taskman_server.services.authorization.rules import PolicyRule, Rulebook
from taskman_server.services.authorization.store import AuthorizationStore
from tests.parts.proxy import TcpProxy
from tests.store.databases import Databases
from tests.store.iam.harness import ORGANIZATION, House, open_house
from tests.store.redis.conftest import Connect
from tests.store.support import open_to, until

PLAN = contract.method("AuthorizationService.PlanResources")


@pytest.fixture
async def house(databases: Databases) -> AsyncIterator[House]:
    async with open_house(databases) as opened:
        yield opened


@dataclass
class Replica:
    """A further process of the Authorization service."""

    runtime: Runtime
    pipeline: Pipeline = field(init=False)

    def __post_init__(self) -> None:
        handlers = SERVICE.build(self.runtime).handlers
        self.pipeline = Pipeline(open_to("test", SERVICE.contract), handlers, self.runtime)

    async def plan(self, principal: str, permission: str) -> PlanResourcesResponse:
        caller = service_principal("test", ORGANIZATION, principal)
        request = PlanResourcesRequest(principal=principal, permission=permission)
        answer = await self.pipeline.unary(PLAN, request, CallOptions(caller=caller))
        assert isinstance(answer, PlanResourcesResponse)
        return answer

    @property
    def books(self) -> CacheUse:
        return self.runtime.telemetry.cache("rulebooks")


async def replica(house: House, connect: Connect) -> Replica:
    telemetry = Telemetry("authorization", CollectorRegistry())
    return Replica(replace(house.runtimes["authorization"], redis=await connect("authorization"), telemetry=telemetry))


async def in_redis(of: Replica) -> bool:
    """Whether the rulebook of the state that the copy is in now is known to all."""
    state = await AuthorizationStore(of.runtime.db).state(ORGANIZATION)
    assert of.runtime.redis is not None
    assert state is not None
    return await of.runtime.redis.get(f"rulebook:1:{ORGANIZATION}:{state.generation}") is not None


def rights(plan: PlanResourcesResponse) -> PlanResourcesResponse:
    """A plan without the generation: a process that begins looks for what is new, which counts as a change."""
    return PlanResourcesResponse(kind=plan.kind, condition=plan.condition, roles=plan.roles, version=plan.version)


async def test_a_second_replica_need_not_read_the_rulebook(house: House, connect: Connect) -> None:
    """AUTHZ-4: in process first, Redis second."""
    ann = await house.user()
    ours, theirs = await replica(house, connect), await replica(house, connect)
    for each in (ours, theirs):
        await each.plan(ann, "tasks.read")  # each takes a snapshot first
    await house.policy("frozen", ["tasks.delete"], deny=True)
    await house.settle()
    theirs.books.hits = theirs.books.misses = 0
    plan = await ours.plan(ann, "tasks.read")
    await until(lambda: in_redis(ours))
    assert await theirs.plan(ann, "tasks.read") == plan
    assert await theirs.plan(ann, "tasks.create") == await ours.plan(ann, "tasks.create")
    assert (theirs.books.hits, theirs.books.misses) == (1, 0)


async def test_a_rulebook_of_another_state_does_not_count(house: House, connect: Connect) -> None:
    """AUTHZ-4: a change that the copy has heard of works in all replicas at once."""
    ann = await house.user("admin")
    ours, theirs = await replica(house, connect), await replica(house, connect)
    for each in (ours, theirs):
        assert (await each.plan(ann, "tasks.delete")).kind is PlanKind.ALWAYS_ALLOWED
    await until(lambda: in_redis(ours))
    await house.policy("frozen", ["tasks.delete"], deny=True)
    await house.settle()
    for each in (ours, theirs):
        assert (await each.plan(ann, "tasks.delete")).kind is PlanKind.ALWAYS_DENIED


async def test_without_redis_and_with_nonsense_in_it_the_copy_decides(
    house: House, connect: Connect, network: TcpProxy
) -> None:
    """AUTHZ-4: Redis decides nothing."""
    ann = await house.user()
    right = await house.plan(ann, "tasks.read")
    ours = await replica(house, connect)
    await ours.plan(ann, "tasks.read")
    await until(lambda: in_redis(ours))
    redis = ours.runtime.redis
    assert redis is not None
    for key in await redis._ask("KEYS", "taskman:authorization:rulebook:*"):
        await redis.set(key.decode().removeprefix("taskman:authorization:"), '{"roles": []}', 60)
    assert rights(await (await replica(house, connect)).plan(ann, "tasks.read")) == rights(right)
    late = await replica(house, connect)
    network.cut()
    assert rights(await late.plan(ann, "tasks.read")) == rights(right)


@given(
    st.builds(
        Rulebook,
        st.dictionaries(st.text(), st.lists(st.text()).map(tuple)),
        st.lists(
            st.builds(
                PolicyRule,
                st.text(),
                st.booleans(),
                st.frozensets(st.text()),
                st.lists(st.text()).map(tuple),
                st.text(),
            )
        ).map(tuple),
    )
)
def test_a_rulebook_comes_back_as_it_went(book: Rulebook) -> None:
    assert _decode(json.loads(json.dumps(_encode(book)))) == book


@dataclass
class Asking:
    """Somebody who asks a service for something."""

    principal: Principal
    now: datetime
    method: contract.Method = PLAN
    request_id: str = "req_1"
    origin: Origin = field(default_factory=Origin)


async def test_services_decide_anew_as_soon_as_they_hear_of_a_change(
    house: House, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AUTHZ-4: sooner than their memory would; here it would keep a plan for a minute. The hit rate is counted."""
    monkeypatch.setattr(guard, "TTL", 60.0)
    ann, bob = await house.user(), await house.user()
    await house.plan(ann, "audit.read")  # takes a snapshot, which is a change
    house.runtimes["authorization"].redis = await connect("authorization")
    telemetry = Telemetry("test", CollectorRegistry())
    asked = Guard(house.channels, "test", telemetry, await connect("tasks"))
    known = asked._changed
    assert known is not None
    redis = house.runtimes["authorization"].redis
    assert redis is not None

    async def listening() -> bool:
        await redis.publish(guard.CHANGED, "org_none")
        return "org_none" in known

    await until(listening)
    call = Asking(Principal(ann, "user", ORGANIZATION), house.clock.now())
    assert (await asked.scope(call, "audit.read")).denied
    for _ in range(9):
        await asked.scope(call, "audit.read")
    use = telemetry.cache("plans")
    assert (use.hits, use.misses) == (9, 1)
    await house.assign(ann, "admin")

    async def allowed() -> bool:
        return not (await asked.scope(call, "audit.read")).denied

    await until(allowed)
    call.principal = Principal(bob, "user", ORGANIZATION)
    assert (await asked.scope(call, "audit.read")).denied
