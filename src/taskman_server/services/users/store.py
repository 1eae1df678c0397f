"""The users' table and its queries; nothing else in the service touches SQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    bindparam,
    insert,
    select,
    true,
    update,
)

from taskman_server.kit.cache import ReadCache
from taskman_server.kit.db import Database, Row, Statement, Transaction, UtcTimestamp
from taskman_server.kit.outbox import add_event_tables
from taskman_server.kit.paging import Keyset, SortKey

__all__ = ["FILTER_COLUMNS", "METADATA", "ORDERS", "RESOURCE_COLUMNS", "USERS", "UserCache", "UserStore", "keyset"]

METADATA = MetaData()
USERS = Table(
    "users",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("organization", Text, nullable=False),
    Column("email", Text, nullable=False),
    Column("display_name", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("locale", Text, nullable=False),
    Column("time_zone", Text, nullable=False),
    Column("registration", Text),  # the sign-up that made the user, where one did
    Column("version", Integer, nullable=False),
    Column("create_time", UtcTimestamp, nullable=False),
    Column("update_time", UtcTimestamp, nullable=False),
    # Everywhere, not just in the organization: sign-in must be unambiguous (OPEN-POINTS 3).
    UniqueConstraint("email", name="users_email"),
    UniqueConstraint("registration", name="users_registration"),
    Index("users_create_time", "organization", "create_time", "id"),
    Index("users_display_name", "organization", "display_name", "id"),
    Index("users_organization_email", "organization", "email", "id"),
)
add_event_tables(METADATA)

_C = USERS.c
FILTER_COLUMNS: Mapping[str, ColumnElement[Any]] = {
    column.name: column
    for column in (
        _C.id, _C.email, _C.display_name, _C.state, _C.locale, _C.time_zone, _C.create_time, _C.update_time
    )
}  # fmt: skip
RESOURCE_COLUMNS: Mapping[str, ColumnElement[Any]] = {
    "resource.id": _C.id,
    "resource.email": _C.email,
    "resource.state": _C.state,
}
ORDERS: Mapping[str, Column[Any]] = {
    "create_time": _C.create_time,
    "display_name": _C.display_name,
    "email": _C.email,
}


def _within(organization: Any) -> ColumnElement[bool]:
    # IS TRUE: else SQLite, which takes an organization for ten people, reads all of it by its index.
    ours: ColumnElement[bool] = _C.organization == organization
    return ours.is_(true())


_GET_LOCKED = Statement(
    select(USERS).where(_C.organization == bindparam("organization"), _C.id == bindparam("id")).with_for_update()
)
# The one that looks across organizations: an address is unique everywhere.
_BY_EMAIL = Statement(select(USERS).where(_C.email == bindparam("email")))
_SEVERAL = Statement(
    select(USERS).where(_within(bindparam("organization")), _C.id.in_(bindparam("ids", expanding=True)))
)
_INSERT = Statement(insert(USERS))
_UPDATE = Statement(
    update(USERS)
    .where(_C.organization == bindparam("tenant"), _C.id == bindparam("user"))
    .values(
        display_name=bindparam("display_name"),
        locale=bindparam("locale"),
        time_zone=bindparam("time_zone"),
        state=bindparam("state"),
        version=bindparam("version"),
        update_time=bindparam("update_time"),
    )
)


def keyset(order: str, *, descending: bool) -> Keyset:
    """The order of a list, made total by the id."""
    return Keyset(SortKey(ORDERS[order], descending=descending), SortKey(_C.id, descending=descending))


UserCache = ReadCache[tuple[str, str], Row]
"""Users by organization and id."""


class UserStore:
    """The users."""

    def __init__(self, db: Database, cache: UserCache | None = None) -> None:
        """`cache`: for reads by id outside of transactions, where nobody else writes to the database."""
        self.db = db
        self._cache = cache
        db.prepare(_GET_LOCKED, _SEVERAL, _UPDATE)

    async def get(self, organization: str, user: str) -> Row | None:
        """One user."""
        rows = await self._by_id(organization, (user,))
        return rows[0] if rows else None

    async def get_for_update(self, tx: Transaction, organization: str, user: str) -> Row | None:
        """One user, locked until the end of the transaction."""
        return await tx.fetch_one(_GET_LOCKED, organization=organization, id=user)

    async def by_email(self, email: str, tx: Transaction | None = None) -> Row | None:
        """The user of an address in its normal form, in whatever organization."""
        return await (tx or self.db).fetch_one(_BY_EMAIL, email=email)

    async def insert(
        self,
        tx: Transaction,
        *,
        user: str,
        organization: str,
        email: str,
        display_name: str,
        locale: str,
        time_zone: str,
        registration: str | None,
        now: datetime,
    ) -> None:
        """Another user.

        Raises:
            UniqueViolation: the address or the registration has one.
        """
        await tx.execute(
            _INSERT,
            id=user,
            organization=organization,
            email=email,
            display_name=display_name,
            state="active",
            locale=locale,
            time_zone=time_zone,
            registration=registration,
            version=1,
            create_time=now,
            update_time=now,
        )

    async def update(self, tx: Transaction, row: Row, changes: Mapping[str, str], now: datetime) -> None:
        """Changes a user; `changes` by column."""
        if self._cache is not None:
            self._cache.forget(tx, (row.organization, row.id))
        values = {name: getattr(row, name) for name in ("display_name", "locale", "time_zone", "state")}
        await tx.execute(
            _UPDATE,
            tenant=row.organization,
            user=row.id,
            version=row.version + 1,
            update_time=now,
            **(values | dict(changes)),
        )

    async def page(
        self,
        organization: str,
        conditions: Sequence[ColumnElement[bool]],
        order: Keyset,
        limit: int,
    ) -> list[Row]:
        """Users of an organization that meet all conditions, in order."""
        statement = select(USERS).where(_C.organization == organization, *conditions)
        return await self.db.fetch_all(statement.order_by(*order.order_by()).limit(limit))

    async def several(
        self, organization: str, ids: Sequence[str], emails: Sequence[str], conditions: Sequence[ColumnElement[bool]]
    ) -> list[Row]:
        """Users by id or address, in no order."""
        if not emails and not conditions:
            return await self._by_id(organization, ids)
        statement = select(USERS).where(_within(organization), _C.id.in_(ids) | _C.email.in_(emails))
        return await self.db.fetch_all(statement.where(*conditions))

    async def _by_id(self, organization: str, ids: Sequence[str]) -> list[Row]:
        if (cache := self._cache) is None:
            return await self.db.fetch_all(_SEVERAL, organization=organization, ids=ids)
        known = [row for user in ids if (row := cache.get((organization, user))) is not None]
        if len(known) == len(ids):
            return known
        changes = cache.changes
        rows = await self.db.fetch_all(_SEVERAL, organization=organization, ids=ids)
        for row in rows:
            cache.keep((organization, row.id), row, changes)
        return rows
