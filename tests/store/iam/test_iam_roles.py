"""Roles: kept, told, refused (IAM-1, IAM-3, IAM-4)."""

from __future__ import annotations

import pytest

from taskman_sdk import codec, contract
from taskman_sdk.codec import FieldMask
from taskman_sdk.errors import (
    AbortedError,
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
)
from taskman_sdk.proto.taskman.iam.v1.iam_pb import (
    DeleteRoleRequest,
    DeleteRoleResponse,
    GetRoleRequest,
    ListPermissionsRequest,
    ListPermissionsResponse,
    ListRolesRequest,
    ListRolesResponse,
    Role,
    RoleEvent,
    UpdateRoleRequest,
)
from tests.store.iam.harness import House


async def listed(house: House, who: str, size: int = 0, text: str = "") -> list[str]:
    """The names on all pages."""
    names: list[str] = []
    token = ""
    while True:
        request = ListRolesRequest(page_size=size, page_token=token, filter=text)
        page = await house.call(who, "IamAdminService.ListRoles", request, ListRolesResponse)
        names += [role.name for role in page.roles]
        token = page.next_page_token
        if not token:
            return names
        assert len(page.roles) == size


async def test_a_role_lives_and_every_change_is_told_with_what_was_before(house: House) -> None:
    """IAM-1, IAM-4: created, read, changed under its etag, deleted; versions count up by one."""
    admin = await house.user("admin")
    house.events.clear()
    made = await house.role("lead", "tasks.*", "projects.read", "tasks.*", by=admin)
    assert made.permissions == ["tasks.*", "projects.read"]
    assert made.id.startswith("role_")
    assert not made.system
    got = await house.call(admin, "IamAdminService.GetRole", GetRoleRequest(role=made.id), Role)
    assert got == made
    change = UpdateRoleRequest(
        role=Role(id=made.id, description="Leads", permissions=["tasks.read"], etag=made.etag),
        update_mask=FieldMask(paths=["description"]),
    )
    house.clock.advance(1)
    changed = await house.call(admin, "IamAdminService.UpdateRole", change, Role)
    assert (changed.description, changed.permissions) == ("Leads", made.permissions)
    assert changed.etag != made.etag
    assert changed.update_time != made.update_time
    with pytest.raises(AbortedError) as stale:
        await house.call(admin, "IamAdminService.UpdateRole", change, Role)
    assert stale.value.reason == "ETAG_MISMATCH"
    drop = DeleteRoleRequest(role=made.id, etag=changed.etag)
    await house.call(admin, "IamAdminService.DeleteRole", drop, DeleteRoleResponse)
    with pytest.raises(NotFoundError):
        await house.call(admin, "IamAdminService.GetRole", GetRoleRequest(role=made.id), Role)
    await house.settle()
    told = [(e.name, e.actor, codec.from_value(RoleEvent, e.data)) for e in house.events if "iam.role" in e.name]
    assert [(name, actor) for name, actor, _ in told] == [
        ("iam.role.created", admin),
        ("iam.role.updated", admin),
        ("iam.role.deleted", admin),
    ]
    (_, _, created), (_, _, updated), (_, _, deleted) = told
    assert (created.role, created.before) == (made, None)
    assert (updated.role, updated.before) == (changed, made)
    assert deleted.role == changed
    assert [updated.version - created.version, deleted.version - updated.version] == [1, 1]


async def test_a_change_that_changes_nothing_is_no_change(house: House) -> None:
    """IAM-4: no event, no new etag."""
    made = await house.role("lead", "tasks.read")
    await house.settle()
    house.events.clear()
    request = UpdateRoleRequest(role=Role(id=made.id, permissions=["tasks.read"]))
    same = await house.call("service:test", "IamAdminService.UpdateRole", request, Role)
    await house.settle()
    assert same == made
    assert house.events == []


@pytest.mark.parametrize("name", ["admin", "member", "viewer"])
async def test_system_roles_are_there_for_everyone_and_for_nobody_to_change(house: House, name: str) -> None:
    """IAM-1: shown with `system`, and refused to an administrator's every change."""
    admin = await house.user("admin")
    role = await house.call(admin, "IamAdminService.GetRole", GetRoleRequest(role=name), Role)
    assert role.system
    assert role.etag
    change = UpdateRoleRequest(role=Role(id=name, permissions=["*"]))
    with pytest.raises(FailedPreconditionError) as refused:
        await house.call(admin, "IamAdminService.UpdateRole", change, Role)
    assert refused.value.reason == "SYSTEM_ROLE"
    with pytest.raises(FailedPreconditionError) as kept:
        await house.call(admin, "IamAdminService.DeleteRole", DeleteRoleRequest(role=name), DeleteRoleResponse)
    assert kept.value.reason == "SYSTEM_ROLE"
    with pytest.raises(AlreadyExistsError):
        await house.role(name, "tasks.read", by=admin)


async def test_pages_and_filters_count_system_roles_and_rows_alike(house: House) -> None:
    """IAM-1: nothing twice, nothing left out, whatever the page's size."""
    admin = await house.user("admin")
    for name in ("alpha", "beta", "gamma", "delta"):
        await house.role(name, "tasks.read", by=admin)
    everything = ["admin", "member", "viewer", "alpha", "beta", "gamma", "delta"]
    for size in (1, 2, 3, 4, 7, 50):
        assert await listed(house, admin, size) == everything
    assert await listed(house, admin, 2, "system") == everything[:3]
    assert await listed(house, admin, 2, "!system") == everything[3:]
    assert await listed(house, admin, 1, 'name.startsWith("m") || "tasks.read" in permissions') == [
        "member",
        *everything[3:],
    ]
    with pytest.raises(InvalidArgumentError) as wrong:
        await listed(house, admin, 2, "colour == 'red'")
    assert wrong.value.reason == "EXPRESSION_INVALID"
    page = await house.call(admin, "IamAdminService.ListRoles", ListRolesRequest(page_size=1), ListRolesResponse)
    other = ListRolesRequest(page_size=1, page_token=page.next_page_token, filter="system")
    with pytest.raises(InvalidArgumentError) as foreign:
        await house.call(admin, "IamAdminService.ListRoles", other, ListRolesResponse)
    assert foreign.value.reason == "PAGE_TOKEN_INVALID"


async def test_permissions_of_a_role_are_those_of_the_contract(house: House) -> None:
    """IAM-3: what the contract does not declare is refused with what was probably meant."""
    with pytest.raises(InvalidArgumentError) as wrong:
        await house.role("lead", "tasks.read", "tasks.udpate")
    assert wrong.value.reason == "PERMISSION_UNKNOWN"
    assert wrong.value.field_violations[0].field == "role.permissions[1]"
    assert "tasks.update" in wrong.value.message
    admin = await house.user("admin")
    answer = await house.call(
        admin, "IamAdminService.ListPermissions", ListPermissionsRequest(), ListPermissionsResponse
    )
    catalogue = {each.name: list(each.methods) for each in answer.permissions}
    assert catalogue.keys() >= contract.permissions().keys()
    assert catalogue["tasks.update"] == ["TaskService.UpdateTask"]


async def test_names_are_unique_and_a_used_one_stays(house: House) -> None:
    """IAM-1: neither deleted nor renamed while an assignment or a policy names it."""
    member = await house.user()
    lead = await house.role("lead", "tasks.read")
    spare = await house.role("spare")
    with pytest.raises(AlreadyExistsError) as taken:
        await house.role("lead")
    assert taken.value.reason == "ROLE_NAME_TAKEN"
    rename = UpdateRoleRequest(role=Role(id=spare.id, name="lead"))
    with pytest.raises(AlreadyExistsError):
        await house.call("service:test", "IamAdminService.UpdateRole", rename, Role)
    await house.assign(member, "lead")
    await house.policy("about-spare", ["tasks.read"], roles=["spare"])
    for role in (lead, spare):
        with pytest.raises(FailedPreconditionError) as used:
            await house.call(
                "service:test", "IamAdminService.DeleteRole", DeleteRoleRequest(role=role.id), DeleteRoleResponse
            )
        assert used.value.reason == "ROLE_IN_USE"
        request = UpdateRoleRequest(role=Role(id=role.id, name="other"))
        with pytest.raises(FailedPreconditionError):
            await house.call("service:test", "IamAdminService.UpdateRole", request, Role)


async def test_another_organization_sees_nothing(house: House) -> None:
    """IAM-1, tenancy: a role of one is not there for the other."""
    lead = await house.role("lead", "tasks.read")
    stranger = await house.user("admin", organization="org_two")
    with pytest.raises(NotFoundError):
        await house.call(
            stranger, "IamAdminService.GetRole", GetRoleRequest(role=lead.id), Role, organization="org_two"
        )
    page = await house.call(
        stranger, "IamAdminService.ListRoles", ListRolesRequest(), ListRolesResponse, organization="org_two"
    )
    assert [role.name for role in page.roles] == ["admin", "member", "viewer"]


async def test_members_have_no_part_in_it(house: House) -> None:
    """AUTHZ-1: only administrators touch roles."""
    member = await house.user()
    with pytest.raises(PermissionDeniedError):
        await house.role("mine", "tasks.read", by=member)
    with pytest.raises(PermissionDeniedError):
        await listed(house, member)


async def test_nobody_gives_what_they_do_not_hold(house: House) -> None:
    """IAM-1: with `roles.*` alone, a role with more cannot be made, grown or assigned."""
    await house.role("clerk", "roles.*", "assignments.*", "policies.*", "tasks.read")
    clerk = await house.user("clerk")
    mine = await house.role("reader", "tasks.read", by=clerk)
    with pytest.raises(PermissionDeniedError) as made:
        await house.role("god", "*", by=clerk)
    assert made.value.reason == "PRIVILEGE_ESCALATION"
    assert "users.create" in made.value.metadata["missing"].split(", ")
    request = UpdateRoleRequest(role=Role(id=mine.id, permissions=["tasks.read", "users.create"]))
    with pytest.raises(PermissionDeniedError) as grown:
        await house.call(clerk, "IamAdminService.UpdateRole", request, Role)
    assert grown.value.metadata["missing"] == "users.create"
    with pytest.raises(PermissionDeniedError):
        await house.assign(clerk, "admin", by=clerk)
    with pytest.raises(PermissionDeniedError):
        await house.policy("grant-all", ["*"], by=clerk)
    await house.assign(clerk, "reader", by=clerk)
    # a policy that grants to a role comes with the role
    boss = await house.role("boss")
    await house.policy("bosses", ["users.create"], roles=["boss"])
    with pytest.raises(PermissionDeniedError) as assigned:
        await house.assign(clerk, boss.name, by=clerk)
    assert assigned.value.metadata["missing"] == "users.create"
