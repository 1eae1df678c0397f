"""Records in a hypertable of TimescaleDB.

No TimescaleDB was at hand where this was written. The statements are those of its documentation, and tests show that
they resolve against functions with the documented signatures; none was ever run on a real one. There is little of it
for that reason: rows are removed as on SQLite, and chunks in which nothing can be left are dropped whole.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

import sqlalchemy as sa

from taskman_server.kit.db import Database
from taskman_server.services.audit.retention import Category
from taskman_server.services.audit.store import RECORDS, AuditStore
from taskman_server.services.audit.timeseries import Held, Partitions, Rows, TimeSeries, WriteDown

__all__ = ["Timescale", "series_of"]

_HYPERTABLE: Final = sa.text(
    "SELECT EXISTS (SELECT 1 FROM pg_extension WHERE extname = 'timescaledb') AND NOT EXISTS"
    " (SELECT 1 FROM pg_partitioned_table WHERE partrelid = 'records'::regclass) AS yes"
).columns(sa.column("yes", sa.Boolean))


class Timescale(Rows):
    """A hypertable: it makes its chunks itself."""

    async def expire(self, category: Category, cutoff: datetime, held: Held, write_down: WriteDown) -> int:
        """See `TimeSeries.expire`; then drops the chunks that are older than the oldest record that is left."""
        count = await super().expire(category, cutoff, held, write_down)
        oldest = await self.db.fetch_one(sa.select(sa.func.min(RECORDS.c.time).label("time")))
        if oldest is not None and oldest.time is not None:
            await self.db.fetch_all(self.drop_before(min(oldest.time, cutoff)))
        return count

    @staticmethod
    def drop_before(time: datetime) -> sa.Select[tuple[str]]:
        """Drops the chunks that hold nothing but what is older than `time`."""
        table = sa.cast(sa.literal("records"), _RegClass())
        return sa.select(sa.func.drop_chunks(table, sa.cast(time, sa.TIMESTAMP(timezone=True))).label("chunk"))


class _RegClass(sa.types.UserDefinedType[str]):
    cache_ok = True

    def get_col_spec(self, **kw: object) -> str:
        """The type's name in SQL."""
        return "regclass"


async def series_of(db: Database, store: AuditStore) -> TimeSeries:
    """How this database keeps records by time."""
    if db.dialect.name != "postgresql":
        return Rows(db, store)
    row = await db.fetch_one(_HYPERTABLE)
    return Timescale(db, store) if row is not None and row.yes else Partitions(db, store)
