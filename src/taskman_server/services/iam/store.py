"""The tables of roles, policies and assignments, and all that is asked of them.

The system's own roles and policies are no rows (`defaults`). Every change counts its organization's version up in the
same commit, so that the copy in the Authorization service can tell what it has missed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import bindparam

from taskman_server.kit.cel import Collection
from taskman_server.kit.db import Database, JsonText, Row, Statement, Transaction, UniqueViolation, UtcTimestamp
from taskman_server.kit.outbox import add_event_tables

__all__ = ["ASSIGNMENTS", "METADATA", "POLICIES", "ROLES", "IamStore", "columns_of"]

METADATA: Final = sa.MetaData()

ORGANIZATIONS: Final = sa.Table(
    "organizations",
    METADATA,
    sa.Column("organization", sa.Text, primary_key=True),
    sa.Column("version", sa.BigInteger, nullable=False),
)

ROLES: Final = sa.Table(
    "roles",
    METADATA,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("organization", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("permissions", JsonText, nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("create_time", UtcTimestamp, nullable=False),
    sa.Column("update_time", UtcTimestamp, nullable=False),
    sa.UniqueConstraint("organization", "name", name="roles_name"),
)

POLICIES: Final = sa.Table(
    "policies",
    METADATA,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("organization", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("description", sa.Text, nullable=False),
    # the contract's name of the value, for example EFFECT_ALLOW
    sa.Column("effect", sa.Text, nullable=False),
    sa.Column("roles", JsonText, nullable=False),
    sa.Column("permissions", JsonText, nullable=False),
    sa.Column("condition", sa.Text, nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("create_time", UtcTimestamp, nullable=False),
    sa.Column("update_time", UtcTimestamp, nullable=False),
    sa.UniqueConstraint("organization", "name", name="policies_name"),
)

ASSIGNMENTS: Final = sa.Table(
    "assignments",
    METADATA,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("organization", sa.Text, nullable=False),
    sa.Column("principal", sa.Text, nullable=False),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("expire_time", UtcTimestamp),
    sa.Column("create_time", UtcTimestamp, nullable=False),
    sa.UniqueConstraint("organization", "principal", "role", name="assignments_principal_role"),
    sa.Index("assignments_role", "organization", "role"),
)

# Who was given a first role: kept when the role is taken away, so that a late event does not give it again.
PROVISIONS: Final = sa.Table(
    "provisions",
    METADATA,
    sa.Column("organization", sa.Text, primary_key=True),
    sa.Column("principal", sa.Text, primary_key=True),
    sa.Column("assignment", sa.Text, nullable=False),
)

# Who is shut out or about to be, by the version of their record at that time. What a request that then failed leaves
# behind makes somebody count less, never more.
SUSPENSIONS: Final = sa.Table(
    "suspensions",
    METADATA,
    sa.Column("organization", sa.Text, primary_key=True),
    sa.Column("principal", sa.Text, primary_key=True),
    sa.Column("revision", sa.BigInteger, nullable=False),
)

add_event_tables(METADATA)

_COUNT_UP = Statement(
    sa.update(ORGANIZATIONS)
    .where(ORGANIZATIONS.c.organization == bindparam("of"))
    .values(version=ORGANIZATIONS.c.version + 1)
    .returning(ORGANIZATIONS.c.version)
)
_COUNT_FIRST = Statement(sa.insert(ORGANIZATIONS).values(organization=bindparam("of"), version=1))
_VERSION = Statement(sa.select(ORGANIZATIONS.c.version).where(ORGANIZATIONS.c.organization == bindparam("of")))
_PRINCIPAL_ROLES = Statement(
    sa.select(ASSIGNMENTS).where(
        ASSIGNMENTS.c.organization == bindparam("of"), ASSIGNMENTS.c.principal == bindparam("principal")
    )
)
_HOLDERS = Statement(
    sa.select(ASSIGNMENTS)
    .where(ASSIGNMENTS.c.organization == bindparam("of"), ASSIGNMENTS.c.role == bindparam("role"))
    .order_by(ASSIGNMENTS.c.id)
)
_PROVISION = Statement(
    sa.select(PROVISIONS.c.assignment).where(
        PROVISIONS.c.organization == bindparam("of"), PROVISIONS.c.principal == bindparam("principal")
    )
)
_PROVISION_ADD = Statement(sa.insert(PROVISIONS))
_SUSPENDED = Statement(
    sa.select(SUSPENSIONS.c.principal, SUSPENSIONS.c.revision).where(SUSPENSIONS.c.organization == bindparam("of"))
)
_UNSUSPEND = Statement(
    sa.delete(SUSPENSIONS).where(
        SUSPENSIONS.c.organization == bindparam("of"),
        SUSPENSIONS.c.principal == bindparam("principal"),
        SUSPENSIONS.c.revision < bindparam("before"),
    )
)
_SUSPEND = Statement(sa.insert(SUSPENSIONS))


class _Table:
    """The statements that all three tables have."""

    def __init__(self, table: sa.Table) -> None:
        of, key = table.c.organization == bindparam("of"), table.c.id == bindparam("key")
        changes: dict[str, Any] = {
            c.name: bindparam(c.name) for c in table.c if c.name not in ("id", "organization", "create_time")
        }
        self.table = table
        self.get = Statement(sa.select(table).where(of, key))
        self.all = Statement(sa.select(table).where(of).order_by(table.c.id))
        self.add = Statement(sa.insert(table))
        self.change = Statement(sa.update(table).where(of, key).values(changes))
        self.drop = Statement(sa.delete(table).where(of, key))


_TABLES: Final[Mapping[sa.Table, _Table]] = {table: _Table(table) for table in (ROLES, POLICIES, ASSIGNMENTS)}


def columns_of(table: sa.Table, prefix: str = "") -> dict[str, sa.ColumnElement[Any] | Collection]:
    """The columns as expressions name them; `system` is never true of a row."""
    columns: dict[str, sa.ColumnElement[Any] | Collection] = {
        prefix + column.name: Collection.of_json(column) if isinstance(column.type, JsonText) else column
        for column in table.c
    }
    columns[prefix + "system"] = sa.literal(False)
    return columns


class IamStore:
    """Roles, policies and assignments in one database."""

    def __init__(self, db: Database) -> None:
        self._db = db
        for each in _TABLES.values():
            db.prepare(each.get, each.all, each.add, each.drop)

    async def get(self, table: sa.Table, organization: str, key: str, tx: Transaction | None = None) -> Row | None:
        """One row by its id; inside `tx` where one is given."""
        return await (tx or self._db).fetch_one(_TABLES[table].get, of=organization, key=key)

    async def all(self, table: sa.Table, organization: str, tx: Transaction | None = None) -> list[Row]:
        """Every row of the organization, oldest first."""
        return await (tx or self._db).fetch_all(_TABLES[table].all, of=organization)

    async def page(
        self,
        table: sa.Table,
        organization: str,
        conditions: Sequence[sa.ColumnElement[bool]],
        after: str,
        limit: int,
    ) -> list[Row]:
        """The rows that meet the conditions, in the order of their ids, from the one behind `after` on."""
        query = (
            sa.select(table)
            .where(table.c.organization == organization, table.c.id > after, *conditions)
            .order_by(table.c.id)
            .limit(limit)
        )
        return await self._db.fetch_all(query)

    async def add(self, table: sa.Table, tx: Transaction, **values: Any) -> None:
        """Adds a row.

        Raises:
            UniqueViolation: the name (of an assignment: principal and role) is taken.
        """
        await tx.execute(_TABLES[table].add, **values)

    async def change(self, table: sa.Table, tx: Transaction, organization: str, key: str, **values: Any) -> None:
        """Gives a row new values, all but its id, organization and time of creation.

        Raises:
            UniqueViolation: the name is taken.
        """
        await tx.execute(_TABLES[table].change, of=organization, key=key, **values)

    async def drop(self, table: sa.Table, tx: Transaction, organization: str, key: str) -> None:
        """Deletes a row."""
        await tx.execute(_TABLES[table].drop, of=organization, key=key)

    async def count_up(self, tx: Transaction, organization: str) -> int:
        """The organization's next version. Its row is locked from here on, so versions are in the order of commits."""
        row = await tx.fetch_one(_COUNT_UP, of=organization)
        if row is None:
            try:
                async with tx.savepoint():
                    await tx.execute(_COUNT_FIRST, of=organization)
                return 1
            except UniqueViolation:  # another one was first
                row = await tx.fetch_one(_COUNT_UP, of=organization)
                assert row is not None
        return int(row.version)

    async def lock(self, tx: Transaction, organization: str) -> None:
        """From here on to the end of the transaction nobody else changes anything of the organization.

        Before all else in every change: what is decided on rows that are only read (who administers, which roles
        there are) is still so at the commit.
        """
        await tx.take_turn(f"iam {organization}")

    async def suspended(self, organization: str, tx: Transaction) -> frozenset[str]:
        """Who is shut out, or about to be."""
        return frozenset(row.principal for row in await tx.fetch_all(_SUSPENDED, of=organization))

    async def suspend(self, tx: Transaction, organization: str, principal: str, revision: int) -> None:
        """Notes that somebody is about to be shut out; a note of a later version of their record stays."""
        await self.resume(tx, organization, principal, revision)
        try:
            async with tx.savepoint():
                await tx.execute(_SUSPEND, organization=organization, principal=principal, revision=revision)
        except UniqueViolation:
            return

    async def resume(self, tx: Transaction, organization: str, principal: str, before: int) -> None:
        """Takes a note away that is of a version before this one."""
        await tx.execute(_UNSUSPEND, of=organization, principal=principal, before=before)

    async def version(self, organization: str) -> int:
        """The organization's version; 0 before the first change."""
        row = await self._db.fetch_one(_VERSION, of=organization)
        return 0 if row is None else int(row.version)

    async def assignments_of(self, organization: str, principal: str, tx: Transaction | None = None) -> list[Row]:
        """The assignments of one principal, expired ones too."""
        return await (tx or self._db).fetch_all(_PRINCIPAL_ROLES, of=organization, principal=principal)

    async def holders(self, organization: str, role: str, tx: Transaction | None = None) -> list[Row]:
        """The assignments of one role, expired ones too."""
        return await (tx or self._db).fetch_all(_HOLDERS, of=organization, role=role)

    async def provision(self, organization: str, principal: str, tx: Transaction | None = None) -> str | None:
        """The id of the assignment that the principal was given first; None when it was given none."""
        row = await (tx or self._db).fetch_one(_PROVISION, of=organization, principal=principal)
        return None if row is None else str(row.assignment)

    async def add_provision(self, tx: Transaction, organization: str, principal: str, assignment: str) -> None:
        """Notes that the principal was given its first assignment.

        Raises:
            UniqueViolation: it was, already.
        """
        await tx.execute(_PROVISION_ADD, organization=organization, principal=principal, assignment=assignment)
