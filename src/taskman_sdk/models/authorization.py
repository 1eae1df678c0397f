# Generated from the contract by `python -m tools.protogen`. Do not edit.
"""Models of the area `authorization`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from taskman_sdk.models._base import Model, enum_name

__all__ = [
    "CheckResponse",
    "PlanKind",
    "PlanResourcesResponse",
]


PlanKind = Annotated[
    Literal["PLAN_KIND_UNSPECIFIED", "PLAN_KIND_ALWAYS_DENIED", "PLAN_KIND_ALWAYS_ALLOWED", "PLAN_KIND_CONDITIONAL"]
    | str,
    enum_name,
]
"""How far a permission reaches. A newer server may answer other values."""


class CheckResponse(Model):
    """The decision.

    Attributes:
        allowed: True when the principal may.
        explanation: Why, in words fit for a person: the policy or role that decided.
    """

    allowed: bool = Field(default=False, description="True when the principal may.")
    explanation: str = Field(default="", description="Why, in words fit for a person: the policy or role that decided.")


class PlanResourcesResponse(Model):
    """The rights of a principal to a permission.

    Attributes:
        kind: How far the permission reaches.
        condition: A CEL expression over `principal`, `resource` and `now`, when `kind` is conditional.
        roles: The roles of the principal, for `principal.roles`.
        version: Grows with every change of roles, policies or assignments.
        expire_time: When the first of the roles ends by itself, and the plan with it. Missing when none does.
        generation: Counts the changes of the organization's roles, policies and assignments that were known
            before this was read: as long as answers have the same one, nothing has changed. 0 when nothing is
            said of that.
    """

    kind: PlanKind = Field(default="PLAN_KIND_UNSPECIFIED", description="How far the permission reaches.")
    condition: str = Field(
        default="", description="A CEL expression over `principal`, `resource` and `now`, when `kind` is conditional."
    )
    roles: list[str] = Field(default_factory=list, description="The roles of the principal, for `principal.roles`.")
    version: int = Field(default=0, description="Grows with every change of roles, policies or assignments.")
    expire_time: datetime | None = Field(
        default=None,
        description="When the first of the roles ends by itself, and the plan with it. Missing when none does.",
    )
    generation: int = Field(
        default=0,
        description="Counts the changes of the organization's roles, policies and assignments that were known "
        "before this was read: as long as answers have the same one, nothing has changed. 0 when "
        "nothing is said of that.",
    )
