"""What roles, policies and assignments must be (IAM-1, IAM-3)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from taskman_sdk.errors import FailedPreconditionError, InvalidArgumentError, PermissionDeniedError
from taskman_sdk.proto.taskman.iam.v1.iam_pb import Effect, Policy, Role
from taskman_server.kit import permissions
from taskman_server.services.iam import defaults, rules

NOW = datetime(2030, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)


def admin(name: str, until: datetime | None = None) -> rules.AdminAssignment:
    """An assignment of `admin`."""
    return rules.AdminAssignment(name, f"user_{name}", until)


@pytest.mark.parametrize(
    ("others", "own_end", "active", "taken"),
    [
        ([], None, "", False),
        ([admin("b")], None, "b", True),
        ([admin("b")], None, "", False),
        ([admin("b", LATER)], None, "b", False),
        ([admin("b", LATER)], LATER, "b", True),
        ([admin("b", NOW)], LATER, "b", False),
        ([], NOW, "", True),
        ([], LATER, "", False),
        ([admin("b", LATER), admin("c")], None, "bc", True),
    ],
)
def test_who_counts_as_the_last_administrator(
    others: list[rules.AdminAssignment], own_end: datetime | None, active: str, taken: bool
) -> None:
    """IAM-1: only one who stays for good and can sign in lets another go."""
    admins = [admin("a", own_end), *others]
    known = [f"user_{each}" for each in "a" + active]
    if taken:
        rules.check_last_admin("a", admins, known, NOW)
        return
    with pytest.raises(FailedPreconditionError) as refused:
        rules.check_last_admin("a", admins, known, NOW)
    assert refused.value.reason == "LAST_ADMIN"


def test_the_defaults_pass_what_everybody_s_must() -> None:
    """IAM-1, AUTHZ-3: permissions that exist, conditions that can be decided and planned, roles that exist."""
    names = {role.name for role in defaults.ROLES}
    for role in defaults.ROLES:
        rules.check_permissions(role.permissions, "role.permissions")
    for policy in defaults.POLICIES:
        rules.check_permissions(policy.permissions, "policy.permissions")
        rules.check_condition(policy)
        rules.check_roles_exist(policy.roles, names, "policy.roles")
        rules.check_no_lockout(policy)
        rules.check_fits_together(policy, [p for p in defaults.POLICIES if p is not policy])


def test_only_administrators_have_the_administrators_rights() -> None:
    """IAM-1: users, roles, policies, assignments, audit log, webhooks."""
    given = {each for role in defaults.ROLES if role.name != "admin" for each in permissions.expand(role.permissions)}
    given |= {each for policy in defaults.POLICIES for each in permissions.expand(policy.permissions)}
    kept = ("roles", "policies", "assignments", "audit", "webhooks", "deliveries", "authz")
    assert not {each for each in given if each.partition(".")[0] in kept}
    assert not given & {"users.create", "users.deactivate"}
    assert permissions.expand(["*"]) == set(permissions.catalogue())


def test_what_a_change_gives_somebody() -> None:
    """IAM-1: grants made, and denials made and undone."""
    allow = Policy(name="p", effect=Effect.ALLOW, permissions=["tasks.read"], roles=["lead"])
    deny = Policy(name="q", effect=Effect.DENY, permissions=["users.*"], roles=["lead"])
    assert rules.given_by_policy(None, allow) == {"tasks.read"}
    assert rules.given_by_policy(None, deny) == permissions.expand(["users.*"])
    assert rules.given_by_policy(allow, None) == set()
    assert rules.given_by_policy(deny, None) == permissions.expand(["users.*"])
    assert rules.given_by_policy(deny, allow) == {"tasks.read"} | permissions.expand(["users.*"])
    assert rules.given_by_role(Role(name="lead", permissions=["users.read"]), [allow, deny]) == {
        "tasks.read",
        "users.read",
    }
    assert rules.freed_by_leaving("lead", [allow, deny]) == permissions.expand(["users.*"])
    with pytest.raises(PermissionDeniedError) as missing:
        rules.check_grants({"tasks.read", "users.read"}, {"tasks.read"}, "It")
    assert missing.value.metadata == {"missing": "users.read"}


@pytest.mark.parametrize(
    ("pattern", "permission", "covered"),
    [
        ("*", "tasks.read", True),
        ("tasks.*", "tasks.read", True),
        ("tasks.*", "task.read", False),
        ("task.*", "tasks.read", False),
        ("tasks.read", "tasks.read", True),
        ("tasks.read", "tasks.update", False),
    ],
)
def test_patterns_of_permissions(pattern: str, permission: str, covered: bool) -> None:
    """IAM-3."""
    assert permissions.covers(pattern, permission) is covered


def test_a_pattern_that_covers_nothing_is_refused() -> None:
    """IAM-3: with what is near."""
    with pytest.raises(InvalidArgumentError) as refused:
        rules.check_permissions(["*", "project.*"], "role.permissions")
    assert "projects.*" in refused.value.message


def test_etags_differ_with_every_revision() -> None:
    """AIP-154."""
    seen = {rules.etag(name, revision) for name in ("role_a", "role_b") for revision in range(100)}
    assert len(seen) == 200
    assert len({role.etag for role in defaults.ROLES} | {policy.etag for policy in defaults.POLICIES}) == 7


@pytest.mark.parametrize(
    ("effect", "roles", "refused"),
    [
        (Effect.DENY, [], True),
        (Effect.DENY, ["lead", "admin"], True),
        (Effect.DENY, ["lead"], False),
        (Effect.ALLOW, [], False),
        (Effect.ALLOW, ["admin"], False),
    ],
)
def test_who_may_deny_something_to_administrators(effect: Effect, roles: list[str], refused: bool) -> None:
    """IAM-1: administrators only, whether the denial comes or goes."""
    policy = Policy(name="p", effect=effect, permissions=["tasks.read"], roles=roles)
    for before, after in ((policy, None), (None, policy), (policy, policy)):
        rules.check_may_deny(before, after, by_admin=True)
        if not refused:
            rules.check_may_deny(before, after, by_admin=False)
            continue
        with pytest.raises(PermissionDeniedError) as caught:
            rules.check_may_deny(before, after, by_admin=False)
        assert caught.value.reason == "ADMIN_NEEDED"
