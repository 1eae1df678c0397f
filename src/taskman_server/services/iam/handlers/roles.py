"""Roles."""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa

from taskman_sdk import codec
from taskman_sdk.errors import AlreadyExistsError
from taskman_sdk.proto.taskman.iam.v1.iam_pb import (
    CreateRoleRequest,
    DeleteRoleRequest,
    DeleteRoleResponse,
    GetRoleRequest,
    ListPermissionsRequest,
    ListPermissionsResponse,
    ListRolesRequest,
    ListRolesResponse,
    Permission,
    Role,
    RoleEvent,
    UpdateRoleRequest,
)
from taskman_server.kit import filters, permissions
from taskman_server.kit.db import Transaction, UniqueViolation
from taskman_server.kit.ids import new_id
from taskman_server.kit.masks import changed_paths
from taskman_server.kit.rpc import Call
from taskman_server.kit.rpc.call import not_found, precondition
from taskman_server.services.iam import defaults, rules
from taskman_server.services.iam.convert import resource_of, role_of
from taskman_server.services.iam.handlers.base import Base, Listing
from taskman_server.services.iam.store import ROLES, columns_of

__all__ = ["RoleHandlers"]

MUTABLE: Final = ("name", "description", "permissions")
FILTERED: Final = ("id", "name", "description", "permissions", "system")


def values_of(message: codec.Message[Any]) -> dict[str, Any]:
    """A message as a filter sees it."""
    return {name: getattr(message, name) for name in FILTERED}


LISTING: Final = Listing(
    table=ROLES,
    environment=filters.list_environment(Role),
    columns=columns_of(ROLES),
    resource={"resource.id": ROLES.c.id, "resource.name": ROLES.c.name, "resource.principal": sa.literal("")},
    system=defaults.ROLES,
    message_of=role_of,
    # they were never made, so they have no time
    values_of=lambda role: {**values_of(role), "create_time": None, "update_time": None},
    resource_of=resource_of,
)


class RoleHandlers(Base):
    """The RPCs about roles, and the catalogue of permissions."""

    async def create_role(self, request: CreateRoleRequest, call: Call) -> Role:
        """See the contract."""
        assert request.role is not None
        wanted = request.role
        role = Role(
            id=new_id("role"),
            name=wanted.name,
            description=wanted.description,
            permissions=list(dict.fromkeys(wanted.permissions)),
        )
        await call.authorize({**resource_of(role), "id": ""})
        _check(role)
        organization = call.principal.organization
        given = rules.given_by_role(role, await self._policies(organization))
        await self._check_may_give(call, given, f"The role {role.name!r}")
        tx = await call.begin()
        await self.store.lock(tx, organization)
        now = call.now
        try:
            await self.store.add(
                ROLES,
                tx,
                id=role.id,
                organization=organization,
                name=role.name,
                description=role.description,
                permissions=role.permissions,
                revision=1,
                create_time=now,
                update_time=now,
            )
        except UniqueViolation:
            raise _taken(role.name) from None
        return await self._changed_role(tx, call, "iam.role.created", role.id)

    async def get_role(self, request: GetRoleRequest, call: Call) -> Role:
        """See the contract."""
        role = await self._role(request.role, call)
        await call.authorize(resource_of(role), hidden=not_found("role", request.role), read_permission="roles.read")
        return role

    async def update_role(self, request: UpdateRoleRequest, call: Call) -> Role:
        """See the contract."""
        assert request.role is not None
        wanted = request.role
        await self._own_role(wanted.id, call, "change")
        paths = changed_paths(wanted, request.update_mask, MUTABLE, "role")
        organization = call.principal.organization
        if "permissions" in paths:
            _check(_merged(await self._role(wanted.id, call), wanted, paths))
            await self._check_may_give(call, permissions.expand(wanted.permissions), "The changed role")
        tx = await call.begin()
        await self.store.lock(tx, organization)
        row = await self.store.get(ROLES, organization, wanted.id, tx)
        if row is None:
            raise not_found("role", wanted.id)
        before = role_of(row)
        call.check_etag(wanted.etag, before.etag, f"The role {before.name!r}")
        after = _merged(before, wanted, paths)
        if after == before:
            return before
        _check(after)
        if after.name != before.name:
            await self._check_unused(tx, organization, before.name, "renamed")
        try:
            await self.store.change(
                ROLES,
                tx,
                organization,
                row.id,
                name=after.name,
                description=after.description,
                permissions=after.permissions,
                revision=row.revision + 1,
                update_time=call.now,
            )
        except UniqueViolation:
            raise _taken(after.name) from None
        return await self._changed_role(tx, call, "iam.role.updated", row.id, before)

    async def delete_role(self, request: DeleteRoleRequest, call: Call) -> DeleteRoleResponse:
        """See the contract."""
        await self._own_role(request.role, call, "delete")
        organization = call.principal.organization
        tx = await call.begin()
        await self.store.lock(tx, organization)
        row = await self.store.get(ROLES, organization, request.role, tx)
        if row is None:
            raise not_found("role", request.role)
        role = role_of(row)
        call.check_etag(request.etag, role.etag, f"The role {role.name!r}")
        await self._check_unused(tx, organization, role.name, "deleted")
        await self.store.drop(ROLES, tx, organization, row.id)
        version = await self.store.count_up(tx, organization)
        await call.emit(tx, "iam.role.deleted", RoleEvent(role=role, before=role, version=version), subject=role.id)
        return DeleteRoleResponse()

    async def list_roles(self, request: ListRolesRequest, call: Call) -> ListRolesResponse:
        """See the contract."""
        roles, token = await self._list(LISTING, request, call)
        return ListRolesResponse(roles=roles, next_page_token=token)

    async def list_permissions(self, request: ListPermissionsRequest, call: Call) -> ListPermissionsResponse:
        """See the contract."""
        await call.scope()
        return ListPermissionsResponse(
            permissions=[
                Permission(name=name, methods=list(permissions.users_of(name))) for name in permissions.catalogue()
            ]
        )

    async def _role(self, key: str, call: Call) -> Role:
        role = defaults.system_role(key)
        if role is not None:
            return role
        row = await self.store.get(ROLES, call.principal.organization, key)
        if row is None:
            raise not_found("role", key)
        return role_of(row)

    async def _own_role(self, key: str, call: Call, verb: str) -> None:
        role = await self._role(key, call)
        await call.authorize(resource_of(role), hidden=not_found("role", key), read_permission="roles.read")
        if role.system:
            raise precondition(
                f"The role {role.name!r} ships with the system; nobody can {verb} it. Create a role of your own.",
                "SYSTEM_ROLE",
                role=role.name,
            )

    async def _check_unused(self, tx: Transaction, organization: str, name: str, verb: str) -> None:
        holders = await self.store.holders(organization, name, tx)
        naming = [p.name for p in await self._policies(organization, tx) if name in p.roles]
        if holders or naming:
            by = [f"{len(holders)} assignments"] if holders else []
            by += [f"the policies {', '.join(naming)}"] if naming else []
            raise precondition(
                f"The role {name!r} is in use by {' and '.join(by)}; it cannot be {verb} before they are gone.",
                "ROLE_IN_USE",
                role=name,
            )

    async def _changed_role(
        self, tx: Transaction, call: Call, event: str, key: str, before: Role | None = None
    ) -> Role:
        organization = call.principal.organization
        row = await self.store.get(ROLES, organization, key, tx)
        assert row is not None
        role = role_of(row)
        version = await self.store.count_up(tx, organization)
        await call.emit(tx, event, RoleEvent(role=role, before=before, version=version), subject=key)
        return role


def _merged(before: Role, wanted: Role, paths: list[str]) -> Role:
    return Role(
        id=before.id,
        name=wanted.name if "name" in paths else before.name,
        description=wanted.description if "description" in paths else before.description,
        permissions=list(dict.fromkeys(wanted.permissions if "permissions" in paths else before.permissions)),
        create_time=before.create_time,
        update_time=before.update_time,
        etag=before.etag,
    )


def _check(role: Role) -> None:
    if not role.name:
        raise rules.invalid("role.name", "a role needs a name, for example `lead`", "FIELD_REQUIRED")
    if defaults.system_role(role.name) is not None:
        raise _taken(role.name)
    rules.check_permissions(role.permissions, "role.permissions")


def _taken(name: str) -> AlreadyExistsError:
    return AlreadyExistsError(
        f"There is a role {name!r} already. Choose another name, or change that one.",
        reason="ROLE_NAME_TAKEN",
        metadata={"name": name},
    )
