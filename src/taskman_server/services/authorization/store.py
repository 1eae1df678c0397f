"""The copy of roles, policies and assignments that decisions are made from, and how far it has come (AUTHZ-4).

Every row knows the version of the organization at which it last changed. A deleted one stays as `gone` for as long as
an older event about it can still arrive.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import bindparam

from taskman_server.kit.db import Database, JsonText, Statement, Transaction, UtcTimestamp
from taskman_server.kit.outbox import add_event_tables
from taskman_server.services.authorization.rules import PolicyRule, Rulebook

__all__ = ["ASSIGNMENTS", "METADATA", "POLICIES", "ROLES", "AuthorizationStore", "State"]

METADATA: Final = sa.MetaData()

ORGANIZATIONS: Final = sa.Table(
    "organizations",
    METADATA,
    sa.Column("organization", sa.Text, primary_key=True),
    # every change up to this version of IAM is in the copy
    sa.Column("version", sa.BigInteger, nullable=False),
    # versions beyond a gap that are in it too
    sa.Column("ahead", JsonText, nullable=False),
    # counts changes of the copy itself, in whatever order they came
    sa.Column("generation", sa.BigInteger, nullable=False),
    # whether it was ever made from a snapshot; before, the system's roles are missing
    sa.Column("loaded", sa.Boolean, nullable=False),
)

ROLES: Final = sa.Table(
    "roles",
    METADATA,
    sa.Column("organization", sa.Text, primary_key=True),
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("gone", sa.Boolean, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("permissions", JsonText, nullable=False),
)

POLICIES: Final = sa.Table(
    "policies",
    METADATA,
    sa.Column("organization", sa.Text, primary_key=True),
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("gone", sa.Boolean, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("allow", sa.Boolean, nullable=False),
    sa.Column("roles", JsonText, nullable=False),
    sa.Column("permissions", JsonText, nullable=False),
    sa.Column("condition", sa.Text, nullable=False),
)

ASSIGNMENTS: Final = sa.Table(
    "assignments",
    METADATA,
    sa.Column("organization", sa.Text, primary_key=True),
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("gone", sa.Boolean, nullable=False),
    sa.Column("principal", sa.Text, nullable=False),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("expire_time", UtcTimestamp),
    sa.Index("assignments_principal", "organization", "principal"),
)

add_event_tables(METADATA)

_STATE = Statement(sa.select(ORGANIZATIONS).where(ORGANIZATIONS.c.organization == bindparam("of")))
_STATE_ADD = Statement(sa.insert(ORGANIZATIONS))
_STATE_SET = Statement(
    sa.update(ORGANIZATIONS)
    .where(ORGANIZATIONS.c.organization == bindparam("of"))
    .values({name: bindparam(name) for name in ("version", "ahead", "generation", "loaded")})
)
_HELD = Statement(
    sa.select(ASSIGNMENTS.c.role, ASSIGNMENTS.c.expire_time).where(
        ASSIGNMENTS.c.organization == bindparam("of"),
        ASSIGNMENTS.c.principal == bindparam("principal"),
        ASSIGNMENTS.c.gone == sa.false(),
    )
)


class _Table:
    """The statements that all three tables have."""

    def __init__(self, table: sa.Table) -> None:
        of, key, live = table.c.organization == bindparam("of"), table.c.id == bindparam("key"), table.c.gone
        changes: dict[str, Any] = {c.name: bindparam(c.name) for c in table.c if c.name not in ("id", "organization")}
        self.version = Statement(sa.select(table.c.version).where(of, key))
        self.present = Statement(sa.select(table).where(of, live == sa.false()).order_by(table.c.id))
        self.newer = Statement(sa.select(table.c.id).where(of, table.c.version > bindparam("than")))
        self.add = Statement(sa.insert(table))
        self.change = Statement(sa.update(table).where(of, key).values(changes))
        self.drop_upto = Statement(sa.delete(table).where(of, table.c.version <= bindparam("upto")))
        self.drop_gone = Statement(sa.delete(table).where(of, live == sa.true(), table.c.version <= bindparam("upto")))
        self.drop_all = Statement(sa.delete(table).where(of))


_TABLES: Final[Mapping[sa.Table, _Table]] = {table: _Table(table) for table in (ROLES, POLICIES, ASSIGNMENTS)}


@dataclass(frozen=True, slots=True)
class State:
    """How far the copy of an organization has come; see the table."""

    version: int = 0
    ahead: tuple[int, ...] = ()
    generation: int = 0
    loaded: bool = False

    @property
    def latest(self) -> int:
        """The newest version that is in the copy."""
        return max(self.ahead, default=self.version)


class AuthorizationStore:
    """The copy in one database."""

    def __init__(self, db: Database) -> None:
        self._db = db
        db.prepare(_STATE, _HELD)

    async def state(self, organization: str, tx: Transaction | None = None) -> State | None:
        """How far the copy has come; None when there is none."""
        row = await (tx or self._db).fetch_one(_STATE, of=organization)
        return None if row is None else State(row.version, tuple(row.ahead), row.generation, bool(row.loaded))

    async def lock(self, tx: Transaction, organization: str) -> None:
        """From here on to the end of the transaction nobody else changes the copy of the organization."""
        await tx.take_turn(f"copy {organization}")

    async def set_state(self, tx: Transaction, organization: str, before: State | None, after: State) -> None:
        """Notes how far the copy has come."""
        values = {
            "version": after.version,
            "ahead": list(after.ahead),
            "generation": after.generation,
            "loaded": after.loaded,
        }
        if before is None:
            await tx.execute(_STATE_ADD, organization=organization, **values)
        else:
            await tx.execute(_STATE_SET, of=organization, **values)

    async def held(self, organization: str, principal: str) -> list[tuple[str, datetime | None]]:
        """The roles assigned to a principal, with their ends; expired ones too."""
        rows = await self._db.fetch_all(_HELD, of=organization, principal=principal)
        return [(row.role, row.expire_time) for row in rows]

    async def rulebook(self, organization: str) -> Rulebook:
        """All roles and policies."""
        roles = await self._db.fetch_all(_TABLES[ROLES].present, of=organization)
        policies = await self._db.fetch_all(_TABLES[POLICIES].present, of=organization)
        return Rulebook(
            {row.name: tuple(row.permissions) for row in roles},
            tuple(
                PolicyRule(row.name, bool(row.allow), frozenset(row.roles), tuple(row.permissions), row.condition)
                for row in policies
            ),
        )

    async def put(
        self, tx: Transaction, table: sa.Table, organization: str, key: str, version: int, **values: Any
    ) -> None:
        """Writes a row, unless a newer change of it is there already."""
        known = await tx.fetch_one(_TABLES[table].version, of=organization, key=key)
        if known is None:
            await tx.execute(_TABLES[table].add, organization=organization, id=key, version=version, **values)
        elif known.version < version:
            await tx.execute(_TABLES[table].change, of=organization, key=key, version=version, **values)

    async def replace(
        self, tx: Transaction, table: sa.Table, organization: str, version: int, rows: Sequence[Mapping[str, Any]]
    ) -> None:
        """Puts the rows of a snapshot of that version in the place of all that is not newer."""
        await tx.execute(_TABLES[table].drop_upto, of=organization, upto=version)
        newer = {row.id for row in await tx.fetch_all(_TABLES[table].newer, of=organization, than=version)}
        fresh = [
            {**row, "organization": organization, "version": version, "gone": False}
            for row in rows
            if row["id"] not in newer
        ]
        if fresh:
            await tx.execute_many(_TABLES[table].add, fresh)

    async def forget_gone(self, tx: Transaction, organization: str, upto: int) -> None:
        """Drops what is left of deleted rows about which no older event can arrive any more."""
        for each in _TABLES.values():
            await tx.execute(each.drop_gone, of=organization, upto=upto)

    async def clear(self, tx: Transaction, organization: str) -> None:
        """Drops the copy's rows."""
        for each in _TABLES.values():
            await tx.execute(each.drop_all, of=organization)
