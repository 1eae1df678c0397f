# Generated from the contract by `python -m tools.protogen`. Do not edit.
"""Models of the area `user`."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from taskman_sdk.models._base import Model

__all__ = [
    "BatchGetUsersResponse",
    "ListUsersResponse",
    "User",
]


class User(Model):
    """A person.

    Attributes:
        id: The id, `user_…`.
        email: The address, unique everywhere, in its normal form.
        display_name: The name that others see.
        state: `active` or `deactivated`.
        locale: BCP 47 language tag, for example `en`.
        time_zone: IANA time zone, for example `Europe/Berlin`.
        create_time: When the record was made.
        update_time: When it last changed.
        etag: Changes with every change; send it back to change only what you saw (RFC 9110, AIP-154).
    """

    id: str = Field(default="", description="The id, `user_…`.")
    email: str = Field(default="", max_length=254, description="The address, unique everywhere, in its normal form.")
    display_name: str = Field(default="", max_length=200, description="The name that others see.")
    state: Literal["active", "deactivated"] | str = Field(default="", description="`active` or `deactivated`.")
    locale: str = Field(
        default="",
        max_length=35,
        pattern="^$|^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*$",
        description="BCP 47 language tag, for example `en`.",
    )
    time_zone: str = Field(default="", max_length=64, description="IANA time zone, for example `Europe/Berlin`.")
    create_time: datetime | None = Field(default=None, description="When the record was made.")
    update_time: datetime | None = Field(default=None, description="When it last changed.")
    etag: str = Field(
        default="",
        max_length=64,
        description="Changes with every change; send it back to change only what you saw (RFC 9110, AIP-154).",
    )


class ListUsersResponse(Model):
    """A page of users.

    Attributes:
        users: The users.
        next_page_token: Empty on the last page.
    """

    users: list[User] = Field(default_factory=list, description="The users.")
    next_page_token: str = Field(default="", description="Empty on the last page.")


class BatchGetUsersResponse(Model):
    """The users that were found.

    Attributes:
        users: In the order asked.
    """

    users: list[User] = Field(default_factory=list, description="In the order asked.")
