"""From roles and policies to a decision, against a reference without plans (AUTHZ-1, AUTHZ-2, AUTHZ-5)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskman_server.kit import permissions
from taskman_server.kit.cel import CelError
from taskman_server.kit.guard import environment_for
from taskman_server.services.authorization.rules import (
    PolicyRule,
    Rulebook,
    explain,
    make_plan,
    program_of,
    resource_values,
)

NOW = datetime(2030, 1, 1, tzinfo=UTC)
PERMISSION = "tasks.update"


def rule(name: str, condition: str = "", *, allow: bool = True, roles: tuple[str, ...] = ()) -> PolicyRule:
    """A policy about `tasks.update`."""
    return PolicyRule(name, allow, frozenset(roles), (PERMISSION,), condition)


def book(*policies: PolicyRule, **roles: tuple[str, ...]) -> Rulebook:
    """A rulebook."""
    return Rulebook(roles, policies)


@pytest.mark.parametrize(
    ("rules", "roles", "kind", "condition"),
    [
        (book(), ["a"], "denied", ""),
        (book(a=("tasks.*",)), ["a"], "allowed", ""),
        (book(a=("*",)), ["a"], "allowed", ""),
        (book(a=("tasks.read", "projects.*")), ["a"], "denied", ""),
        (book(a=("*",)), ["b"], "denied", ""),
        (book(rule("p")), [], "allowed", ""),
        (book(rule("p", roles=("a",))), [], "denied", ""),
        (book(rule("p", allow=False), a=("*",)), ["a"], "denied", ""),
        (book(rule("p", "false"), rule("q", "true")), [], "allowed", ""),
        (book(rule("p", "true", allow=False), a=("*",)), ["a"], "denied", ""),
        (book(rule("p", 'resource.id == "x"')), [], "conditional", '(resource.id == "x")'),
        (
            book(rule("p", 'resource.id == "x"', allow=False), a=("*",)),
            ["a"],
            "conditional",
            '!(resource.id == "x")',
        ),
        # what cannot be compiled grants nothing, and denies everything
        (book(rule("p", "resource.colour")), [], "denied", ""),
        (book(rule("p", "resource.colour", allow=False), a=("*",)), ["a"], "denied", ""),
        (book(rule("p", "true) || (true")), [], "denied", ""),
    ],
)
def test_what_rights_come_to(rules: Rulebook, roles: list[str], kind: str, condition: str) -> None:
    """AUTHZ-1: deny by default; wildcards; an explicit deny wins; doubt denies."""
    plan = make_plan(rules, roles, PERMISSION)
    assert (plan.kind, plan.condition) == (kind, condition)


def test_asking_about_others_is_granted_without_a_condition_or_not_at_all() -> None:
    """AUTHZ-1: there is no resource that a condition could look at."""
    everything = PolicyRule("p", True, frozenset(), ("*",), 'principal.id == "user_a"')
    assert make_plan(book(everything), [], permissions.CHECK_OTHERS).kind == "denied"
    denial = PolicyRule("p", False, frozenset(), ("*",), 'principal.id == "user_a"')
    assert make_plan(book(denial, a=("authz.check",)), ["a"], permissions.CHECK_OTHERS).kind == "denied"
    assert make_plan(book(a=("authz.*",)), ["a"], permissions.CHECK_OTHERS).kind == "allowed"


def test_what_a_caller_says_of_a_resource() -> None:
    """AUTHZ-6: known fields in their JSON forms; the rest, and the organization, are left out."""
    given_values = {"id": "t", "labels": ["a"], "organization": "o", "colour": "red", "type": "task"}
    assert resource_values("tasks.read", given_values) == {"id": "t", "labels": ["a"]}
    assert resource_values(permissions.CHECK_OTHERS, {"id": "x"}) == {}


# the reference: every condition by itself, three-valued logic written out

CONDITIONS = [
    "",
    "true",
    "false",
    'resource.priority == "urgent"',
    "principal.id in resource.editors",
    'resource.visibility == "organization" || principal.id in resource.members',
    '"lead" in principal.roles',
    "resource.labels.exists(l, l == 'hot') // a comment",
    "size(resource.assignees) > 1 && !(principal.id in resource.assignees)",
    'now > timestamp("2029-01-01T00:00:00Z")',
    "resource.nonsense == 1",
]
ROLES = ["lead", "clerk", "guest"]
PATTERNS = ["*", "tasks.*", "tasks.update", "tasks.read", "users.*"]
policies = st.builds(
    PolicyRule,
    name=st.sampled_from("pqrstuvw"),
    allow=st.booleans(),
    roles=st.frozensets(st.sampled_from(ROLES), max_size=2),
    permissions=st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=2).map(tuple),
    condition=st.sampled_from(CONDITIONS),
)
books = st.builds(
    Rulebook,
    roles=st.dictionaries(st.sampled_from(ROLES), st.lists(st.sampled_from(PATTERNS), max_size=2).map(tuple)),
    policies=st.lists(policies, max_size=6).map(tuple),
)
users = st.lists(st.sampled_from(["user_a", "user_b"]), max_size=2)
resources = st.fixed_dictionaries(
    {},
    optional={
        "id": st.just("task_1"),
        "priority": st.sampled_from(["urgent", "low"]),
        "visibility": st.sampled_from(["private", "organization"]),
        "labels": st.lists(st.sampled_from(["hot", "cold"]), max_size=2),
        "assignees": users,
        "members": users,
        "editors": users,
    },
)


def matches(pattern: str, permission: str) -> bool:
    """Wildcards, said another way."""
    kind, _, verb = permission.partition(".")
    return pattern in {"*", f"{kind}.*", f"{kind}.{verb}"}


def truth(condition: str, permission: str, bindings: dict[str, Any]) -> bool | None:
    """True, false, or None for an error."""
    try:
        return bool(environment_for(permission).compile(condition or "true").evaluate(bindings))
    except CelError:
        return None


def reference(rules: Rulebook, roles: list[str], permission: str, bindings: dict[str, Any]) -> bool:
    """AUTHZ-1 word for word."""
    about = [
        p
        for p in rules.policies
        if any(matches(x, permission) for x in p.permissions) and (not p.roles or p.roles & set(roles))
    ]
    if any(truth(p.condition, permission, bindings) is not False for p in about if not p.allow):
        return False
    if any(matches(x, permission) for name in roles for x in rules.roles.get(name, ())):
        return True
    return any(truth(p.condition, permission, bindings) is True for p in about if p.allow)


@settings(max_examples=400, deadline=None)
@given(
    rules=books,
    roles=st.lists(st.sampled_from(ROLES), unique=True).map(sorted),
    permission=st.sampled_from(["tasks.update", "tasks.read", "users.read"]),
    resource=resources,
)
def test_a_plan_and_its_explanation_decide_as_the_reference_does(
    rules: Rulebook, roles: list[str], permission: str, resource: dict[str, Any]
) -> None:
    """AUTHZ-5, AUTHZ-6: plan, then evaluate ≡ explain ≡ the naive evaluator, missing fields included."""
    principal = {"id": "user_a", "type": "user", "organization": "org", "roles": roles}
    bindings = {"principal": principal, "resource": resource_values(permission, resource), "now": NOW}
    plan = make_plan(rules, roles, permission)
    decided = plan.kind == "allowed"
    if plan.kind == "conditional":
        program = program_of(plan.condition, permission)
        assert program is not None
        decided = program.test(bindings)
    assert decided == reference(rules, roles, permission, bindings)
    assert explain(rules, roles, permission, bindings).allowed == decided
