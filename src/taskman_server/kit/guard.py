"""Decisions in the services: the plan of the Authorization service, applied to a resource or to a list (AUTHZ-1, -5).

The Authorization service is asked once for what a principal's rights to a permission come to; that plan serves single
resources (evaluated here) and lists (put into the WHERE) alike.

A plan is kept for `TTL` seconds from when it was asked for (see `kit.answers`), and never past its own end. A change
of roles, policies or assignments therefore works everywhere within the way of its event to the Authorization service's
copy (outbox, broker, one commit: 10 to 100 ms, 0.5 s is allowed for) and `TTL`: 1 s in all (AUTHZ-4). All replicas of
that service decide by the one copy, read anew for each plan, so that nothing is added there. With Redis a change is
also told to all who listen, which mostly leaves the event's way alone; nobody relies on that. One question in `TTL` is
enough for all principals of an organization, as long as its rules and assignments stay as they are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Final, Protocol

from cachebox import TTLCache

from taskman_sdk import contract
from taskman_sdk.errors import PermissionDeniedError
from taskman_sdk.proto.taskman.authorization.v1.authorization_pb import (
    PlanKind,
    PlanResourcesRequest,
    PlanResourcesResponse,
    ReportDenialRequest,
)
from taskman_server.kit.answers import AnswerCache
from taskman_server.kit.cel import Environment, Program
from taskman_server.kit.filters import policy_environment
from taskman_server.kit.rpc.call import Principal, service_principal
from taskman_server.kit.rpc.channel import CallOptions, Channels, Origin

if TYPE_CHECKING:
    from taskman_server.kit.redis import Redis
    from taskman_server.kit.telemetry import Telemetry

__all__ = ["CHANGED", "TTL", "Caller", "Guard", "Scope", "environment_for"]

TTL: Final = 0.5
SIZE: Final = 20_000
_DECISIONS: Final = 16  # remembered for a resource
CHANGED: Final = "changed"
"""The channel on which the Authorization service tells the organization whose rights have changed."""


class Caller(Protocol):
    """Somebody who calls: a `Call` in a service, or its like at the edge."""

    @property
    def method(self) -> contract.Method: ...
    @property
    def principal(self) -> Principal: ...
    @property
    def request_id(self) -> str: ...
    @property
    def origin(self) -> Origin: ...
    @property
    def now(self) -> datetime: ...


@cache
def environment_for(permission: str) -> Environment:
    """What a policy about this permission can name: `principal`, `resource` with the contract's fields, `now`.

    Raises:
        KeyError: the contract has no such permission.
    """
    return policy_environment(contract.resources()[permission.partition(".")[0]])


@dataclass(frozen=True, slots=True)
class Scope:
    """The rights of a principal to a permission, as a condition.

    Attributes:
        kind: never, always, or where `program` is true.
        program: the condition on the resource; None unless conditional.
        constants: the values of `principal` and `now` in it.
    """

    kind: PlanKind
    program: Program | None
    constants: Mapping[str, Any]

    @property
    def denied(self) -> bool:
        """Nothing is allowed."""
        return self.kind is not PlanKind.ALWAYS_ALLOWED and self.program is None


@dataclass(frozen=True, slots=True)
class _Plan:
    kind: PlanKind
    program: Program | None
    principal: Mapping[str, Any]
    ends: datetime | None
    generation: int


class Guard:
    """The decisions of one service."""

    def __init__(self, channels: Channels, service: str, telemetry: Telemetry, redis: Redis | None = None) -> None:
        """Args:
        channels: to the Authorization service.
        service: who asks.
        telemetry: logs, and counts how often the memory helps.
        redis: tells of organizations whose rights have changed.
        """
        self._channels = channels
        self._service = service
        self._telemetry = telemetry
        self._plans: AnswerCache[tuple[str, str, str], _Plan] = AnswerCache(
            SIZE, TTL, telemetry.cache("plans"), state=lambda key, plan: (key[0], plan.generation)
        )
        # When an organization's rights changed, for as long as a plan from before may be known.
        self._changed: TTLCache[str, float] | None = None
        if redis is not None:
            self._changed = TTLCache(SIZE, global_ttl=TTL)
            redis.subscribe("authorization", CHANGED, self._hear)

    def follow(self, changes: Callable[[], int]) -> None:
        """Looks at the Authorization service's database beside it; see `AnswerCache.follow`."""
        self._plans.follow(changes)

    async def require_possible(self, call: Caller, permission: str) -> None:
        """The coarse decision: whether the principal could do this to anything at all.

        Raises:
            PermissionDeniedError: to nothing.
        """
        if (await self.scope(call, permission)).denied:
            await self.report(call, permission, {})
            raise PermissionDeniedError(
                f"You may not do this: the permission {permission!r} is missing. "
                "Ask an administrator for a role that has it.",
                reason="PERMISSION_MISSING",
                metadata={"permission": permission},
            )

    async def allows(self, call: Caller, permission: str, resource: Mapping[str, Any]) -> bool:
        """The fine decision, on the resource's attributes. Doubt denies."""
        scope = await self.scope(call, permission)
        if scope.program is None:
            return not scope.denied
        return scope.program.test({"resource": resource, **scope.constants})

    async def scope(self, call: Caller, permission: str) -> Scope:
        """The rights of the call's principal to a permission."""
        principal = call.principal
        if principal.type == "service":
            return Scope(PlanKind.ALWAYS_ALLOWED, None, {})
        key = (principal.organization, principal.id, permission)
        now = call.now

        good = self._good(principal.organization, now)
        plan = self._plans.get(key, good) or await self._plans.ask(key, lambda: self._plan(key, call), good)
        return Scope(plan.kind, plan.program, _constants(plan.principal, now))

    def repeats(
        self, organization: str, permission: str, resource: Mapping[str, Any], unchanged: Callable[[], bool]
    ) -> Callable[[Principal, datetime], bool]:
        """What tells whether a principal has the permission for an unchanged resource, where nobody has to be asked.

        A decision is made anew with each other plan; and each time where it hangs on the time.
        """
        allowed_by: dict[str, _Plan] = {}

        def allowed(principal: Principal, now: datetime) -> bool:
            if principal.organization != organization or not unchanged():
                return False
            plan = self._plans.look((organization, principal.id, permission), self._good(organization, now))
            if plan is None:
                return False
            if plan.program is None:
                return plan.kind is PlanKind.ALWAYS_ALLOWED
            if allowed_by.get(principal.id) is plan:
                return True
            if not plan.program.test({"resource": resource, **_constants(plan.principal, now)}):
                return False
            if "now" not in plan.program.names:
                if len(allowed_by) >= _DECISIONS:
                    allowed_by.clear()
                allowed_by[principal.id] = plan
            return True

        return allowed

    async def report(self, call: Caller, permission: str, resource: Mapping[str, Any]) -> None:
        """Puts a refused attempt on record (AUDIT-1), before the caller is told."""
        request = ReportDenialRequest(
            permission=permission,
            resource_type=permission.partition(".")[0],
            resource=str(resource.get("id") or ""),
            method=call.method.operation_id,
        )
        try:
            await self._ask(call, "AuthorizationService.ReportDenial", request)
        except Exception as error:  # the refusal stands even where it cannot be recorded
            self._telemetry.fault(call.method, call.request_id, error)

    def _good(self, organization: str, now: datetime) -> Callable[[_Plan, float], bool]:
        return lambda plan, asked: (
            (plan.ends is None or plan.ends > now)
            and (self._changed is None or self._changed.get(organization, 0.0) < asked)
        )

    def _hear(self, organization: str) -> None:
        assert self._changed is not None
        self._changed[organization] = time.monotonic()

    async def _plan(self, key: tuple[str, str, str], call: Caller) -> _Plan:
        organization, principal, permission = key
        request = PlanResourcesRequest(principal=principal, permission=permission)
        answer = await self._ask(call, "AuthorizationService.PlanResources", request)
        assert isinstance(answer, PlanResourcesResponse)
        program = None
        if answer.kind is PlanKind.CONDITIONAL:
            program = environment_for(permission).compile(answer.condition)
        attributes = {"id": principal, "type": "user", "organization": organization, "roles": list(answer.roles)}
        ends = answer.expire_time.to_datetime() if answer.expire_time is not None else None
        # Somebody without a role may have one that the copy has not heard of: the question makes it look (AUTHZ-4).
        generation = answer.generation if answer.roles else 0
        return _Plan(answer.kind, program, attributes, ends, generation)

    async def _ask(self, call: Caller, operation: str, request: Any) -> Any:
        principal = call.principal
        caller = service_principal(self._service, principal.organization, principal.actor or principal.id)
        options = CallOptions(metadata={"x-request-id": call.request_id}, caller=caller, timeout=5, origin=call.origin)
        return await self._channels.unary(contract.method(operation), request, options)


def _constants(principal: Mapping[str, Any], now: datetime) -> Mapping[str, Any]:
    return {"principal": principal, "now": now}
