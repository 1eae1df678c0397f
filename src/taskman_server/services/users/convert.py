"""Rows as messages of the contract, and what policies can look at of them."""

from __future__ import annotations

from typing import Any

from taskman_sdk.codec import Timestamp
from taskman_sdk.proto.taskman.user.v1.user_pb import User
from taskman_server.kit.db import Row
from taskman_server.services.users.rules import etag

__all__ = ["resource_of", "user_of"]


def user_of(row: Row) -> User:
    """The user in a row."""
    return User(
        id=row.id,
        email=row.email,
        display_name=row.display_name,
        state=row.state,
        locale=row.locale,
        time_zone=row.time_zone,
        create_time=Timestamp.from_datetime(row.create_time),
        update_time=Timestamp.from_datetime(row.update_time),
        etag=etag(row.id, row.version),
    )


def resource_of(row: Row) -> dict[str, Any]:
    """A user as policies see it (`UserResource`)."""
    return {"id": row.id, "email": row.email, "state": row.state}
