"""The copy converges with IAM, whatever happens to events on their way (AUTHZ-4, EVENT-1)."""

from __future__ import annotations

import random
from typing import Any

import pytest
import sqlalchemy as sa

from taskman_sdk import codec
from taskman_sdk.errors import UnavailableError
from taskman_sdk.proto.taskman.authorization.v1.authorization_pb import PlanKind
from taskman_sdk.proto.taskman.iam.v1.iam_pb import (
    AssignmentEvent,
    DeleteAssignmentRequest,
    DeleteAssignmentResponse,
    DeletePolicyRequest,
    DeletePolicyResponse,
    DeleteRoleRequest,
    DeleteRoleResponse,
    GetSnapshotRequest,
    PolicyEvent,
    ProvisionPrincipalRequest,
    ProvisionPrincipalResponse,
    Role,
    RoleEvent,
    Snapshot,
    UpdateRoleRequest,
)
from taskman_server.kit.ids import new_id
from taskman_server.kit.outbox import Event
from taskman_server.services.authorization.copy import Copy
from taskman_server.services.authorization.store import POLICIES, ROLES, AuthorizationStore
from taskman_server.services.iam.store import ASSIGNMENTS as GIVEN
from taskman_server.services.iam.store import ORGANIZATIONS
from tests.store.iam.harness import ORGANIZATION, House, until

SNAPSHOT = "IamAdminService.GetSnapshot"


async def content(house: House) -> Any:
    """What the copy holds, apart from the system's own."""
    database = house.runtimes["authorization"].db
    store = AuthorizationStore(database)
    book = await store.rulebook(ORGANIZATION)
    roles = {name: value for name, value in book.roles.items() if name not in ("admin", "member", "viewer")}
    policies = sorted(p.name for p in book.policies if p.name not in _SYSTEM)
    snapshot = await house.call("service:test", SNAPSHOT, GetSnapshotRequest(organization=ORGANIZATION), Snapshot)
    principals = {each.principal for each in snapshot.assignments}
    held = {name: sorted(role for role, _ in await store.held(ORGANIZATION, name)) for name in principals}
    return roles, policies, held


_SYSTEM = {"readers", "editors", "project-admins", "own-profile"}


async def truth(house: House) -> Any:
    """The same by IAM."""
    snapshot = await house.call("service:test", SNAPSHOT, GetSnapshotRequest(organization=ORGANIZATION), Snapshot)
    held: dict[str, list[str]] = {}
    for each in snapshot.assignments:
        held.setdefault(each.principal, []).append(each.role)
    return (
        {role.name: tuple(role.permissions) for role in snapshot.roles if not role.system},
        sorted(policy.name for policy in snapshot.policies if not policy.system),
        {name: sorted(roles) for name, roles in held.items()},
    )


async def history(house: House) -> list[Event]:
    """A few changes of everything; their events, which the copy has not seen."""
    users = [await house.user() for _ in range(3)]
    await house.consumers["authorization.iam"].stop()
    house.events.clear()
    kept = await house.role("kept", "tasks.read")
    lost = await house.role("lost", "tasks.*")
    change = UpdateRoleRequest(role=Role(id=kept.id, permissions=["users.create"]))
    await house.call("service:test", "IamAdminService.UpdateRole", change, Role)
    policy = await house.policy("short", ["tasks.read"])
    await house.policy("long", ["tasks.read"], deny=True, roles=["viewer"])
    drop = DeletePolicyRequest(policy=policy.id)
    await house.call("service:test", "IamAdminService.DeletePolicy", drop, DeletePolicyResponse)
    for user in users:
        await house.assign(user, "kept")
    given = await house.assign(users[0], "lost")
    take = DeleteAssignmentRequest(assignment=given.id)
    await house.call("service:test", "IamAdminService.DeleteAssignment", take, DeleteAssignmentResponse)
    await house.call("service:test", "IamAdminService.DeleteRole", DeleteRoleRequest(role=lost.id), DeleteRoleResponse)

    async def published() -> bool:
        return not await house.relays["iam"].pending()

    await until(published)
    return [event for event in house.events if event.name.startswith("iam.")]


async def apply(copy: Copy, house: House, event: Event) -> None:
    """As the consumer does, for an event that comes by another way."""
    kinds = {"role": RoleEvent, "policy": PolicyEvent, "assignment": AssignmentEvent}
    kind = event.name.split(".")[1]
    data = codec.from_value(kinds[kind], event.data)
    async with house.runtimes["authorization"].db.transaction() as tx:
        await copy.apply(
            tx, event.organization, getattr(data, kind), data.version, gone=event.name.endswith(".deleted")
        )


@pytest.mark.parametrize("seed", range(6))
async def test_in_any_order_and_any_number_events_come_to_the_same(house: House, seed: int) -> None:
    """AUTHZ-4: shuffled and doubled events make what IAM has, without a snapshot."""
    events = await history(house)
    assert len(events) == 12
    doubled = events + random.Random(seed).sample(events, 5)
    random.Random(seed).shuffle(doubled)
    copy = Copy(house.runtimes["authorization"])
    for event in doubled:
        await apply(copy, house, event)
    assert await content(house) == await truth(house)
    state = await AuthorizationStore(house.runtimes["authorization"].db).state(ORGANIZATION)
    assert state is not None
    assert state.ahead == ()
    left = await house.runtimes["authorization"].db.fetch_all(_gone())
    assert left == []


def _gone() -> Any:
    return sa.union_all(
        sa.select(ROLES.c.id).where(ROLES.c.gone == sa.true()),
        sa.select(POLICIES.c.id).where(POLICIES.c.gone == sa.true()),
    )


@pytest.mark.parametrize("seed", range(4))
async def test_a_lost_event_is_made_good_by_a_snapshot(house: House, seed: int) -> None:
    """AUTHZ-4: a gap in the versions is noticed; what arrives late afterwards undoes nothing."""
    events = await history(house)
    dice = random.Random(seed)
    shuffled = dice.sample(events, len(events))
    lost, rest = shuffled[:3], shuffled[3:]
    copy = Copy(house.runtimes["authorization"])
    for event in rest:
        await apply(copy, house, event)
    assert await copy.has_gap(ORGANIZATION)
    await copy.refresh(ORGANIZATION)
    assert not await copy.has_gap(ORGANIZATION)
    assert await content(house) == await truth(house)
    for event in lost:
        await apply(copy, house, event)
    assert await content(house) == await truth(house)


async def test_a_gap_is_filled_without_anybody_asking(house: House) -> None:
    """AUTHZ-4: the keeper takes a snapshot when events do not come."""
    user = await house.user()
    await house.plan(user, "tasks.read")
    events = await history(house)
    copy: Copy = house.consumers["authorization.iam"]._subscription.handler.__self__._copy  # type: ignore[attr-defined]
    await apply(copy, house, events[-1])
    assert await copy.has_gap(ORGANIZATION)

    async def filled() -> bool:
        return not await copy.has_gap(ORGANIZATION)

    await until(filled)
    assert await content(house) == await truth(house)


async def test_a_change_works_as_soon_as_its_event_is_there(house: House) -> None:
    """AUTHZ-4: a role grows, a policy denies, an assignment goes; each in the very next decision."""
    await house.role("lead", "tasks.read")
    user = await house.user("lead")
    assert (await house.plan(user, "users.create")).kind is PlanKind.ALWAYS_DENIED
    asked = house.lines["iam"].calls[SNAPSHOT]
    grown = await house.role("grown", "users.create")
    given = await house.assign(user, "grown")
    await house.settle()
    first = await house.plan(user, "users.create")
    assert first.kind is PlanKind.ALWAYS_ALLOWED
    change = UpdateRoleRequest(role=Role(id=grown.id, permissions=["users.deactivate"]))
    await house.call("service:test", "IamAdminService.UpdateRole", change, Role)
    await house.settle()
    second = await house.plan(user, "users.create")
    assert second.kind is PlanKind.ALWAYS_DENIED
    assert second.version == first.version + 1
    await house.policy("stop", ["tasks.read"], roles=["lead"], deny=True)
    await house.settle()
    assert (await house.plan(user, "tasks.read")).kind is PlanKind.ALWAYS_DENIED
    take = DeleteAssignmentRequest(assignment=given.id)
    await house.call("service:test", "IamAdminService.DeleteAssignment", take, DeleteAssignmentResponse)
    await house.settle()
    assert (await house.plan(user, "users.deactivate")).kind is PlanKind.ALWAYS_DENIED
    assert house.lines["iam"].calls[SNAPSHOT] == asked


async def test_right_after_sign_up_the_role_is_there_before_its_event(house: House) -> None:
    """AUTHZ-4, USER-1: who has no role here is looked up at IAM, but not over and over."""
    await house.user()
    await house.consumers["authorization.iam"].stop()
    user = await unheard_user(house)
    assert (await house.plan(user, "projects.create")).kind is PlanKind.ALWAYS_ALLOWED
    nobody = "user_nobody"
    asked = house.lines["iam"].calls[SNAPSHOT]
    for _ in range(20):
        assert (await house.plan(nobody, "projects.create")).kind is PlanKind.ALWAYS_DENIED
    assert house.lines["iam"].calls[SNAPSHOT] == asked + 1
    house.clock.advance(1.1)
    await house.plan(nobody, "projects.create")
    assert house.lines["iam"].calls[SNAPSHOT] == asked + 2


async def unheard_user(house: House) -> str:
    """A user whose assignment IAM has made, and Authorization has not heard of."""
    user = new_id("user")
    request = ProvisionPrincipalRequest(principal=user, organization=ORGANIZATION)
    await house.call(
        "service:authentication", "IamAdminService.ProvisionPrincipal", request, ProvisionPrincipalResponse
    )
    return user


async def test_without_iam_known_rights_hold_and_unknown_ones_are_refused(house: House) -> None:
    """AUTHZ-1, AUTHZ-4: an unreachable service denies; the copy decides on."""
    user = await house.user()
    house.lines["iam"].cut = True
    with pytest.raises(UnavailableError) as unknown:
        await house.plan(user, "projects.create")
    assert unknown.value.reason == "RIGHTS_UNKNOWN"
    house.lines["iam"].cut = False
    assert (await house.plan(user, "projects.create")).kind is PlanKind.ALWAYS_ALLOWED
    house.lines["iam"].cut = True
    assert (await house.plan(user, "projects.create")).kind is PlanKind.ALWAYS_ALLOWED
    assert (await house.plan("user_nobody", "projects.create")).kind is PlanKind.ALWAYS_DENIED
    # another process on the same copy, started while IAM is away
    copy = Copy(house.runtimes["authorization"])
    standing = await copy.standing(ORGANIZATION, user)
    assert copy.plan(standing, "projects.create").kind == "allowed"


async def test_iam_put_back_from_a_backup_is_believed(house: House) -> None:
    """AUTHZ-4: a copy that knows more than its source is wrong, not ahead."""
    user = await house.user()
    await house.plan(user, "tasks.read")
    iam = house.runtimes["iam"].db
    await iam.execute(sa.update(ORGANIZATIONS).values(version=0))
    await iam.execute(sa.delete(GIVEN))
    copy = Copy(house.runtimes["authorization"])
    assert (await copy.standing(ORGANIZATION, user)).roles == ()
    state = await AuthorizationStore(house.runtimes["authorization"].db).state(ORGANIZATION)
    assert state is not None
    assert state.version == 0
