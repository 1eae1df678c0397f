"""Decisions on the real services: what plans come to, and why (AUTHZ-1, AUTHZ-2, AUTHZ-5, AUTHZ-6)."""

from __future__ import annotations

from datetime import timedelta

import pytest

from taskman_sdk import codec
from taskman_sdk.codec import Timestamp
from taskman_sdk.errors import InvalidArgumentError, PermissionDeniedError
from taskman_sdk.proto.taskman.authorization.v1.authorization_pb import (
    AuthorizationDenied,
    PlanKind,
    ReportDenialRequest,
    ReportDenialResponse,
)
from taskman_server.kit.ids import new_id
from tests.store.iam.harness import House


async def test_admins_may_everything_and_members_what_their_projects_allow(house: House) -> None:
    """AUTHZ-2, IAM-1: the system's roles and policies, as plans."""
    admin, member = await house.user("admin"), await house.user()
    for permission in ("tasks.delete", "users.create", "audit.read", "authz.check"):
        assert (await house.plan(admin, permission)).kind is PlanKind.ALWAYS_ALLOWED
        assert (await house.plan(member, permission)).kind is not PlanKind.ALWAYS_ALLOWED
    assert (await house.plan(member, "projects.create")).kind is PlanKind.ALWAYS_ALLOWED
    assert (await house.plan(member, "webhooks.read")).kind is PlanKind.ALWAYS_DENIED
    plan = await house.plan(member, "tasks.read")
    assert plan.kind is PlanKind.CONDITIONAL
    assert "resource.members" in plan.condition
    assert plan.roles == ["member"]
    assert plan.version > 0


async def test_a_check_says_which_role_or_policy_decided(house: House) -> None:
    """AUTHZ-6: the deciding policy or role, or what is missing."""
    admin, member = await house.user("admin"), await house.user()
    await house.policy("no-urgent", ["tasks.delete"], 'resource.priority == "urgent"', deny=True)
    await house.settle()
    by_role = await house.check(admin, "tasks.delete", priority="low")
    assert by_role.allowed
    assert "role 'admin'" in by_role.explanation
    denied = await house.check(admin, "tasks.delete", priority="urgent")
    assert not denied.allowed
    assert "policy 'no-urgent' denies" in denied.explanation
    by_policy = await house.check(member, "tasks.delete", priority="low", editors=[member])
    assert by_policy.allowed
    assert "policy 'editors'" in by_policy.explanation
    unmet = await house.check(member, "tasks.delete", priority="low", editors=["user_x"])
    assert not unmet.allowed
    assert "'editors' (its condition does not hold)" in unmet.explanation
    missing = await house.check(member, "tasks.update")
    assert not missing.allowed
    assert "resource.editors" in missing.explanation
    doubt = await house.check(admin, "tasks.delete")
    assert not doubt.allowed
    assert "cannot be decided" in doubt.explanation
    nothing = await house.check(member, "audit.read")
    assert not nothing.allowed
    assert "nothing grants 'audit.read'" in nothing.explanation


async def test_only_known_fields_count_and_never_the_organization(house: House) -> None:
    """AUTHZ-1: what the contract does not know of a resource cannot decide, and the tenant is the token's."""
    await house.policy("home", ["tasks.update"], 'principal.organization == "org_two"')
    member = await house.user()
    assert not (await house.check(member, "tasks.update", organization="org_two", principal_organization="x")).allowed
    assert not (await house.check(member, "tasks.update", editors=member)).allowed  # no list
    assert not (await house.check(member, "tasks.update", editors=[{"id": member}])).allowed


async def test_one_asks_about_oneself_and_others_take_a_permission(house: House) -> None:
    """AUTHZ-1: `authz.check`, which can be granted to a role of one's own; a refusal is on record."""
    member, other = await house.user(), await house.user()
    assert (await house.check(member, "projects.create", member)).allowed
    house.events.clear()
    with pytest.raises(PermissionDeniedError) as refused:
        await house.check(member, "projects.create", other)
    assert refused.value.metadata == {"permission": "authz.check"}
    await house.settle()
    (told,) = house.named("authz.denied")
    assert (told.actor, told.result) == (member, "denied")
    await house.role("auditor", "authz.check")
    auditor = await house.user("auditor")
    assert (await house.check(auditor, "projects.create", other)).allowed
    assert (await house.plan("service:tasks", "projects.create", other)).kind is PlanKind.ALWAYS_ALLOWED
    with pytest.raises(InvalidArgumentError):
        await house.plan("service:tasks", "projects.create")


async def test_a_permission_that_is_none_is_refused(house: House) -> None:
    """IAM-3: with what was probably meant."""
    member = await house.user()
    with pytest.raises(InvalidArgumentError) as wrong:
        await house.plan(member, "task.read")
    assert wrong.value.reason == "PERMISSION_UNKNOWN"
    assert "tasks.read" in wrong.value.message


async def test_an_assignment_counts_until_it_ends(house: House) -> None:
    """IAM-1: no event tells of the end; the decision looks at the clock."""
    member = await house.user()
    until = Timestamp.from_datetime(house.clock.now() + timedelta(seconds=60))
    await house.assign(member, "admin", expire_time=until)
    await house.settle()
    assert (await house.plan(member, "users.create")).kind is PlanKind.ALWAYS_ALLOWED
    house.clock.advance(59.5)
    assert (await house.plan(member, "users.create")).kind is PlanKind.ALWAYS_ALLOWED
    house.clock.advance(0.5)
    plan = await house.plan(member, "users.create")
    assert plan.kind is PlanKind.ALWAYS_DENIED
    assert plan.roles == ["member"]


async def test_somebody_unknown_may_nothing_but_what_everyone_may(house: House) -> None:
    """AUTHZ-1: deny by default."""
    await house.user()
    nobody = new_id("user")
    assert (await house.plan(nobody, "tasks.read")).kind is PlanKind.ALWAYS_DENIED
    assert (await house.check(nobody, "users.update", id=nobody)).allowed
    assert not (await house.check(nobody, "users.update", id="user_x")).allowed
    assert "no role" in (await house.check(nobody, "tasks.read")).explanation


async def test_a_reported_denial_is_an_event(house: House) -> None:
    """AUDIT-1: who, what, with which permission; users cannot report."""
    member = await house.user()
    request = ReportDenialRequest(
        permission="tasks.delete", resource_type="tasks", resource="task_1", method="TaskService.DeleteTask"
    )
    await house.call("service:tasks", "AuthorizationService.ReportDenial", request, ReportDenialResponse)
    await house.settle()
    (event,) = house.named("authz.denied")
    assert (event.subject, event.result, event.actor) == ("task_1", "denied", "service:tasks")
    assert codec.from_value(AuthorizationDenied, event.data).permission == "tasks.delete"
    with pytest.raises(PermissionDeniedError):
        await house.call(member, "AuthorizationService.ReportDenial", request, ReportDenialResponse)
