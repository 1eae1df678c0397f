"""Where records go by their time, and how they go when their time is up (AUDIT-6).

`Rows` removes row by row and is all that SQLite needs. `Partitions` is PostgreSQL's own partitioning: partitions are
made ahead, and a whole one is dropped at once. `timescale.Timescale` is the same on TimescaleDB. Which one a database
is, was decided when it was made, and is found out at start. What remains afterwards is the same with all three.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol, TypeAlias

import sqlalchemy as sa

from taskman_server.kit.db import Database, Transaction
from taskman_server.services.audit.retention import CATEGORIES, Category, Span
from taskman_server.services.audit.store import RECORDS, AuditStore, is_of
from taskman_server.services.audit.stores import KEYS

__all__ = ["Held", "Partitions", "Rows", "TimeSeries", "WriteDown", "spans_in"]

Held: TypeAlias = Callable[[str], bool]
"""Whether nothing of an organization may be removed."""
WriteDown: TypeAlias = Callable[[Transaction, str, Category, datetime, Sequence[Span]], Awaitable[None]]
"""Puts on record, in the transaction that removes them, which records of an organization go."""
BATCH: Final = 5000
_AHEAD: Final = timedelta(days=3)
_BEHIND: Final = timedelta(days=1)
_AT_ONCE: Final = 100
"""Chains whose ends are held for one drop, at most, and units that one turn makes."""
# Others wait behind a lock on a whole table: rather give up and try again than keep them.
_PATIENCE: Final = sa.text("SET LOCAL lock_timeout = '500ms'")


class TimeSeries(Protocol):
    """How a database keeps records by time."""

    async def prepare(self, now: datetime) -> int:
        """Makes the places for records that are to come, and puts those that had none where they belong; how many
        places were made."""

    async def expire(self, category: Category, cutoff: datetime, held: Held, write_down: WriteDown) -> int:
        """Removes the records of a category from before `cutoff`; how many."""


async def spans_in(
    tx: Transaction, source: sa.FromClause, *conditions: sa.ColumnElement[bool]
) -> dict[str, list[Span]]:
    """The parts of each organization's chain that the rows of `source` are."""
    place = sa.func.row_number().over(partition_by=source.c.organization, order_by=source.c.sequence)
    rows = (
        sa.select(source.c.organization, source.c.sequence, source.c.previous, source.c.hash)
        .add_columns((source.c.sequence - place).label("island"))
        .where(*conditions)
        .cte("part")
    )
    ends = (
        sa.select(
            rows.c.organization, sa.func.min(rows.c.sequence).label("first"), sa.func.max(rows.c.sequence).label("last")
        )
        .group_by(rows.c.organization, rows.c.island)
        .subquery()
    )
    one, other = rows.alias("one"), rows.alias("other")
    found = await tx.fetch_all(
        sa.select(ends.c.organization, ends.c.first, ends.c.last, one.c.previous, other.c.hash)
        .join_from(ends, one, (one.c.organization == ends.c.organization) & (one.c.sequence == ends.c.first))
        .join(other, (other.c.organization == ends.c.organization) & (other.c.sequence == ends.c.last))
        .order_by(ends.c.organization, ends.c.first)
    )
    spans: dict[str, list[Span]] = {}
    for row in found:
        spans.setdefault(row.organization, []).append(Span(row.first, row.last, row.previous, row.hash))
    return spans


class Rows:
    """Records that are removed row by row, some thousand in a commit."""

    def __init__(self, db: Database, store: AuditStore) -> None:
        self.db = db
        self.store = store

    async def prepare(self, now: datetime) -> int:
        """A table has place for all times."""
        return 0

    async def expire(self, category: Category, cutoff: datetime, held: Held, write_down: WriteDown) -> int:
        """See `TimeSeries.expire`."""
        count = 0
        for organization in await self.store.organizations():
            while not held(organization) and (gone := await self._some(organization, category, cutoff, write_down)):
                count += gone
        return count

    async def _some(self, organization: str, category: Category, cutoff: datetime, write_down: WriteDown) -> int:
        conditions = [RECORDS.c.organization == organization, RECORDS.c.time < cutoff, is_of(category.name)]
        # Found by time and then sorted: in the order of the chain SQLite would look through all that is still kept.
        order = RECORDS.c.sequence + sa.literal_column("0")
        lowest = sa.select(RECORDS.c.sequence).where(*conditions).order_by(order).limit(BATCH).subquery()
        bound = sa.select(sa.func.max(lowest.c.sequence).label("top"))
        first = await self.db.fetch_one(bound)
        if first is None or first.top is None:
            return 0
        conditions.append(RECORDS.c.sequence <= first.top)
        async with self.db.transaction(offload=True) as tx:
            await self._turn(tx)
            # A late event that arrives meanwhile waits, and is not removed unseen.
            await self.store.lock(tx, organization, cutoff)
            spans = (await spans_in(tx, RECORDS, *conditions)).get(organization, [])
            if self.db.dialect.name == "postgresql":
                gone = sa.select(RECORDS.c.sequence).where(*conditions)
                await tx.execute(sa.delete(KEYS).where(KEYS.c.organization == organization, KEYS.c.sequence.in_(gone)))
            await tx.execute(sa.delete(RECORDS).where(*conditions))
            if spans:
                await write_down(tx, organization, category, cutoff, spans)
        return sum(span.last - span.first + 1 for span in spans)

    async def _turn(self, tx: Transaction) -> None:
        """One process at a time."""
        await tx.take_turn("audit.partitions")


class Partitions(Rows):
    """PostgreSQL's partitions: `records_activity_20300101`, `records_security_203001`, and one for what fits no other.

    Several processes may do this at once: they take turns, and each looks again when its turn has come.
    """

    async def prepare(self, now: datetime) -> int:
        """See `TimeSeries.prepare`."""
        made = 0
        for category in CATEGORIES:
            there = set(await self._leaves(category))
            for begin in sorted({*_units(category, now), *await self._strays(category)}):
                if _leaf(category, begin) not in there:
                    made += await self._make(category, begin)
        return made

    async def _strays(self, category: Category) -> list[datetime]:
        unit = sa.func.date_trunc(category.unit, sa.literal_column("time AT TIME ZONE 'UTC'"))
        table = sa.table(f"records_{category.name}_default")
        rows = await self.db.fetch_all(sa.select(unit.label("begin")).select_from(table).distinct().limit(_AT_ONCE))
        return [row.begin.replace(tzinfo=UTC) for row in rows]

    async def _make(self, category: Category, begin: datetime) -> int:
        parent, leaf = f"records_{category.name}", _leaf(category, begin)
        since, until = (f"'{time:%Y-%m-%d %H:%M:%S+00}'" for time in (begin, category.end(begin)))
        async with self.db.transaction() as tx:
            await self._turn(tx)
            if await _there(tx, leaf):
                return 0
            # A read that had planned without the new partition would not find what is moved to it.
            await tx.execute(sa.text(f"LOCK TABLE ONLY {parent}, {parent}_default IN ACCESS EXCLUSIVE MODE"))
            await tx.execute(sa.text(f"CREATE TABLE {leaf} (LIKE {parent} INCLUDING ALL)"))
            await tx.execute(
                sa.text(
                    f"WITH moved AS (DELETE FROM {parent}_default WHERE time >= {since} AND time < {until} RETURNING *)"
                    f" INSERT INTO {leaf} SELECT * FROM moved"
                )
            )
            await tx.execute(
                sa.text(f"ALTER TABLE {parent} ATTACH PARTITION {leaf} FOR VALUES FROM ({since}) TO ({until})")
            )
        return 1

    async def expire(self, category: Category, cutoff: datetime, held: Held, write_down: WriteDown) -> int:
        """See `TimeSeries.expire`. A partition in which somebody's records are held is emptied of the others'."""
        count, last = 0, _leaf(category, cutoff)
        leaves = [leaf for leaf in await self._leaves(category) if leaf < last]
        for leaf in leaves:
            count += await self._drop(leaf, category, cutoff, held, write_down)
        return count + await super().expire(category, cutoff, held, write_down)

    async def _drop(self, leaf: str, category: Category, cutoff: datetime, held: Held, write_down: WriteDown) -> int:
        table = sa.table(leaf, *(sa.column(column.name, column.type) for column in RECORDS.c))
        async with self.db.transaction() as tx:
            await self._turn(tx)
            if not await _there(tx, leaf):
                return 0
            rows = await tx.fetch_all(sa.select(table.c.organization).distinct())
            organizations: Collection[str] = [row.organization for row in rows]
            if len(organizations) > _AT_ONCE or any(map(held, organizations)):
                return 0
            # From here on no late event comes into it unseen.
            await tx.execute(sa.text(f"LOCK TABLE {leaf} IN EXCLUSIVE MODE"))
            spans = await spans_in(tx, table)
            await tx.execute(
                sa.delete(KEYS).where(KEYS.c.organization == table.c.organization, KEYS.c.sequence == table.c.sequence)
            )
            for organization, parts in spans.items():
                await write_down(tx, organization, category, cutoff, parts)
            await tx.execute(sa.text(f"DROP TABLE {leaf}"))
        return sum(span.last - span.first + 1 for parts in spans.values() for span in parts)

    async def _turn(self, tx: Transaction) -> None:
        await super()._turn(tx)
        await tx.execute(_PATIENCE)

    async def _leaves(self, category: Category) -> list[str]:
        rows = await self.db.fetch_all(
            sa.text(
                "SELECT c.relname AS name FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
                f" WHERE i.inhparent = 'records_{category.name}'::regclass ORDER BY c.relname"
            ).columns(sa.column("name", sa.Text))
        )
        return [row.name for row in rows if re.fullmatch(rf"records_{category.name}_\d+", row.name)]


def _units(category: Category, now: datetime) -> list[datetime]:
    units, time = [], now - _BEHIND
    while category.begin(time) <= now + _AHEAD:
        units.append(category.begin(time))
        time = category.end(time)
    return units


def _leaf(category: Category, begin: datetime) -> str:
    return f"records_{category.name}_{begin.astimezone(UTC):{'%Y%m%d' if category.unit == 'day' else '%Y%m'}}"


async def _there(tx: Transaction, name: str) -> bool:
    row = await tx.fetch_one(sa.select(sa.func.to_regclass(sa.cast(name, sa.Text)).is_not(None).label("there")))
    return row is not None and bool(row.there)
