"""From roles and policies to a decision (AUTHZ-1, AUTHZ-2, AUTHZ-5, AUTHZ-6).

Deny by default; an explicit deny wins; what cannot be decided denies. A permission in a role is a grant without a
condition; a policy grants or denies to the roles it names (to everyone, when it names none) where its condition holds.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from taskman_server.kit import permissions
from taskman_server.kit.cel import CelError, CelEvaluationError, Program, combine
from taskman_server.kit.guard import environment_for

__all__ = ["Plan", "PolicyRule", "Rulebook", "Verdict", "explain", "make_plan", "program_of", "resource_values"]

Kind = Literal["denied", "allowed", "conditional"]


@dataclass(frozen=True, slots=True)
class PolicyRule:
    """One policy: grants (or denies) `permissions` to `roles` (empty: to everyone) where `condition` holds
    (empty: always)."""

    name: str
    allow: bool
    roles: frozenset[str]
    permissions: tuple[str, ...]
    condition: str

    def concerns(self, roles: Collection[str], permission: str) -> bool:
        """Whether the policy says anything about this permission for somebody with these roles."""
        return (not self.roles or not self.roles.isdisjoint(roles)) and any(
            permissions.covers(pattern, permission) for pattern in self.permissions
        )


@dataclass(frozen=True, slots=True)
class Rulebook:
    """All roles (name → permissions) and policies of an organization."""

    roles: Mapping[str, tuple[str, ...]]
    policies: tuple[PolicyRule, ...]

    def granting_role(self, roles: Collection[str], permission: str) -> str | None:
        """The first of the roles that has the permission."""
        for name in roles:
            if any(permissions.covers(pattern, permission) for pattern in self.roles.get(name, ())):
                return name
        return None

    def concerning(self, roles: Collection[str], permission: str) -> Iterator[PolicyRule]:
        """The policies about this permission for somebody with these roles."""
        return (policy for policy in self.policies if policy.concerns(roles, permission))


@dataclass(frozen=True, slots=True)
class Plan:
    """How far a permission reaches: to nothing, to everything, or to what `condition` is true of.

    `problem` says why a rulebook had to be read as a denial, for the log; empty when all is well.
    """

    kind: Kind
    condition: str = ""
    problem: str = ""


DENIED = Plan("denied")
ALLOWED = Plan("allowed")


def program_of(text: str, permission: str) -> Program | None:
    """The program of a condition; None when it cannot be compiled for this permission."""
    if permission == permissions.CHECK_OTHERS:  # it is about no resource
        return None
    try:
        return environment_for(permission).compile(text)
    except CelError:
        return None


def make_plan(book: Rulebook, roles: Sequence[str], permission: str) -> Plan:
    """What the rights of somebody with these roles to a permission come to."""
    always = book.granting_role(roles, permission) is not None
    allows: list[str] = []
    denies: list[str] = []
    for policy in book.concerning(roles, permission):
        text = policy.condition
        if not text:
            if not policy.allow:
                return DENIED
            always = True
        elif program_of(text, permission) is None:
            # Alone, so that no text can reach out of its brackets when they are joined.
            if not policy.allow:
                return Plan("denied", problem=f"the condition of the policy {policy.name!r} cannot be compiled")
        else:
            (allows if policy.allow else denies).append(text)
    if always:
        allows = ["true"]
    if not allows:
        return DENIED
    text = combine(allows, denies)
    if text in ("true", "false"):
        return ALLOWED if text == "true" else DENIED
    if program_of(text, permission) is None:
        return Plan("denied", problem=f"the conditions on {permission!r} cannot be decided together")
    return Plan("conditional", text)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A decision, and why, for a person."""

    allowed: bool
    explanation: str


def explain(book: Rulebook, roles: Sequence[str], permission: str, bindings: Mapping[str, Any]) -> Verdict:
    """The decision on one resource, with the policy or role that made it, or what is missing.

    Comes to the same as evaluating `make_plan`; conditions are not quoted, they are for those who may read policies.
    """
    grants = [policy for policy in book.concerning(roles, permission) if policy.allow]
    for policy in book.concerning(roles, permission):
        if policy.allow:
            continue
        holds = _holds(policy, permission, bindings)
        if holds is True:
            return Verdict(False, f"Denied: the policy {policy.name!r} denies {permission!r}; a denial wins.")
        if isinstance(holds, str):
            return Verdict(
                False,
                f"Denied: whether the policy {policy.name!r} denies {permission!r} here cannot be decided ({holds}); "
                "doubt denies.",
            )
    role = book.granting_role(roles, permission)
    if role is not None:
        return Verdict(True, f"Allowed: the role {role!r} has the permission {permission!r}.")
    unmet: list[str] = []
    for policy in grants:
        holds = _holds(policy, permission, bindings)
        if holds is True:
            return Verdict(True, f"Allowed: the policy {policy.name!r} grants {permission!r} here.")
        unmet.append(f"{policy.name!r} ({holds or 'its condition does not hold'})")
    if unmet:
        return Verdict(False, f"Denied: no policy that grants {permission!r} applies here: {', '.join(unmet)}.")
    if not roles:
        return Verdict(False, f"Denied: no role is assigned, and nothing grants {permission!r} to everyone.")
    held = ", ".join(map(repr, roles))
    return Verdict(False, f"Denied: nothing grants {permission!r}. Roles held: {held}.")


def _holds(policy: PolicyRule, permission: str, bindings: Mapping[str, Any]) -> bool | str:
    """Whether the condition holds; a text that says why, when that cannot be decided."""
    if not policy.condition:
        return True
    program = program_of(policy.condition, permission)
    if program is None:
        return "its condition does not fit the permission"
    try:
        return bool(program.evaluate(bindings))
    except CelEvaluationError as error:
        return str(error)


def resource_values(permission: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """What a caller says of a resource, as conditions take it: only the fields that the contract knows.

    JSON has no whole numbers and no times: such fields are read from their JSON forms. What cannot be read is left
    out, so that a condition on it is undecided and denies. The organization is never the caller's to say.
    """
    if permission == permissions.CHECK_OTHERS:
        return {}
    values: dict[str, Any] = {}
    for name, kind in environment_for(permission).variables.items():
        path, _, field = name.partition(".")
        if path != "resource" or field == "organization" or field not in given:
            continue
        value = given[field]
        if kind.kind == "int" and isinstance(value, float) and value.is_integer():
            value = int(value)
        elif kind.kind == "timestamp" and isinstance(value, str):
            value = _time(value)
            if value is None:
                continue
        values[field] = value
    return values


def _time(text: str) -> datetime | None:
    try:
        value = datetime.fromisoformat(text)
    except ValueError:
        return None
    return value if value.tzinfo is not None else None
