"""Partitions of PostgreSQL: made ahead, filled from the one for all else, dropped (AUDIT-1, AUDIT-2, AUDIT-6)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg  # type: ignore[import-untyped]
import pytest

from taskman_sdk.proto.taskman.audit.v1.audit_pb import AuditEvent, GetEventRequest
from taskman_server.kit.clock import ManualClock
from taskman_server.kit.db import Database, DatabaseError, TransactionConflict
from taskman_server.kit.db.migrate import upgrade
from taskman_server.services.audit import SERVICE
from taskman_server.services.audit.retention import ACTIVITY, SECURITY
from taskman_server.services.audit.rules import Head, check_page, draft_of
from taskman_server.services.audit.stores import store_of
from taskman_server.services.audit.timescale import Timescale, series_of
from taskman_server.services.audit.timeseries import Partitions
from tests.store.audit.house import House, open_house
from tests.store.audit.test_retention import NOW, OLD, _without_workers, an_event, keeper, mixed, verified
from tests.store.databases import Databases, PostgresDatabases, PostgresStock


class _Own(PostgresDatabases):
    """A database that no other test has seen."""

    async def url(self, service: object) -> str:
        if not self._urls:
            name = f"audit_own_{id(self)}_{datetime.now(UTC):%H%M%S%f}"
            self._urls["own"] = await asyncio.to_thread(self._stock.server.database, name)
            await asyncio.to_thread(upgrade, self._urls["own"], SERVICE.migrations)
        return self._urls["own"]


@pytest.fixture
async def house(tmp_path: Path, postgres_stock: Callable[[], PostgresStock]) -> AsyncIterator[House]:
    """A service on PostgreSQL whose worker is this test."""
    own = _Own(postgres_stock(), tmp_path)
    async with open_house(SERVICE, own, clock=ManualClock(NOW), build=_without_workers) as opened:
        yield opened


async def partitions(house: House, category: str) -> list[str]:
    rows = await house.rows(
        "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
        f" WHERE i.inhparent = 'records_{category}'::regclass ORDER BY 1"
    )
    return [row[0].removeprefix(f"records_{category}_") for row in rows]


async def where(house: House) -> list[tuple[int, str]]:
    return [tuple(row) for row in await house.rows("SELECT sequence, tableoid::regclass::text FROM records ORDER BY 1")]


async def test_partitions_are_made_ahead_each_once(house: House) -> None:
    """AUDIT-1: yesterday's and those of the next three days; a second keeper at the same time makes none twice."""
    await asyncio.gather(keeper(house).turn(), keeper(house).turn())
    days = [(NOW + timedelta(days=n)).strftime("%Y%m%d") for n in range(-1, 4)]
    assert await partitions(house, "activity") == [*days, "default"]
    assert await partitions(house, "security") == [*sorted({day[:6] for day in days}), "default"]
    assert isinstance(await series_of(house.db, store_of(house.db)), Partitions)
    await keeper(house).turn()
    house.clock.advance(86400)
    await keeper(house).turn()
    assert len(await partitions(house, "activity")) == 7


async def test_what_fits_no_partition_is_taken_all_the_same_and_moved(house: House) -> None:
    """AUDIT-1: a late event, and one of the future; nothing of them changes by the move."""
    await keeper(house).turn()
    events = [
        an_event(house, name, NOW + timedelta(days=days))
        for days in (-100, 0, 40)
        for name in ("task.created", "auth.logout")
    ]
    await house.publish(*events)
    assert [table for _, table in await where(house)] == [
        "records_activity_default", "records_security_default",
        f"records_activity_{NOW:%Y%m%d}", f"records_security_{NOW:%Y%m}",
        "records_activity_default", "records_security_default",
    ]  # fmt: skip
    await keeper(house).turn()
    assert [table for _, table in await where(house)] == [
        f"records_{category.name}_{NOW + timedelta(days=days):{'%Y%m%d' if category is ACTIVITY else '%Y%m'}}"
        for days in (-100, 0, 40)
        for category in (ACTIVITY, SECURITY)
    ]
    assert (await verified(house)).valid
    for event in events:
        found = await house.call("GetEvent", GetEventRequest(event=event.id), AuditEvent)
        assert found.time is not None
        assert found.time.to_datetime() == event.time


async def test_a_partition_whose_time_is_up_is_dropped_whole(house: House) -> None:
    """AUDIT-6: with its keys; one in which something is held is only emptied of the rest."""
    await mixed(house)
    await keeper(house).turn()
    assert f"{OLD:%Y%m%d}" not in await partitions(house, "activity")
    assert f"{OLD:%Y%m}" in await partitions(house, "security")
    assert await house.rows("SELECT count(*) FROM record_keys k LEFT JOIN records r USING (sequence) "
                            "WHERE r.sequence IS NULL") == [(0,)]  # fmt: skip
    found = await verified(house)
    assert (found.valid, found.expired_count) == (True, 10)


async def test_a_read_by_time_opens_the_partitions_of_that_time_alone(house: House) -> None:
    """AUDIT-1: by the category too, for what is removed."""
    await keeper(house).turn()
    plan = "\n".join(
        row[0]
        for row in await house.rows(
            "EXPLAIN SELECT * FROM records WHERE organization = 'o'"
            f" AND time >= '{NOW:%Y-%m-%d} 00:00+00' AND time < '{NOW:%Y-%m-%d} 12:00+00'"
        )
    )
    assert f"records_activity_{NOW:%Y%m%d}" in plan
    assert f"records_activity_{NOW + timedelta(days=1):%Y%m%d}" not in plan


async def test_four_processes_append_to_one_chain(databases: Databases) -> None:
    """AUDIT-2: each with connections of its own, some with the same events; on both databases."""
    async with open_house(SERVICE, databases, clock=ManualClock(NOW), build=_without_workers, run=False) as house:
        events = [an_event(house, "task.created", NOW, organization=f"org_{n % 2}") for n in range(60)]

        async def append(db: Database, number: int) -> None:
            store = store_of(db)
            for event in events[number::4] + events[:10]:
                for _ in range(20):
                    try:
                        async with db.transaction() as tx:
                            await store.append(tx, [draft_of(event, ())], NOW)
                        break
                    except TransactionConflict:
                        continue

        others = [await databases.open(SERVICE) for _ in range(4)]
        try:
            await asyncio.gather(*(append(db, number) for number, db in enumerate(others)))
        finally:
            await asyncio.gather(*(db.close() for db in others))
        for organization in ("org_0", "org_1"):
            records = await store_of(house.db).whole_walk(organization, 0, 100)
            assert check_page(Head(), records) == (Head(30, records[-1].hash), None)
            assert {record.id for record in records} == {e.id for e in events if e.organization == organization}


async def test_a_sequence_or_an_event_cannot_be_there_twice(house: House) -> None:
    """AUDIT-2: the database refuses it, in whatever partition."""
    await house.publish(an_event(house, "task.created", NOW))
    (key,) = await house.rows("SELECT organization, sequence, id FROM record_keys")
    for values in (f"'{key[0]}', {key[1]}, 'other'", f"'{key[0]}', 9, '{key[2]}'"):
        with pytest.raises(DatabaseError):
            await house.tamper(f"INSERT INTO record_keys VALUES ({values}, now())")


async def test_without_the_extension_partitions_are_used_and_timescales_statements_resolve(house: House) -> None:
    """AUDIT-5, AUDIT-6: TimescaleDB cannot be had here. Shown is that the probe finds none, and that what would be
    asked of one reaches functions with the signatures of its documentation. It is no proof that it works there."""
    assert await house.rows("SELECT count(*) FROM pg_available_extensions WHERE name = 'timescaledb'") == [(0,)]
    series = await series_of(house.db, store_of(house.db))
    assert type(series) is Partitions
    await house.tamper(
        "CREATE FUNCTION drop_chunks(relation regclass, older_than timestamptz DEFAULT NULL) RETURNS SETOF text"
        " LANGUAGE sql AS $$ SELECT relation::text || ' ' || date(older_than) $$"
    )
    rows = await house.db.fetch_all(Timescale.drop_before(datetime(2030, 1, 2, tzinfo=UTC)))
    assert [row.chunk for row in rows] == ["records 2030-01-02"]
    await mixed(house)
    timescale = Timescale(house.db, store_of(house.db))
    told: list[object] = []

    async def write_down(*what: object) -> None:
        told.append(what)

    assert await timescale.expire(ACTIVITY, ACTIVITY.cutoff(NOW, 400), lambda _: False, write_down) == 7
    assert len(told) == 1


# A row that says an extension is there, as CREATE EXTENSION would leave it; this server has no TimescaleDB to create.
EXTENSION = (
    "INSERT INTO pg_extension (oid, extname, extowner, extnamespace, extrelocatable, extversion)"
    " VALUES (990001, 'timescaledb', 10, 2200, false, '2.14.2')"
)
# The parameters of the documentation that are used, with its names, types and defaults.
CREATE_HYPERTABLE = (
    "CREATE FUNCTION create_hypertable(relation regclass, time_column_name name, partitioning_column name DEFAULT NULL,"
    " number_partitions integer DEFAULT NULL, chunk_time_interval anyelement DEFAULT NULL::bigint,"
    " create_default_indexes boolean DEFAULT TRUE, if_not_exists boolean DEFAULT FALSE)"
    " RETURNS void LANGUAGE sql AS ''"
)


@pytest.mark.parametrize("refuses", [True, False])
async def test_where_the_extension_is_a_hypertable_is_asked_for_and_partitions_are_there_if_that_fails(
    refuses: bool, tmp_path: Path, postgres_stock: Callable[[], PostgresStock]
) -> None:
    """AUDIT-5: which branch is taken, and that the log works on a table without partitions; no real TimescaleDB."""
    server = postgres_stock().server
    url = await asyncio.to_thread(server.database, f"timescale_{refuses}".lower())
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(EXTENSION)
        if not refuses:
            await connection.execute(CREATE_HYPERTABLE)
    finally:
        await connection.close()
    assert await asyncio.to_thread(upgrade, url, SERVICE.migrations)
    own = _Own(postgres_stock(), tmp_path)
    own._urls["own"] = url
    async with open_house(SERVICE, own, clock=ManualClock(NOW), build=_without_workers) as house:
        series = await series_of(house.db, store_of(house.db))
        assert type(series) is (Partitions if refuses else Timescale)
        await house.tamper(
            "CREATE FUNCTION drop_chunks(relation regclass, older_than timestamptz DEFAULT NULL) RETURNS SETOF text"
            " LANGUAGE sql AS $$ SELECT 'chunk of ' || relation::text $$"
        )
        await mixed(house)
        assert await keeper(house).turn() == 10
        found = await verified(house)
        assert (found.valid, found.expired_count) == (True, 10)
