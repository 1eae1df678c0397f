"""Tables and queries of the audit log: records that are only ever inserted, and the head of each chain (AUDIT-2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlalchemy.dialects.postgresql import insert as upsert  # SQLite's compiler takes it too

from taskman_server.kit.db import Database, Executor, Row, Statement, Transaction, UtcTimestamp
from taskman_server.kit.outbox import add_event_tables
from taskman_server.services.audit.retention import CATEGORY_SQL, EXPIRED, KEPT, Span, spans_of
from taskman_server.services.audit.rules import GENESIS, Draft, Head, Record, seal

__all__ = ["CHAINS", "METADATA", "POLICY_COLUMNS", "RECORDS", "RECORD_NAMES", "AuditStore", "is_of", "record_of"]

METADATA: Final = sa.MetaData()
add_event_tables(METADATA)

RECORDS: Final = sa.Table(
    "records",
    METADATA,
    sa.Column("organization", sa.Text, primary_key=True),
    sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("id", sa.Text, nullable=False),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("target_type", sa.Text, nullable=False),
    sa.Column("target_id", sa.Text, nullable=False),
    sa.Column("result", sa.Text, nullable=False),
    sa.Column("time", UtcTimestamp, nullable=False),
    sa.Column("request_id", sa.Text, nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("ip_address", sa.Text, nullable=False),
    # Text, not JSONB: the hash is over these very bytes, which JSONB would not give back.
    sa.Column("data", sa.Text, nullable=False),
    sa.Column("previous", sa.Text, nullable=False),
    sa.Column("hash", sa.Text, nullable=False),
    sa.Index("records_id", "id", unique=True),
    sa.Index("records_actor", "organization", "actor", "sequence"),
    sa.Index("records_target", "organization", "target_id", "sequence"),
    sa.Index("records_type", "organization", "type", "sequence"),
    sa.Index("records_time", "organization", "time"),
    sa.Index("records_request", "organization", "request_id"),
)

CHAINS: Final = sa.Table(
    "chains",
    METADATA,
    sa.Column("organization", sa.Text, primary_key=True),
    sa.Column("sequence", sa.BigInteger, nullable=False),
    sa.Column("hash", sa.Text, nullable=False),
    sa.Column("update_time", UtcTimestamp, nullable=False),
)

POLICY_COLUMNS: Final[Mapping[str, sa.ColumnElement[Any]]] = {
    "resource.id": RECORDS.c.id,
    "resource.type": RECORDS.c.type,
    "resource.actor": RECORDS.c.actor,
    "resource.target_id": RECORDS.c.target_id,
}

RECORD_NAMES: Final = tuple(Record.__dataclass_fields__)
"""The columns of a record."""


def is_of(category: str) -> sa.ColumnElement[bool]:
    """Whether a record is of a category, said as PostgreSQL's partitions are, so that it looks into no other."""
    return sa.literal_column(f"({CATEGORY_SQL})") == sa.literal_column(f"'{category}'")


_HEAD = Statement(sa.select(CHAINS.c.sequence, CHAINS.c.hash).where(CHAINS.c.organization == bindparam("organization")))
_HEAD_FOR_UPDATE = Statement(
    sa.select(CHAINS.c.sequence, CHAINS.c.hash)
    .where(CHAINS.c.organization == bindparam("organization"))
    .with_for_update()
)
_BEGIN_CHAIN = Statement(
    upsert(CHAINS)
    .values({name: bindparam(name) for name in ("organization", "sequence", "hash", "update_time")})
    .on_conflict_do_nothing()
)
_MOVE_HEAD = Statement(
    sa.update(CHAINS)
    .where(CHAINS.c.organization == bindparam("chain"))
    .values(sequence=bindparam("sequence"), hash=bindparam("hash"), update_time=bindparam("update_time"))
)
_INSERT = Statement(sa.insert(RECORDS))
_KNOWN = Statement(sa.select(RECORDS.c.id).where(RECORDS.c.id.in_(bindparam("ids", expanding=True))))
_GET = Statement(
    sa.select(RECORDS).where(RECORDS.c.organization == bindparam("organization"), RECORDS.c.id == bindparam("id"))
)
_WALK = Statement(
    sa.select(RECORDS)
    .where(RECORDS.c.organization == bindparam("organization"), RECORDS.c.sequence > bindparam("after"))
    .order_by(RECORDS.c.sequence)
    .limit(bindparam("limit"))
)
_NOTES = Statement(
    sa.select(RECORDS.c.data)
    .where(RECORDS.c.organization == bindparam("organization"), RECORDS.c.type == EXPIRED, is_of(KEPT))
    .order_by(RECORDS.c.sequence)
)
_ORGANIZATIONS = Statement(sa.select(CHAINS.c.organization).order_by(CHAINS.c.organization))
# One statement, so that an append between two reads does not look like a forgery.
_BEYOND = Statement(
    sa.select(sa.func.count().label("records")).where(
        RECORDS.c.organization == bindparam("organization"),
        RECORDS.c.sequence
        > sa.func.coalesce(
            sa.select(CHAINS.c.sequence).where(CHAINS.c.organization == bindparam("organization")).scalar_subquery(), 0
        ),
    )
)


def record_of(row: Row) -> Record:
    """A row as the record that it says it is."""
    return Record(**{name: getattr(row, name) for name in RECORD_NAMES})


class AuditStore:
    """The log in the service's database: all records in one table, as SQLite has it.

    Attributes:
        known_by: which of `ids` are events in the log.
        insert_by: writes a record.
    """

    known_by: Statement = _KNOWN
    insert_by: Statement = _INSERT

    def __init__(self, db: Database) -> None:
        self.db = db
        db.prepare(_HEAD, _HEAD_FOR_UPDATE, _MOVE_HEAD, self.insert_by, self.known_by, _GET, _WALK, _BEYOND)

    async def append(self, tx: Transaction, drafts: Sequence[Draft], now: datetime) -> None:
        """Puts records at the ends of their organizations' chains, in their order; of an event that is in the log
        already none.

        Others who append to a chain wait until this transaction has ended, so what is read here stays true.
        """
        # In one order everywhere, so that two who append to the same chains do not wait for each other.
        heads = {
            organization: await self.lock(tx, organization, now)
            for organization in sorted({draft.organization for draft in drafts})
        }
        new: dict[str, Draft] = {}
        for draft in drafts:
            new.setdefault(draft.id, draft)
        for row in await tx.fetch_all(self.known_by, ids=list(new)):
            del new[row.id]
        moved: dict[str, Head] = {}
        records: list[Mapping[str, Any]] = []
        for draft in new.values():
            record = seal(draft, moved.get(draft.organization) or heads[draft.organization])
            moved[draft.organization] = Head(record.sequence, record.hash)
            records.append({name: getattr(record, name) for name in RECORD_NAMES})
        await tx.execute_many(self.insert_by, records)
        await tx.execute_many(
            _MOVE_HEAD,
            [
                {"chain": organization, "sequence": head.sequence, "hash": head.hash, "update_time": now}
                for organization, head in moved.items()
            ],
        )

    async def lock(self, tx: Transaction, organization: str, now: datetime) -> Head:
        """The end of a chain, which nobody else moves before this transaction has ended."""
        row = await tx.fetch_one(_HEAD_FOR_UPDATE, organization=organization)
        if row is None:
            await tx.execute(_BEGIN_CHAIN, organization=organization, sequence=0, hash=GENESIS, update_time=now)
            row = await tx.fetch_one(_HEAD_FOR_UPDATE, organization=organization)
            assert row is not None
        return Head(row.sequence, row.hash)

    async def get(self, organization: str, identifier: str) -> Record | None:
        """One record by its id."""
        row = await self.db.fetch_one(_GET, organization=organization, id=identifier)
        return None if row is None else record_of(row)

    async def page(
        self,
        reader: Executor,
        organization: str,
        conditions: Sequence[sa.ColumnElement[bool]],
        before: int | None,
        limit: int,
    ) -> list[Record]:
        """Records that meet all conditions, newest first, from below the sequence `before`."""
        statement = sa.select(RECORDS).where(RECORDS.c.organization == organization, *conditions)
        if before is not None:
            statement = statement.where(RECORDS.c.sequence < before)
        rows = await reader.fetch_all(statement.order_by(RECORDS.c.sequence.desc()).limit(limit))
        return [record_of(row) for row in rows]

    async def head(self, organization: str) -> Head:
        """Where the chain should end."""
        row = await self.db.fetch_one(_HEAD, organization=organization)
        return Head() if row is None else Head(row.sequence, row.hash)

    async def walk(self, organization: str, after: int, limit: int) -> list[Record]:
        """The records after a sequence, oldest first, `limit` at most."""
        return await self.whole_walk(organization, after, limit)

    async def whole_walk(self, organization: str, after: int, limit: int) -> list[Record]:
        """The same, and certainly all that stand there, whatever was done to them."""
        rows = await self.db.fetch_all(_WALK, organization=organization, after=after, limit=limit)
        return [record_of(row) for row in rows]

    async def removed(self, organization: str) -> list[Span]:
        """The parts of the chain that its records say were removed."""
        rows = await self.db.fetch_all(_NOTES, organization=organization)
        return [span for row in rows for span in spans_of(row.data)]

    async def organizations(self) -> list[str]:
        """Everybody who has a chain."""
        return [row.organization for row in await self.db.fetch_all(_ORGANIZATIONS)]

    async def beyond(self, organization: str) -> int:
        """How many records stand after the head."""
        row = await self.db.fetch_one(_BEYOND, organization=organization)
        return 0 if row is None else int(row.records)
