"""What a role, a policy and an assignment must be, and who may make them: decisions without I/O (IAM-1, AUTHZ-3)."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Boolean, ColumnElement, Integer, String, column
from sqlalchemy.types import TypeEngine

from taskman_sdk import contract
from taskman_sdk.errors import FailedPreconditionError, FieldViolation, InvalidArgumentError, PermissionDeniedError
from taskman_sdk.proto.taskman.iam.v1.iam_pb import Effect, Policy, Role
from taskman_server.kit import permissions
from taskman_server.kit.cel import CelError, CelUnplannable, Limits, Program, combine
from taskman_server.kit.cel import Collection as SqlCollection
from taskman_server.kit.cel.limits import Inspector
from taskman_server.kit.db import JsonText, UtcTimestamp
from taskman_server.kit.guard import environment_for
from taskman_server.services.iam.defaults import ADMIN

__all__ = [
    "AdminAssignment",
    "check_condition",
    "check_fits_together",
    "check_grants",
    "check_last_admin",
    "check_may_deny",
    "check_may_shut_out",
    "check_no_lockout",
    "check_permissions",
    "check_roles_exist",
    "etag",
    "freed_by_leaving",
    "given_by_policy",
    "given_by_role",
    "invalid",
    "live",
]

# What administrators need to undo a policy; no policy takes it from them.
_WAY_BACK = ("policies.read", "policies.update", "policies.delete")
_SAMPLE = {
    "principal": {"id": "user_0", "type": "user", "organization": "organization_0", "roles": [ADMIN]},
    "now": datetime.fromisoformat("2030-01-01T00:00:00+00:00"),
}


# A condition is planned once against columns of these types; which tables they will be of does not matter.
_COLUMN_TYPES: Final[Mapping[str, TypeEngine[Any]]] = {
    "string": String(),
    "bool": Boolean(),
    "int": Integer(),
    "timestamp": UtcTimestamp(),
    "list": JsonText(),
}


def etag(identifier: str, revision: int) -> str:
    """A text that changes with every change."""
    return hashlib.sha256(f"{identifier}/{revision}".encode()).hexdigest()[:16]


def invalid(field: str, problem: str, reason: str, **metadata: str) -> InvalidArgumentError:
    """The error for one wrong field."""
    return InvalidArgumentError(
        f"{field}: {problem}",
        reason=reason,
        metadata=metadata,
        field_violations=[FieldViolation(field, problem, reason.lower())],
    )


def check_permissions(patterns: Sequence[str], field: str) -> None:
    """Refuses a pattern that stands for no permission of the contract (IAM-3).

    Raises:
        InvalidArgumentError: with what was probably meant.
    """
    for index, pattern in enumerate(patterns):
        if not permissions.expand([pattern]):
            close = permissions.near(pattern)
            meant = f" Did you mean {', '.join(close)}?" if close else " GET /v1/permissions lists them all."
            raise invalid(
                f"{field}[{index}]",
                f"there is no permission {pattern!r}.{meant}",
                "PERMISSION_UNKNOWN",
                permission=pattern,
                near=", ".join(close),
            )


def check_roles_exist(wanted: Sequence[str], existing: Collection[str], field: str) -> None:
    """Refuses the name of a role that is not there.

    Raises:
        InvalidArgumentError: with the roles that are.
    """
    for index, name in enumerate(wanted):
        if name not in existing:
            close = permissions.near(name, existing) or sorted(existing)[:3]
            raise invalid(
                f"{field}[{index}]" if field.endswith("roles") else field,
                f"there is no role {name!r} in this organization. Did you mean {', '.join(close)}?",
                "ROLE_UNKNOWN",
                role=name,
            )


def check_condition(policy: Policy) -> None:
    """Compiles the condition for every permission that the policy names, and plans it for those that lists are
    filtered by: what cannot be decided, bounded in cost or put into a query is refused now, not later (AUTHZ-3).

    Raises:
        InvalidArgumentError: on `policy.condition`, with the position.
    """
    if not policy.condition:
        return
    if not policy.condition.strip():
        raise invalid(
            "policy.condition", "only blanks; leave it empty for a policy that always holds", "EXPRESSION_INVALID"
        )
    about = sorted(permissions.expand(policy.permissions))
    if about == [permissions.CHECK_OTHERS]:
        raise invalid(
            "policy.condition",
            f"{permissions.CHECK_OTHERS!r} is about no resource that a condition could look at; leave it empty",
            "EXPRESSION_INVALID",
        )
    for permission in about:
        if permission == permissions.CHECK_OTHERS:
            continue
        try:
            program = environment_for(permission).compile(policy.condition)
            # The environment takes what all policies come to together; one alone has the bounds of any expression.
            Inspector(program.tree, policy.condition, Limits()).inspect()
            if any(method.read_only for method in contract.permissions()[permission]):
                program.plan(_columns(program), _SAMPLE)
        except CelError as error:
            raise _bad_condition(error, permission, policy.condition) from None


def _columns(program: Program) -> dict[str, ColumnElement[Any] | SqlCollection]:
    columns: dict[str, ColumnElement[Any] | SqlCollection] = {}
    for name, kind in program.environment.variables.items():
        if not name.startswith("resource."):
            continue
        shape: ColumnElement[Any] = column(name.replace(".", "_"), _COLUMN_TYPES[kind.kind])
        columns[name] = SqlCollection.of_json(shape) if kind.kind == "list" else shape
    return columns


def _bad_condition(error: CelError, permission: str, text: str) -> InvalidArgumentError:
    position = error.position
    where = {} if position is None else {"line": str(position.line), "column": str(position.column)}
    purpose = f"the lists that {permission!r} filters" if isinstance(error, CelUnplannable) else repr(permission)
    problem = f"{error} (checked for {purpose})"
    return InvalidArgumentError(
        f"policy.condition cannot be used: {problem}",
        reason="EXPRESSION_INVALID",
        metadata={"permission": permission, **where},
        field_violations=[FieldViolation("policy.condition", problem, "cel")],
    )


def check_fits_together(policy: Policy, others: Iterable[Policy]) -> None:
    """Refuses a policy with which the conditions on one permission, taken together, pass the limits of one
    expression: no plan could be made any more, and everybody would be denied.

    Args:
        policy: the policy to be.
        others: all other policies of the organization.

    Raises:
        FailedPreconditionError: with the permission.
    """
    rest = list(others)
    for permission in sorted(permissions.expand(policy.permissions) - {permissions.CHECK_OTHERS}):
        about = [p for p in (*rest, policy) if any(permissions.covers(each, permission) for each in p.permissions)]
        allows = [p.condition for p in about if p.condition and p.effect is Effect.ALLOW]
        denies = [p.condition for p in about if p.condition and p.effect is Effect.DENY]
        try:
            environment_for(permission).compile(combine(allows or ["true"], denies))
        except CelError as error:
            raise FailedPreconditionError(
                f"With this policy the conditions on {permission!r} are too many to decide together: {error}. "
                "Shorten them, or say the same with fewer policies.",
                reason="POLICIES_TOO_COMPLEX",
                metadata={"permission": permission},
            ) from None


def check_no_lockout(policy: Policy) -> None:
    """Refuses a policy that could take from administrators the way to undo it.

    Raises:
        FailedPreconditionError: it denies them the policies.
    """
    if policy.effect is not Effect.DENY or (policy.roles and ADMIN not in policy.roles):
        return
    for permission in _WAY_BACK:
        if any(permissions.covers(pattern, permission) for pattern in policy.permissions):
            raise FailedPreconditionError(
                f"This policy would deny {permission!r} to administrators, who could then not undo it. "
                f"Name the roles it is about without {ADMIN!r}, or permissions without {permission!r}.",
                reason="ADMIN_LOCKOUT",
                metadata={"permission": permission},
            )


def given_by_role(role: Role, policies: Iterable[Policy] = ()) -> frozenset[str]:
    """The permissions that come with a role: its own, and those of the organization's own policies that grant to it.

    The system's policies do not count: what they grant rests on a membership that the role does not bring.
    """
    named = [p for p in policies if not p.system and p.effect is Effect.ALLOW and role.name in p.roles]
    return permissions.expand([*role.permissions, *(each for p in named for each in p.permissions)])


def given_by_policy(before: Policy | None, after: Policy | None) -> frozenset[str]:
    """The permissions that whoever changes a policy must hold: those it grants or denies, and no longer denies."""
    gained = after.permissions if after is not None else []
    freed = before.permissions if before is not None and before.effect is Effect.DENY else []
    return permissions.expand([*gained, *freed])


def freed_by_leaving(role: str, policies: Iterable[Policy]) -> frozenset[str]:
    """The permissions that somebody may regain who loses a role, because policies deny them to that role."""
    return permissions.expand(
        each for p in policies if p.effect is Effect.DENY and role in p.roles for each in p.permissions
    )


def check_may_deny(before: Policy | None, after: Policy | None, by_admin: bool) -> None:
    """Refuses to let somebody who is no administrator write a denial that reaches administrators (IAM-1).

    Raises:
        PermissionDeniedError: it is about the role `admin`, or about everyone.
    """
    if by_admin:
        return
    for policy in (before, after):
        if policy is not None and policy.effect is Effect.DENY and (not policy.roles or ADMIN in policy.roles):
            reach = f"to the role {ADMIN!r}" if policy.roles else "to everyone, administrators too"
            raise PermissionDeniedError(
                f"The policy {policy.name!r} denies something {reach}: only an administrator can write it. Name other "
                "roles, or ask one.",
                reason="ADMIN_NEEDED",
                metadata={"policy": policy.name},
            )


def check_grants(given: Collection[str], held: Collection[str], what: str, verb: str = "gives") -> None:
    """Refuses to give what one does not hold.

    Args:
        given: the permissions that somebody would get.
        held: the permissions that the caller holds without a condition.
        what: what gives them, for example `The role 'lead'`.
        verb: what it does with them.

    Raises:
        PermissionDeniedError: with what is missing.
    """
    missing = sorted(set(given) - set(held))
    if missing:
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise PermissionDeniedError(
            f"{what} {verb} permissions that you do not hold everywhere yourself: {shown}. "
            "Ask an administrator to do it.",
            reason="PRIVILEGE_ESCALATION",
            metadata={"missing": ", ".join(missing)},
        )


@dataclass(frozen=True, slots=True)
class AdminAssignment:
    """An assignment of the role `admin`: whose, and until when (None: for ever)."""

    id: str
    principal: str
    expire_time: datetime | None


def check_may_shut_out(is_admin: bool, by_admin: bool, principal: str, verb: str) -> None:
    """Refuses to let somebody who is no administrator decide whether one can sign in (IAM-1).

    Args:
        is_admin: whether it is about an administrator.
        by_admin: whether the caller is one, or a service at work of its own.
        principal: whom it is about.
        verb: `deactivates` or `activates`.

    Raises:
        PermissionDeniedError: it is about an administrator, and the caller is none.
    """
    if is_admin and not by_admin:
        raise PermissionDeniedError(
            f"{principal!r} has the role {ADMIN!r}: only another administrator {verb} them. Ask one to do it.",
            reason="ADMIN_NEEDED",
            metadata={"principal": principal},
        )


def live(expire_time: datetime | None, now: datetime) -> bool:
    """Whether an assignment holds now."""
    return expire_time is None or expire_time > now


def check_last_admin(leaving: str, admins: Sequence[AdminAssignment], active: Collection[str], now: datetime) -> None:
    """Refuses to take the role `admin` from the last one who has it (IAM-1).

    Somebody whose assignment ends, or who is shut out, does not count as one who stays.

    Args:
        leaving: the id of the assignment that goes.
        admins: all assignments of `admin` in the organization.
        active: the principals that can sign in.
        now: the time.

    Raises:
        FailedPreconditionError: nobody would stay.
    """
    (goes,) = (each for each in admins if each.id == leaving)
    stay = [each for each in admins if each.id != leaving and each.principal in active]
    if any(each.expire_time is None for each in stay):
        return
    if goes.expire_time is not None and (
        not live(goes.expire_time, now) or any(live(each.expire_time, now) for each in stay)
    ):
        return
    raise FailedPreconditionError(
        f"{goes.principal!r} is the last administrator who stays. Give somebody else the role {ADMIN!r}, without an "
        "end, before you take this one.",
        reason="LAST_ADMIN",
        metadata={"assignment": goes.id, "principal": goes.principal},
    )
