# Generated from the contract by `python -m tools.protogen`. Do not edit.
"""Models of the area `iam`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from taskman_sdk.models._base import Model, enum_name

__all__ = [
    "Assignment",
    "DeleteAssignmentResponse",
    "DeletePolicyResponse",
    "DeleteRoleResponse",
    "Effect",
    "ListAssignmentsResponse",
    "ListPermissionsResponse",
    "ListPoliciesResponse",
    "ListRolesResponse",
    "Permission",
    "Policy",
    "Role",
]


Effect = Annotated[Literal["EFFECT_UNSPECIFIED", "EFFECT_ALLOW", "EFFECT_DENY"] | str, enum_name]
"""What a policy does where its condition holds. A newer server may answer other values."""


class Role(Model):
    """A named set of permissions.

    Attributes:
        id: The id, `role_…`; system roles are `admin`, `member`, `viewer`.
        name: The name, unique in the organization.
        description: What it is for.
        permissions: Permissions such as `tasks.update`, `tasks.*` or `*`.
        system: Ships with the system and cannot be changed.
        create_time: When the record was made.
        update_time: When it last changed.
        etag: Changes with every change.
    """

    id: str = Field(default="", description="The id, `role_…`; system roles are `admin`, `member`, `viewer`.")
    name: str = Field(
        default="", pattern="^$|^[a-z][a-z0-9_-]{0,62}$", description="The name, unique in the organization."
    )
    description: str = Field(default="", max_length=1000, description="What it is for.")
    permissions: list[str] = Field(
        default_factory=list, max_length=500, description="Permissions such as `tasks.update`, `tasks.*` or `*`."
    )
    system: bool = Field(default=False, description="Ships with the system and cannot be changed.")
    create_time: datetime | None = Field(default=None, description="When the record was made.")
    update_time: datetime | None = Field(default=None, description="When it last changed.")
    etag: str = Field(default="", max_length=64, description="Changes with every change.")


class DeleteRoleResponse(Model):
    """The role is gone."""


class ListRolesResponse(Model):
    """A page of roles.

    Attributes:
        roles: The roles.
        next_page_token: Empty on the last page.
    """

    roles: list[Role] = Field(default_factory=list, description="The roles.")
    next_page_token: str = Field(default="", description="Empty on the last page.")


class Policy(Model):
    """A rule with a condition (AUTHZ-2).

    Attributes:
        id: The id, `policy_…`.
        name: The name, unique in the organization.
        description: What it is for.
        effect: Grant or refuse.
        roles: The names of the roles it is about; empty for everyone.
        permissions: Permissions such as `tasks.update`, `tasks.*` or `*`.
        condition: A CEL expression over `principal`, `resource` and `now`; empty for always.
        system: Ships with the system and cannot be changed.
        create_time: When the record was made.
        update_time: When it last changed.
        etag: Changes with every change.
    """

    id: str = Field(default="", description="The id, `policy_…`.")
    name: str = Field(
        default="", pattern="^$|^[a-z][a-z0-9_-]{0,62}$", description="The name, unique in the organization."
    )
    description: str = Field(default="", max_length=1000, description="What it is for.")
    effect: Effect = Field(default="EFFECT_UNSPECIFIED", description="Grant or refuse.")
    roles: list[str] = Field(
        default_factory=list, max_length=100, description="The names of the roles it is about; empty for everyone."
    )
    permissions: list[str] = Field(
        default_factory=list, max_length=500, description="Permissions such as `tasks.update`, `tasks.*` or `*`."
    )
    condition: str = Field(
        default="",
        max_length=4096,
        description="A CEL expression over `principal`, `resource` and `now`; empty for always.",
    )
    system: bool = Field(default=False, description="Ships with the system and cannot be changed.")
    create_time: datetime | None = Field(default=None, description="When the record was made.")
    update_time: datetime | None = Field(default=None, description="When it last changed.")
    etag: str = Field(default="", max_length=64, description="Changes with every change.")


class DeletePolicyResponse(Model):
    """The policy is gone."""


class ListPoliciesResponse(Model):
    """A page of policies.

    Attributes:
        policies: The policies.
        next_page_token: Empty on the last page.
    """

    policies: list[Policy] = Field(default_factory=list, description="The policies.")
    next_page_token: str = Field(default="", description="Empty on the last page.")


class Assignment(Model):
    """A role given to a principal.

    Attributes:
        id: The id, `assignment_…`.
        principal: Who: `user_…`.
        role: The name of the role.
        expire_time: When it ends; never when not set.
        create_time: When the record was made.
    """

    id: str = Field(default="", description="The id, `assignment_…`.")
    principal: str = Field(default="", max_length=100, description="Who: `user_…`.")
    role: str = Field(default="", max_length=63, description="The name of the role.")
    expire_time: datetime | None = Field(default=None, description="When it ends; never when not set.")
    create_time: datetime | None = Field(default=None, description="When the record was made.")


class DeleteAssignmentResponse(Model):
    """The assignment is gone."""


class ListAssignmentsResponse(Model):
    """A page of assignments.

    Attributes:
        assignments: The assignments.
        next_page_token: Empty on the last page.
    """

    assignments: list[Assignment] = Field(default_factory=list, description="The assignments.")
    next_page_token: str = Field(default="", description="Empty on the last page.")


class Permission(Model):
    """One permission of the catalogue.

    Attributes:
        name: For example `tasks.update`.
        methods: The RPCs that need it.
    """

    name: str = Field(default="", description="For example `tasks.update`.")
    methods: list[str] = Field(default_factory=list, description="The RPCs that need it.")


class ListPermissionsResponse(Model):
    """The catalogue.

    Attributes:
        permissions: Every permission, by name.
    """

    permissions: list[Permission] = Field(default_factory=list, description="Every permission, by name.")
