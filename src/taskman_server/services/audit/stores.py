"""The log on PostgreSQL: partitioned records, and a small table of their keys (AUDIT-1, AUDIT-2).

`records` is partitioned by time, and a unique constraint there would have to hold the time. So what is unique is so in
`record_keys`, one row for each record: the event's id, and the sequence in its organization's chain. It also says of
which time a record is, so that a search by id or sequence opens the one partition that it is in. A record and its key
are one statement.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import bindparam

from taskman_server.kit.db import Database, Executor, Statement, UtcTimestamp
from taskman_server.services.audit.rules import Record
from taskman_server.services.audit.store import RECORD_NAMES, RECORDS, AuditStore, record_of

__all__ = ["KEYS", "KEYS_METADATA", "PartitionedStore", "store_of"]

KEYS_METADATA: Final = sa.MetaData()
KEYS: Final = sa.Table(
    "record_keys",
    KEYS_METADATA,
    sa.Column("organization", sa.Text, primary_key=True),
    sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("id", sa.Text, nullable=False),
    sa.Column("time", UtcTimestamp, nullable=False),
    sa.Index("record_keys_id", "id", unique=True),
)
_KEY_NAMES: Final = tuple(KEYS.c.keys())
_WINDOW: Final = 256
_GROWTH: Final = 8

_INSERT = Statement(
    sa.insert(RECORDS)
    .values({name: bindparam(name) for name in RECORD_NAMES})
    .add_cte(sa.insert(KEYS).values({name: bindparam(name) for name in _KEY_NAMES}).cte("key"))
)
_KEY = Statement(sa.select(KEYS).where(KEYS.c.id == bindparam("id")))
_KNOWN = Statement(sa.select(KEYS.c.id).where(KEYS.c.id.in_(bindparam("ids", expanding=True))))
_AT = Statement(
    sa.select(RECORDS).where(
        RECORDS.c.organization == bindparam("organization"),
        RECORDS.c.sequence == bindparam("sequence"),
        RECORDS.c.time == bindparam("time"),
    )
)


def _bounds(*conditions: sa.ColumnElement[bool], newest: bool) -> Statement:
    order = KEYS.c.sequence.desc() if newest else KEYS.c.sequence
    window = sa.select(KEYS.c.sequence, KEYS.c.time).where(KEYS.c.organization == bindparam("organization"))
    part = window.where(*conditions).order_by(order).limit(bindparam("limit")).subquery()
    return Statement(
        sa.select(
            sa.func.min(part.c.sequence).label("first"),
            sa.func.min(part.c.time).label("since"),
            sa.func.max(part.c.time).label("until"),
        )
    )


_NEWEST = _bounds(newest=True)
_BEFORE = _bounds(KEYS.c.sequence < bindparam("before"), newest=True)
_AFTER = _bounds(KEYS.c.sequence > bindparam("after"), newest=False)
_WALK = Statement(
    sa.select(RECORDS)
    .where(
        RECORDS.c.organization == bindparam("organization"),
        RECORDS.c.sequence > bindparam("after"),
        RECORDS.c.time.between(bindparam("since"), bindparam("until")),
    )
    .order_by(RECORDS.c.sequence)
    .limit(bindparam("limit"))
)


class PartitionedStore(AuditStore):
    """The log in partitions."""

    known_by = _KNOWN
    insert_by = _INSERT

    def __init__(self, db: Database) -> None:
        super().__init__(db)
        db.prepare(_KEY, _AT, _NEWEST, _BEFORE, _AFTER, _WALK)

    async def get(self, organization: str, identifier: str) -> Record | None:
        """One record by its id."""
        key = await self.db.fetch_one(_KEY, id=identifier)
        if key is None or key.organization != organization:
            return None
        row = await self.db.fetch_one(_AT, organization=organization, sequence=key.sequence, time=key.time)
        return None if row is None else record_of(row)

    async def page(
        self,
        reader: Executor,
        organization: str,
        conditions: Sequence[sa.ColumnElement[bool]],
        before: int | None,
        limit: int,
    ) -> list[Record]:
        """See `AuditStore.page`. Looks at so many of the newest first, then at eight times as many and so on: what is
        looked for is mostly new, and few partitions are opened for it."""
        found: list[Record] = []
        window = max(_WINDOW, 2 * limit)
        while len(found) < limit:
            given: dict[str, Any] = {} if before is None else {"before": before}
            bounds = await reader.fetch_one(
                _NEWEST if before is None else _BEFORE, organization=organization, limit=window, **given
            )
            if bounds is None or bounds.first is None:
                break
            statement = sa.select(RECORDS).where(
                RECORDS.c.organization == organization,
                RECORDS.c.sequence >= bounds.first,
                RECORDS.c.time.between(bounds.since, bounds.until),
                *conditions,
            )
            if before is not None:
                statement = statement.where(RECORDS.c.sequence < before)
            rows = await reader.fetch_all(statement.order_by(RECORDS.c.sequence.desc()).limit(limit - len(found)))
            found += map(record_of, rows)
            before, window = bounds.first, window * _GROWTH
        return found

    async def walk(self, organization: str, after: int, limit: int) -> list[Record]:
        """See `AuditStore.walk`: those that stand where their keys say."""
        bounds = await self.db.fetch_one(_AFTER, organization=organization, after=after, limit=limit)
        if bounds is None or bounds.first is None:
            return []
        rows = await self.db.fetch_all(
            _WALK, organization=organization, after=after, since=bounds.since, until=bounds.until, limit=limit
        )
        return [record_of(row) for row in rows]


def store_of(db: Database) -> AuditStore:
    """The log as this kind of database holds it."""
    return PartitionedStore(db) if db.dialect.name == "postgresql" else AuditStore(db)
