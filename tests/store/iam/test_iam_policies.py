"""Policies: checked when they are saved (AUTHZ-2, AUTHZ-3, IAM-1)."""

from __future__ import annotations

import pytest

from taskman_sdk import codec
from taskman_sdk.codec import FieldMask
from taskman_sdk.errors import (
    AbortedError,
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    PermissionDeniedError,
)
from taskman_sdk.proto.taskman.iam.v1.iam_pb import (
    CreatePolicyRequest,
    DeletePolicyRequest,
    DeletePolicyResponse,
    Effect,
    GetPolicyRequest,
    ListPoliciesRequest,
    ListPoliciesResponse,
    Policy,
    PolicyEvent,
    UpdatePolicyRequest,
)
from tests.store.iam.harness import House

URGENT = 'resource.priority == "urgent"'


async def test_a_policy_lives_and_every_change_is_told(house: House) -> None:
    """IAM-1, IAM-4: the events carry the policy, the one before, and the version."""
    admin = await house.user("admin")
    house.events.clear()
    made = await house.policy("no-rush", ["tasks.delete"], URGENT, roles=["member"], deny=True, by=admin)
    assert made.id.startswith("policy_")
    request = UpdatePolicyRequest(
        policy=Policy(id=made.id, condition="", etag=made.etag), update_mask=FieldMask(paths=["condition"])
    )
    changed = await house.call(admin, "IamAdminService.UpdatePolicy", request, Policy)
    assert (changed.condition, changed.effect, changed.roles) == ("", Effect.DENY, ["member"])
    with pytest.raises(AbortedError):
        await house.call(admin, "IamAdminService.UpdatePolicy", request, Policy)
    got = await house.call(admin, "IamAdminService.GetPolicy", GetPolicyRequest(policy=made.id), Policy)
    assert got == changed
    drop = DeletePolicyRequest(policy=made.id, etag=changed.etag)
    await house.call(admin, "IamAdminService.DeletePolicy", drop, DeletePolicyResponse)
    await house.settle()
    told = [codec.from_value(PolicyEvent, event.data) for event in house.events if "iam.policy" in event.name]
    assert [event.name for event in house.events if "iam.policy" in event.name] == [
        "iam.policy.created",
        "iam.policy.updated",
        "iam.policy.deleted",
    ]
    assert [each.policy for each in told] == [made, changed, changed]
    assert [each.before for each in told] == [None, made, changed]
    assert [each.version - told[0].version for each in told] == [0, 1, 2]


@pytest.mark.parametrize(
    ("condition", "permissions", "where"),
    [
        ("resource.colour == 'red'", ["tasks.read"], "column 1"),
        ("resource.priority ==", ["tasks.read"], "column"),
        ("resource.priority", ["tasks.update"], "string"),
        ("resource.members.exists(m, m == principal.id)", ["users.read"], "users.read"),
        ("principal.id in resource.assignees", ["tasks.*", "projects.read"], "projects.read"),
        ("resource.id == principal.id && resource.visibility == 'x'", ["*"], "visibility"),
        ("resource.id.matches(principal.id)", ["tasks.read"], "matches"),
        ("resource.labels.map(l, l + 'x') == ['a']", ["tasks.read"], "tasks.read"),
        ("   ", ["tasks.read"], "empty"),
        ("true", ["authz.check"], "no resource"),
    ],
)
async def test_a_condition_that_cannot_be_used_is_refused_when_it_is_saved(
    house: House, condition: str, permissions: list[str], where: str
) -> None:
    """AUTHZ-3: grammar, names, types, cost, and whether lists can be filtered by it, for every permission named."""
    with pytest.raises(InvalidArgumentError) as refused:
        await house.policy("wrong", permissions, condition)
    assert refused.value.reason == "EXPRESSION_INVALID"
    (violation,) = refused.value.field_violations
    assert violation.field == "policy.condition"
    assert where in refused.value.message


@pytest.mark.parametrize(
    "condition",
    [
        " || ".join(["resource.id == 'x'"] * 200),
        " && ".join(f'resource.id != "{i}"' for i in range(150)),
        "(" * 300 + "true" + ")" * 300,
        "resource.labels.exists(a, resource.labels.exists(b, resource.labels.exists(c, a == b + c)))",
        "resource.id.matches('((a{50}){50}){50}')",
        "resource.id" + " + resource.id" * 100 + " == ''",
        "true) || (true",
        'true // "',
    ],
)
async def test_a_hostile_condition_is_refused_and_harms_nothing(house: House, condition: str) -> None:
    """AUTHZ-3: neither the size, the depth nor the tricks of an expression stall the service or widen a policy."""
    if condition == 'true // "':
        made = await house.policy("comment", ["tasks.read"], condition)
        await house.policy("never", ["tasks.read"], "false", deny=True)
        await house.settle()
        member = await house.user()
        assert made.condition == condition
        assert (await house.check(member, "tasks.read", id="t")).allowed
        return
    with pytest.raises(InvalidArgumentError) as refused:
        await house.policy("hostile", ["tasks.*"], condition)
    assert refused.value.field_violations[0].field == "policy.condition"
    assert len(refused.value.message) < 5000
    assert (await house.policy("fine", ["tasks.*"], URGENT)).condition == URGENT


async def test_what_a_policy_must_say(house: House) -> None:
    """IAM-1: a name, an effect, permissions that exist, roles that exist."""
    request = CreatePolicyRequest(policy=Policy(name="p", permissions=["tasks.read"]))
    with pytest.raises(InvalidArgumentError) as effect:
        await house.call("service:test", "IamAdminService.CreatePolicy", request, Policy)
    assert effect.value.field_violations[0].field == "policy.effect"
    with pytest.raises(InvalidArgumentError) as permissions:
        await house.policy("p", [])
    assert permissions.value.field_violations[0].field == "policy.permissions"
    with pytest.raises(InvalidArgumentError) as name:
        await house.policy("", ["tasks.read"])
    assert name.value.field_violations[0].field == "policy.name"
    with pytest.raises(InvalidArgumentError) as unknown:
        await house.policy("p", ["taks.read"])
    assert "tasks.read" in unknown.value.message
    with pytest.raises(InvalidArgumentError) as role:
        await house.policy("p", ["tasks.read"], roles=["membr"])
    assert role.value.reason == "ROLE_UNKNOWN"
    assert "'membr'" in role.value.message
    assert "member" in role.value.message
    await house.policy("p", ["tasks.read"])
    with pytest.raises(AlreadyExistsError):
        await house.policy("p", ["tasks.read"])


async def test_system_policies_are_fixed(house: House) -> None:
    """IAM-1: listed first, with `system`; no change, no deletion, no namesake."""
    admin = await house.user("admin")
    await house.policy("extra", ["tasks.read"], deny=True, roles=["viewer"])
    page = await house.call(admin, "IamAdminService.ListPolicies", ListPoliciesRequest(), ListPoliciesResponse)
    names = [policy.name for policy in page.policies]
    assert names == ["readers", "editors", "project-admins", "own-profile", "extra"]
    for text, expected in (
        ('effect == "EFFECT_DENY"', ["extra"]),
        ("system && 'viewer' in roles", ["readers"]),
        ("!system", ["extra"]),
    ):
        request = ListPoliciesRequest(filter=text)
        found = await house.call(admin, "IamAdminService.ListPolicies", request, ListPoliciesResponse)
        assert [policy.name for policy in found.policies] == expected
    change = UpdatePolicyRequest(policy=Policy(id="readers", condition="true"))
    with pytest.raises(FailedPreconditionError) as fixed:
        await house.call(admin, "IamAdminService.UpdatePolicy", change, Policy)
    assert fixed.value.reason == "SYSTEM_POLICY"
    with pytest.raises(FailedPreconditionError):
        await house.call(
            admin, "IamAdminService.DeletePolicy", DeletePolicyRequest(policy="editors"), DeletePolicyResponse
        )
    with pytest.raises(AlreadyExistsError):
        await house.policy("readers", ["tasks.read"])


async def test_administrators_keep_the_way_back(house: House) -> None:
    """AUTHZ-2: a denial of everything to everyone could not be undone by anybody."""
    with pytest.raises(FailedPreconditionError) as lockout:
        await house.policy("stop", ["*"], deny=True)
    assert lockout.value.reason == "ADMIN_LOCKOUT"
    with pytest.raises(FailedPreconditionError):
        await house.policy("stop", ["policies.*"], "resource.name != ''", roles=["admin"], deny=True)
    await house.policy("stop", ["*"], deny=True, roles=["member", "viewer"])


async def test_policies_that_are_fine_alone_but_too_much_together_are_refused(house: House) -> None:
    """AUTHZ-3: what would make every decision impossible is refused when it is saved."""
    for index in range(3):
        await house.policy(f"p{index}", ["tasks.update"], f'resource.id.matches("{index}a{{80}}")')
    with pytest.raises(FailedPreconditionError) as refused:
        await house.policy("p3", ["tasks.update", "tasks.delete"], 'resource.id.matches("3a{80}")')
    assert refused.value.reason == "POLICIES_TOO_COMPLEX"
    assert refused.value.metadata == {"permission": "tasks.update"}
    await house.policy("p3", ["tasks.delete"], 'resource.id.matches("3a{80}")')
    member = await house.user()
    assert (await house.check(member, "tasks.update", id="0" + "a" * 80, editors=[])).allowed


async def test_undoing_a_denial_gives_what_it_took(house: House) -> None:
    """IAM-1: whoever is denied something cannot delete or soften the policy that denies it."""
    await house.role("clerk", "policies.*", "tasks.read")
    clerk = await house.user("clerk")
    denial = await house.policy("no-exports", ["tasks.export"], roles=["clerk"], deny=True)
    await house.settle()
    drop = DeletePolicyRequest(policy=denial.id)
    with pytest.raises(PermissionDeniedError) as refused:
        await house.call(clerk, "IamAdminService.DeletePolicy", drop, DeletePolicyResponse)
    assert refused.value.reason == "PRIVILEGE_ESCALATION"
    soften = UpdatePolicyRequest(policy=Policy(id=denial.id, condition="false"))
    with pytest.raises(PermissionDeniedError):
        await house.call(clerk, "IamAdminService.UpdatePolicy", soften, Policy)
    rename = UpdatePolicyRequest(policy=Policy(id=denial.id, description="Exports are for admins"))
    assert (await house.call(clerk, "IamAdminService.UpdatePolicy", rename, Policy)).description


async def test_denying_needs_what_is_denied(house: House) -> None:
    """IAM-1: a denial takes from others; whoever does not hold the permission has no say in it."""
    await house.role("clerk", "policies.*", "tasks.read")
    clerk = await house.user("clerk")
    with pytest.raises(PermissionDeniedError) as refused:
        await house.policy("no-exports", ["tasks.export"], roles=["member"], deny=True, by=clerk)
    assert (refused.value.reason, refused.value.metadata["missing"]) == ("PRIVILEGE_ESCALATION", "tasks.export")
    assert "denies" in refused.value.message
    made = await house.policy("no-reads", ["tasks.read"], roles=["viewer"], deny=True, by=clerk)
    wider = UpdatePolicyRequest(policy=Policy(id=made.id, permissions=["tasks.read", "tasks.export"]))
    with pytest.raises(PermissionDeniedError):
        await house.call(clerk, "IamAdminService.UpdatePolicy", wider, Policy)
    shorter = UpdatePolicyRequest(policy=Policy(id=made.id, condition=URGENT))
    assert (await house.call(clerk, "IamAdminService.UpdatePolicy", shorter, Policy)).condition == URGENT


async def test_only_administrators_deny_something_to_administrators_or_everyone(house: House) -> None:
    """IAM-1: not even what the author holds."""
    await house.role("clerk", "policies.*", "tasks.read")
    clerk, admin = await house.user("clerk"), await house.user("admin")
    for roles in ([], ["admin"], ["viewer", "admin"]):
        with pytest.raises(PermissionDeniedError) as refused:
            await house.policy("no-reads", ["tasks.read"], roles=roles, deny=True, by=clerk)
        assert refused.value.reason == "ADMIN_NEEDED"
    made = await house.policy("no-reads", ["tasks.read"], roles=["viewer"], deny=True, by=clerk)
    for policy, paths in (
        (Policy(id=made.id), ["roles"]),
        (Policy(id=made.id, roles=["viewer", "admin"]), ["roles"]),
    ):
        request = UpdatePolicyRequest(policy=policy, update_mask=FieldMask(paths=paths))
        with pytest.raises(PermissionDeniedError):
            await house.call(clerk, "IamAdminService.UpdatePolicy", request, Policy)
    assert (await house.policy("none-reads", ["tasks.read"], "false", deny=True, by=admin)).roles == []
    assert (await house.policy("all-read", ["tasks.read"], by=clerk)).roles == []
