"""Assignments, the first role of a new principal, and the snapshot that decisions rest on."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from taskman_sdk.errors import AlreadyExistsError
from taskman_sdk.proto.taskman.iam.v1.iam_pb import (
    Assignment,
    AssignmentEvent,
    CreateAssignmentRequest,
    DeleteAssignmentRequest,
    DeleteAssignmentResponse,
    GetAssignmentRequest,
    GetSnapshotRequest,
    ListAssignmentsRequest,
    ListAssignmentsResponse,
    ProvisionPrincipalRequest,
    ProvisionPrincipalResponse,
    ResumePrincipalRequest,
    ResumePrincipalResponse,
    Role,
    Snapshot,
    SuspendPrincipalRequest,
    SuspendPrincipalResponse,
)
from taskman_sdk.proto.taskman.user.v1.user_pb import BatchGetUsersRequest, BatchGetUsersResponse
from taskman_server.kit import filters
from taskman_server.kit.db import Row, Transaction, UniqueViolation
from taskman_server.kit.ids import new_id
from taskman_server.kit.rpc import Call
from taskman_server.kit.rpc.call import not_found
from taskman_server.services.iam import defaults, rules
from taskman_server.services.iam.convert import assignment_of, policy_of, resource_of, role_of
from taskman_server.services.iam.handlers.base import Base, Listing
from taskman_server.services.iam.provisioning import provision
from taskman_server.services.iam.store import ASSIGNMENTS, POLICIES, ROLES, columns_of

__all__ = ["AssignmentHandlers"]

BATCH: Final = 1000
LISTING: Final[Listing[Assignment]] = Listing(
    table=ASSIGNMENTS,
    environment=filters.list_environment(Assignment),
    columns=columns_of(ASSIGNMENTS),
    resource={
        "resource.id": ASSIGNMENTS.c.id,
        "resource.name": ASSIGNMENTS.c.role,
        "resource.principal": ASSIGNMENTS.c.principal,
    },
    system=(),
    message_of=assignment_of,
    values_of=lambda assignment: {},
    resource_of=resource_of,
)


class AssignmentHandlers(Base):
    """The RPCs about assignments, and those for the other services."""

    async def create_assignment(self, request: CreateAssignmentRequest, call: Call) -> Assignment:
        """See the contract."""
        assert request.assignment is not None
        wanted = request.assignment
        await call.authorize({"id": "", "name": wanted.role, "principal": wanted.principal})
        expires = _expiry(wanted, call.now)
        organization = call.principal.organization
        role = await self._role_by_name(organization, wanted.role)
        given = rules.given_by_role(role, await self._policies(organization))
        await self._check_may_give(call, given, f"The role {role.name!r}")
        await self._check_user(call, wanted.principal)
        tx = await call.begin()
        await self.store.lock(tx, organization)
        rules.check_roles_exist([role.name], await self._role_names(organization, tx), "assignment.role")
        await self._clear_expired(tx, call, wanted)
        key = new_id("assignment")
        try:
            await self.store.add(
                ASSIGNMENTS,
                tx,
                id=key,
                organization=organization,
                principal=wanted.principal,
                role=role.name,
                expire_time=expires,
                create_time=call.now,
            )
        except UniqueViolation:
            raise _exists(wanted) from None
        row = await self.store.get(ASSIGNMENTS, organization, key, tx)
        assert row is not None
        assignment = assignment_of(row)
        await self._tell(tx, call, "iam.assignment.created", assignment)
        return assignment

    async def get_assignment(self, request: GetAssignmentRequest, call: Call) -> Assignment:
        """See the contract."""
        return assignment_of(await self._assignment(request.assignment, call))

    async def delete_assignment(self, request: DeleteAssignmentRequest, call: Call) -> DeleteAssignmentResponse:
        """See the contract."""
        row = await self._assignment(request.assignment, call)
        organization = call.principal.organization
        freed = rules.freed_by_leaving(row.role, await self._policies(organization))
        await self._check_may_give(call, freed, f"Taking the role {row.role!r}, to which policies deny them,")
        active = await self._active_admins(call) if row.role == defaults.ADMIN else frozenset()
        tx = await call.begin()
        await self.store.lock(tx, organization)
        current = await self.store.get(ASSIGNMENTS, organization, row.id, tx)
        if current is None:
            raise not_found("assignment", request.assignment)
        if current.role == defaults.ADMIN:
            await self._check_last_admin(tx, call, current.id, active)
        await self.store.drop(ASSIGNMENTS, tx, organization, current.id)
        await self._tell(tx, call, "iam.assignment.deleted", assignment_of(current))
        return DeleteAssignmentResponse()

    async def list_assignments(self, request: ListAssignmentsRequest, call: Call) -> ListAssignmentsResponse:
        """See the contract."""
        assignments, token = await self._list(LISTING, request, call)
        return ListAssignmentsResponse(assignments=assignments, next_page_token=token)

    async def provision_principal(self, request: ProvisionPrincipalRequest, call: Call) -> ProvisionPrincipalResponse:
        """See the contract. The answer holds no assignment when the first one was taken away since."""
        organization = request.organization
        role = await self._role_by_name(organization, request.role or defaults.DEFAULT_ROLE)
        tx = await call.begin()
        await self.store.lock(tx, organization)
        rules.check_roles_exist([role.name], await self._role_names(organization, tx), "role")
        made = await provision(self.store, call, tx, organization, request.principal, role.name)
        return ProvisionPrincipalResponse(assignment=made)

    async def suspend_principal(self, request: SuspendPrincipalRequest, call: Call) -> SuspendPrincipalResponse:
        """See the contract. Noted here first, under this service's lock: two administrators who shut each other out
        at the same moment are decided one after the other, and the second finds the first one's note."""
        organization = call.principal.organization
        active = await self._active_admins(call)
        tx = await call.begin()
        await self.store.lock(tx, organization)
        held = await self._admin_assignment(tx, call, request.principal)
        rules.check_may_shut_out(held is not None, await self._by_admin(tx, call), request.principal, "deactivates")
        if held is not None:
            await self._check_last_admin(tx, call, held.id, active)
        await self.store.suspend(tx, organization, request.principal, request.revision)
        return SuspendPrincipalResponse()

    async def resume_principal(self, request: ResumePrincipalRequest, call: Call) -> ResumePrincipalResponse:
        """See the contract. Until the Users service has committed, its answer keeps them from counting."""
        organization = call.principal.organization
        tx = await call.begin()
        await self.store.lock(tx, organization)
        held = await self._admin_assignment(tx, call, request.principal)
        rules.check_may_shut_out(held is not None, await self._by_admin(tx, call), request.principal, "activates")
        await self.store.resume(tx, organization, request.principal, request.revision)
        return ResumePrincipalResponse()

    async def get_snapshot(self, request: GetSnapshotRequest, call: Call) -> Snapshot:
        """See the contract. Read without a lock: what changes meanwhile has a later version than the one answered,
        and its event brings it again."""
        organization = request.organization
        version = await self.store.version(organization)
        roles = await self.store.all(ROLES, organization)
        policies = await self.store.all(POLICIES, organization)
        assignments = await self.store.all(ASSIGNMENTS, organization)
        return Snapshot(
            roles=[*defaults.ROLES, *map(role_of, roles)],
            policies=[*defaults.POLICIES, *map(policy_of, policies)],
            assignments=[assignment_of(row) for row in assignments if rules.live(row.expire_time, call.now)],
            version=version,
        )

    async def _assignment(self, key: str, call: Call) -> Row:
        row = await self.store.get(ASSIGNMENTS, call.principal.organization, key)
        if row is None:
            raise not_found("assignment", key)
        hidden = not_found("assignment", key)
        await call.authorize(resource_of(assignment_of(row)), hidden=hidden, read_permission="assignments.read")
        return row

    async def _role_by_name(self, organization: str, name: str) -> Role:
        role = defaults.system_role(name)
        if role is not None:
            return role
        rows = await self.store.all(ROLES, organization)
        rules.check_roles_exist(
            [name], {row.name for row in rows} | {r.name for r in defaults.ROLES}, "assignment.role"
        )
        return role_of(next(row for row in rows if row.name == name))

    async def _check_user(self, call: Call, principal: str) -> None:
        found = await call.peer(
            "UserService.BatchGetUsers", BatchGetUsersRequest(users=[principal]), BatchGetUsersResponse
        )
        if [user.id for user in found.users] != [principal]:
            raise rules.invalid(
                "assignment.principal",
                f"there is no user {principal!r} in this organization. GET /v1/users lists them.",
                "PRINCIPAL_UNKNOWN",
                principal=principal,
            )

    async def _active_admins(self, call: Call) -> frozenset[str]:
        """The administrators who can sign in."""
        rows = await self.store.holders(call.principal.organization, defaults.ADMIN)
        names = [row.principal for row in rows]
        active: set[str] = set()
        for start in range(0, len(names), BATCH):
            request = BatchGetUsersRequest(users=names[start : start + BATCH])
            found = await call.peer("UserService.BatchGetUsers", request, BatchGetUsersResponse)
            active.update(user.id for user in found.users if user.state != "deactivated")
        return frozenset(active)

    async def _admin_assignment(self, tx: Transaction, call: Call, principal: str) -> Row | None:
        """The assignment that makes the principal an administrator now."""
        rows = await self.store.assignments_of(call.principal.organization, principal, tx)
        return next((r for r in rows if r.role == defaults.ADMIN and rules.live(r.expire_time, call.now)), None)

    async def _by_admin(self, tx: Transaction, call: Call) -> bool:
        """Whether the peer calls on behalf of an administrator, or of nobody but a service."""
        actor = call.principal.actor
        if not actor or actor.startswith("service:"):
            return True
        return await self._admin_assignment(tx, call, actor) is not None

    async def _check_last_admin(self, tx: Transaction, call: Call, leaving: str, active: frozenset[str]) -> None:
        organization = call.principal.organization
        admins = [
            rules.AdminAssignment(each.id, each.principal, each.expire_time)
            for each in await self.store.holders(organization, defaults.ADMIN, tx)
        ]
        # Who is being shut out at this moment is still active for the Users service.
        staying = active - await self.store.suspended(organization, tx)
        rules.check_last_admin(leaving, admins, staying, call.now)

    async def _clear_expired(self, tx: Transaction, call: Call, wanted: Assignment) -> None:
        """Makes way for an assignment that is given again after it ended."""
        organization = call.principal.organization
        for row in await self.store.assignments_of(organization, wanted.principal, tx):
            if row.role != wanted.role:
                continue
            if rules.live(row.expire_time, call.now):
                raise _exists(wanted)
            await self.store.drop(ASSIGNMENTS, tx, organization, row.id)
            await self._tell(tx, call, "iam.assignment.deleted", assignment_of(row))

    async def _tell(self, tx: Transaction, call: Call, event: str, assignment: Assignment) -> None:
        version = await self.store.count_up(tx, call.principal.organization)
        payload = AssignmentEvent(assignment=assignment, version=version)
        await call.emit(tx, event, payload, subject=assignment.id)


def _expiry(wanted: Assignment, now: datetime) -> datetime | None:
    if not wanted.principal:
        raise rules.invalid("assignment.principal", "say who gets the role: the id of a user", "FIELD_REQUIRED")
    if not wanted.role:
        raise rules.invalid("assignment.role", "say which role: its name", "FIELD_REQUIRED")
    if wanted.expire_time is None:
        return None
    expires = wanted.expire_time.to_datetime()
    if expires <= now:
        raise rules.invalid(
            "assignment.expire_time", f"{expires.isoformat()} has passed already; name a later time", "TIME_PASSED"
        )
    return expires


def _exists(wanted: Assignment) -> AlreadyExistsError:
    return AlreadyExistsError(
        f"{wanted.principal!r} has the role {wanted.role!r} already.",
        reason="ASSIGNMENT_EXISTS",
        metadata={"principal": wanted.principal, "role": wanted.role},
    )
