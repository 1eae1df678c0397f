"""One answer of the Authorization service says for a whole organization that nothing has changed (AUTHZ-4)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import pytest
from prometheus_client import CollectorRegistry

from taskman_sdk import codec, contract
from taskman_sdk.proto.taskman.authorization.v1.authorization_pb import PlanResourcesRequest
from taskman_sdk.proto.taskman.iam.v1.iam_pb import DeleteAssignmentRequest, DeleteAssignmentResponse
from taskman_server.kit import guard
from taskman_server.kit.answers import KEPT
from taskman_server.kit.guard import Guard
from taskman_server.kit.rpc import CallOptions, Channels, Origin, Principal
from taskman_server.kit.telemetry import Telemetry
from tests.store.databases import Databases
from tests.store.iam.harness import ORGANIZATION, House, open_house

_PLAN = contract.method("AuthorizationService.PlanResources")


@pytest.fixture
async def house(databases: Databases) -> AsyncIterator[House]:
    async with open_house(databases) as opened:
        yield opened


@dataclass
class Asking:
    """Somebody who asks a service for something."""

    principal: Principal
    now: datetime
    method: contract.Method = _PLAN
    request_id: str = "req_1"
    origin: Origin = field(default_factory=Origin)


class Service:
    """A service that decides, with a clock of its own for what it remembers, and who it has asked about."""

    def __init__(self, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[str] = []
        self.time = 1000.0
        self._house = house
        self._guard = Guard(Channels({"authorization": self}), "test", Telemetry("test", CollectorRegistry()))
        monkeypatch.setattr(self._guard._plans, "monotonic", lambda: self.time)

    async def unary(
        self, method: contract.Method, request: codec.Message[object], options: CallOptions
    ) -> codec.Message[object]:
        assert isinstance(request, PlanResourcesRequest)
        self.asked.append(request.principal)
        return await self._house.channels.unary(method, request, options)

    def stream(self, method: contract.Method, request: object, options: object) -> AsyncIterator[codec.Message[object]]:
        raise AssertionError(method.operation_id)

    async def may(self, *users: str, permission: str = "tasks.delete") -> list[bool]:
        """Whether they may do it to anything, all asked at once; nobody is asked about before."""
        self.asked.clear()
        calls = [Asking(Principal(user, "user", ORGANIZATION), self._house.clock.now()) for user in users]
        return [not scope.denied for scope in await asyncio.gather(*(self._guard.scope(c, permission) for c in calls))]


@pytest.fixture
async def people(house: House) -> list[str]:
    """Twenty users with a role, of whom the copy has heard."""
    users = [await house.user() for _ in range(20)]
    for user in users:
        await house.plan(user, "tasks.read")
    return users


async def test_one_question_serves_all_as_long_as_nothing_changes(
    house: House, people: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """AUTHZ-4: within `TTL` nobody is asked about, after it one for all, after `KEPT` everybody."""
    service = Service(house, monkeypatch)
    await service.may(*people)
    assert sorted(service.asked) == sorted(people)
    await service.may(*people)
    assert service.asked == []
    for _ in range(5):
        service.time += guard.TTL
        await service.may(*people * 3)
        assert len(service.asked) == 1
    service.time += KEPT
    await service.may(*people)
    assert sorted(service.asked) == sorted(people)


async def test_a_hot_plan_is_asked_for_once(house: House, people: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """AUTHZ-4: by a hundred at once, the first time and each time that it has grown old."""
    service = Service(house, monkeypatch)
    for seconds in (guard.TTL, guard.TTL, KEPT, guard.TTL):
        await service.may(*[people[0]] * 100)
        assert len(service.asked) == 1
        service.time += seconds


async def test_after_a_change_nobody_is_decided_on_by_what_was_before(
    house: House, people: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """AUTHZ-4: a policy, an assignment and its end work for everybody within `TTL` of the copy's hearing of them."""
    service = Service(house, monkeypatch)
    await house.user("admin")  # one stays
    before = await service.may(*people, permission="roles.read")
    admin = people[7]
    assert not before[7]
    assignment = await house.assign(admin, "admin")
    await house.settle()
    service.time += guard.TTL
    after = await service.may(*people, permission="roles.read")
    assert after[7]
    assert after[:7] + after[8:] == before[:7] + before[8:]
    await house.call(
        "service:test",
        "IamAdminService.DeleteAssignment",
        DeleteAssignmentRequest(assignment=assignment.id),
        DeleteAssignmentResponse,
        organization=ORGANIZATION,
    )
    await house.settle()
    service.time += guard.TTL
    assert await service.may(*people, permission="roles.read") == before


async def test_a_role_that_ends_by_itself_ends_in_time(
    house: House, people: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """IAM-3: no change is told of when the end of an assignment has come."""
    service = Service(house, monkeypatch)
    ends = house.clock.now() + timedelta(seconds=30)
    await house.assign(people[0], "admin", expire_time=codec.Timestamp.from_datetime(ends))
    await house.settle()
    assert (await service.may(people[0], permission="roles.read")) == [True]
    service.time += 10
    house.clock.advance(29)
    assert (await service.may(people[0], permission="roles.read")) == [True]
    house.clock.advance(1)
    assert (await service.may(people[0], permission="roles.read")) == [False]


async def test_who_has_no_role_is_asked_about_each_time(
    house: House, people: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """AUTHZ-4: the first assignment of a new user may still be on its way, and the question makes the copy look."""
    service = Service(house, monkeypatch)
    await service.may("user_nobody", *people)
    service.time += guard.TTL
    await service.may(people[0])
    assert service.asked == [people[0]]
    await service.may("user_nobody")
    assert service.asked == ["user_nobody"]
