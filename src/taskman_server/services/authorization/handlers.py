"""One function for each RPC of `AuthorizationService`."""

from __future__ import annotations

from typing import Any, Final

from taskman_sdk import codec
from taskman_sdk.errors import FieldViolation, InvalidArgumentError, PermissionDeniedError
from taskman_sdk.proto.taskman.authorization.v1.authorization_pb import (
    AuthorizationDenied,
    CheckRequest,
    CheckResponse,
    PlanKind,
    PlanResourcesRequest,
    PlanResourcesResponse,
    ReportDenialRequest,
    ReportDenialResponse,
)
from taskman_server.kit import permissions
from taskman_server.kit.rpc import Call, Runtime
from taskman_server.services.authorization.copy import Copy, Standing
from taskman_server.services.authorization.rules import Plan, Verdict, explain, program_of, resource_values

__all__ = ["AuthorizationHandlers"]

KINDS: Final = {
    "denied": PlanKind.ALWAYS_DENIED,
    "allowed": PlanKind.ALWAYS_ALLOWED,
    "conditional": PlanKind.CONDITIONAL,
}


class AuthorizationHandlers:
    """Decisions, by the copy of roles, policies and assignments."""

    def __init__(self, runtime: Runtime, copy: Copy) -> None:
        self._runtime = runtime
        self._copy = copy

    async def check(self, request: CheckRequest, call: Call) -> CheckResponse:
        """See the contract."""
        permission = _known(request.permission)
        principal = await self._subject(call, request.principal)
        organization = call.principal.organization
        standing = await self._copy.standing(organization, principal)
        given = codec.to_value(request.resource) if request.resource is not None else {}
        bindings = {
            "principal": {
                "id": principal,
                "type": "user",
                "organization": organization,
                "roles": list(standing.roles),
            },
            "resource": resource_values(permission, given),
            "now": call.now,
        }
        plan = self._copy.plan(standing, permission)
        allowed = _decide(plan, permission, bindings)
        verdict = explain(standing.book, standing.roles, permission, bindings)
        if verdict.allowed != allowed:  # only where the conditions cannot be joined
            verdict = Verdict(allowed, f"Denied: {plan.problem or 'it cannot be decided'}; doubt denies.")
        return CheckResponse(allowed=allowed, explanation=verdict.explanation)

    async def plan_resources(self, request: PlanResourcesRequest, call: Call) -> PlanResourcesResponse:
        """See the contract."""
        permission = _known(request.permission)
        principal = await self._subject(call, request.principal)
        standing = await self._copy.standing(call.principal.organization, principal)
        return _answer(self._copy.plan(standing, permission), standing)

    async def report_denial(self, request: ReportDenialRequest, call: Call) -> ReportDenialResponse:
        """See the contract."""
        await self._record(call, request.permission, request.resource_type, request.resource, request.method)
        return ReportDenialResponse()

    async def _subject(self, call: Call, named: str) -> str:
        """Whose rights are asked for, when the caller may ask.

        Raises:
            PermissionDeniedError: others' rights, without `authz.check`.
            InvalidArgumentError: a service that names nobody.
        """
        caller = call.principal
        if caller.type == "service":
            principal = named or caller.actor
            if not principal:
                raise InvalidArgumentError(
                    "principal: a service says whom it asks about, for example `user_…`.",
                    reason="FIELD_REQUIRED",
                    field_violations=[FieldViolation("principal", "say who", "required")],
                )
            return principal
        if not named or named == caller.id:
            return caller.id
        standing = await self._copy.standing(caller.organization, caller.id)
        if self._copy.plan(standing, permissions.CHECK_OTHERS).kind != "allowed":
            await self._record(call, permissions.CHECK_OTHERS, "user", named, call.method.operation_id)
            raise PermissionDeniedError(
                f"You may ask about your own rights. About others it takes the permission "
                f"{permissions.CHECK_OTHERS!r}. Ask an administrator for a role that has it.",
                reason="PERMISSION_MISSING",
                metadata={"permission": permissions.CHECK_OTHERS},
            )
        return named

    async def _record(self, call: Call, permission: str, kind: str, resource: str, method: str) -> None:
        payload = AuthorizationDenied(permission=permission, resource_type=kind, resource=resource, method=method)
        subject = resource or call.principal.actor or call.principal.id
        # of its own: the answer that follows is an error, which would undo the call's transaction
        async with self._runtime.db.transaction() as tx:
            await call.emit(tx, "authz.denied", payload, subject=subject, result="denied")


def _answer(plan: Plan, standing: Standing) -> PlanResourcesResponse:
    return PlanResourcesResponse(
        kind=KINDS[plan.kind],
        condition=plan.condition,
        roles=list(standing.roles),
        version=standing.version,
        expire_time=codec.Timestamp.from_datetime(standing.ends) if standing.ends is not None else None,
        generation=standing.since,
    )


def _decide(plan: Plan, permission: str, bindings: dict[str, Any]) -> bool:
    if plan.kind != "conditional":
        return plan.kind == "allowed"
    program = program_of(plan.condition, permission)
    return program is not None and program.test(bindings)


def _known(permission: str) -> str:
    if permission not in permissions.catalogue():
        close = ", ".join(permissions.near(permission, permissions.catalogue()))
        meant = f" Did you mean {close}?" if close else " GET /v1/permissions lists them all."
        problem = f"there is no permission {permission!r}.{meant}"
        raise InvalidArgumentError(
            f"permission: {problem}",
            reason="PERMISSION_UNKNOWN",
            metadata={"permission": permission, "near": close},
            field_violations=[FieldViolation("permission", problem, "permission_unknown")],
        )
    return permission
