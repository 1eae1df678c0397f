"""Rows as messages of the contract, and what policies can look at of them."""

from __future__ import annotations

from typing import Any

from taskman_sdk.codec import Timestamp
from taskman_sdk.proto.taskman.iam.v1.iam_pb import Assignment, Effect, Policy, Role
from taskman_server.kit.db import Row
from taskman_server.services.iam.rules import etag

__all__ = ["assignment_of", "effect_name", "policy_of", "resource_of", "role_of"]

_NAMES = {Effect.UNSPECIFIED: "", Effect.ALLOW: "EFFECT_ALLOW", Effect.DENY: "EFFECT_DENY"}
_EFFECTS = {name: effect for effect, name in _NAMES.items()}


def effect_name(effect: Effect) -> str:
    """The contract's name of an effect, for example `EFFECT_ALLOW`: how rows and filters say it."""
    return _NAMES[effect]


def role_of(row: Row) -> Role:
    """The role in a row."""
    return Role(
        id=row.id,
        name=row.name,
        description=row.description,
        permissions=list(row.permissions),
        create_time=Timestamp.from_datetime(row.create_time),
        update_time=Timestamp.from_datetime(row.update_time),
        etag=etag(row.id, row.revision),
    )


def policy_of(row: Row) -> Policy:
    """The policy in a row."""
    return Policy(
        id=row.id,
        name=row.name,
        description=row.description,
        effect=_EFFECTS[row.effect],
        roles=list(row.roles),
        permissions=list(row.permissions),
        condition=row.condition,
        create_time=Timestamp.from_datetime(row.create_time),
        update_time=Timestamp.from_datetime(row.update_time),
        etag=etag(row.id, row.revision),
    )


def assignment_of(row: Row) -> Assignment:
    """The assignment in a row."""
    return Assignment(
        id=row.id,
        principal=row.principal,
        role=row.role,
        expire_time=None if row.expire_time is None else Timestamp.from_datetime(row.expire_time),
        create_time=Timestamp.from_datetime(row.create_time),
    )


def resource_of(message: Role | Policy | Assignment) -> dict[str, Any]:
    """What policies can look at (the contract's `IamResource`)."""
    if isinstance(message, Assignment):
        return {"id": message.id, "name": message.role, "principal": message.principal}
    return {"id": message.id, "name": message.name, "principal": ""}
