"""The roles and policies that every organization has: data, not rows, so that they cannot drift (IAM-1).

A grant without a condition stands in a role's permissions, one with a condition in a policy. What only administrators
may do (users, roles, policies, assignments, the audit log, webhooks) is granted to nobody else here.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

from taskman_sdk import codec
from taskman_sdk.proto.taskman.iam.v1.iam_pb import Effect, Policy, Role

__all__ = ["ADMIN", "DEFAULT_ROLE", "LEAST_ROLE", "POLICIES", "ROLES", "system_policy", "system_role"]

ADMIN: Final = "admin"
DEFAULT_ROLE: Final = "member"
LEAST_ROLE: Final = "viewer"


def _role(name: str, description: str, permissions: list[str]) -> Role:
    role = Role(id=name, name=name, description=description, permissions=permissions, system=True)
    return Role(
        id=name, name=name, description=description, permissions=permissions, system=True, etag=_fingerprint(role)
    )


def _policy(name: str, description: str, roles: list[str], permissions: list[str], condition: str) -> Policy:
    def made(etag: str) -> Policy:
        return Policy(
            id=name,
            name=name,
            description=description,
            effect=Effect.ALLOW,
            roles=roles,
            permissions=permissions,
            condition=condition,
            system=True,
            etag=etag,
        )

    return made(_fingerprint(made("")))


def _fingerprint(message: codec.Message[Any]) -> str:
    return hashlib.sha256(codec.to_binary(message)).hexdigest()[:16]


ROLES: Final[tuple[Role, ...]] = (
    _role(ADMIN, "Administers the organization: may do everything.", ["*"]),
    _role(DEFAULT_ROLE, "Starts projects and works in those it is a member of.", ["projects.create", "users.read"]),
    _role(LEAST_ROLE, "Reads what is open to it and changes nothing.", ["users.read"]),
)

POLICIES: Final[tuple[Policy, ...]] = (
    _policy(
        "readers",
        "Members and viewers read the projects they belong to and those open to the organization.",
        [DEFAULT_ROLE, LEAST_ROLE],
        ["projects.read", "tasks.read", "tasks.export"],
        'resource.visibility == "organization" || principal.id in resource.members',
    ),
    _policy(
        "editors",
        "Editors of a project work on its tasks.",
        [DEFAULT_ROLE],
        ["tasks.create", "tasks.update", "tasks.assign", "tasks.transition", "tasks.delete", "tasks.import"],
        "principal.id in resource.editors",
    ),
    _policy(
        "project-admins",
        "Admins of a project change it and choose its members.",
        [DEFAULT_ROLE],
        ["projects.update", "projects.manage_members"],
        "principal.id in resource.admins",
    ),
    _policy(
        "own-profile",
        "Everyone changes their own profile.",
        [],
        ["users.update"],
        "resource.id == principal.id",
    ),
)

_ROLES: Final = {role.name: role for role in ROLES}
_POLICIES: Final = {policy.name: policy for policy in POLICIES}


def system_role(name: str) -> Role | None:
    """The system role with this name, which is its id too."""
    return _ROLES.get(name)


def system_policy(name: str) -> Policy | None:
    """The system policy with this name, which is its id too."""
    return _POLICIES.get(name)
