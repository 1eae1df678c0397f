"""The schema that the migrations make is the one that the queries are written for, on both databases (OPS-2)."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.ext.asyncio import create_async_engine

from taskman_server.kit.db.migrate import downgrade, upgrade
from taskman_server.services.audit import SERVICE
from taskman_server.services.audit.retention import CATEGORY_SQL
from taskman_server.services.audit.store import METADATA
from taskman_server.services.audit.stores import KEYS_METADATA
from tests.store.databases import PostgresStock

RELEASED = "a66442567421c9587e0207d984a8fbe36588b6206dfcefb0ab3c00668b7ecf49"


def test_on_sqlite_migrations_and_metadata_agree_and_lead_back(tmp_path: Path) -> None:
    """Forward there is no difference, back nothing is left, and forward again works."""
    file = tmp_path / "service.db"
    assert upgrade(file, SERVICE.migrations)
    engine = sa.create_engine(f"sqlite:///{file}")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        differences = [d for d in compare_metadata(context, METADATA) if "alembic_version" not in str(d)]
    assert differences == []
    assert downgrade(file, SERVICE.migrations, "base")
    with engine.connect() as connection:
        assert set(sa.inspect(connection).get_table_names()) <= {"alembic_version"}
    engine.dispose()
    assert upgrade(file, SERVICE.migrations)


def test_sqlites_schema_is_the_one_that_was_released(tmp_path: Path) -> None:
    """A file can go to and fro between this release and the first one: not a letter differs."""
    file = tmp_path / "service.db"
    upgrade(file, SERVICE.migrations)
    with closing(sqlite3.connect(file)) as connection:
        rows = connection.execute("SELECT type, name, sql FROM sqlite_schema ORDER BY rowid").fetchall()
    assert hashlib.sha256(repr(rows).encode()).hexdigest() == RELEASED


async def test_on_postgresql_they_agree_too_apart_from_what_partitions_need(
    postgres_stock: Callable[[], PostgresStock],
) -> None:
    """No constraint over all partitions, keys instead; texts are sorted by code point; the partitions' expression is
    the one that the queries are written with."""
    url = postgres_stock().server.database("schema_audit")
    engine = create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://"), poolclass=sa.NullPool)

    def differences(connection: sa.Connection) -> list[Any]:
        def ours(name: str | None, kind: str, *_: Any) -> bool:
            return not (kind == "table" and ((name or "").startswith("records_") or name == "alembic_version"))

        options = {"include_name": ours, "compare_type": True}
        context = MigrationContext.configure(connection, opts=options)
        return list(compare_metadata(context, [METADATA, KEYS_METADATA]))  # type: ignore[arg-type]

    async def asked(sql: str) -> list[Any]:
        async with engine.connect() as connection:
            return [tuple(row) for row in await connection.exec_driver_sql(sql)]

    try:
        assert upgrade(url, SERVICE.migrations)
        async with engine.connect() as connection:
            found = await connection.run_sync(differences)
        assert sorted((kind, thing.name) for kind, thing in found) == [
            ("add_index", "records_id"),
            ("remove_index", "records_sequence"),
        ]
        collations = await asked(
            "SELECT DISTINCT collation_name FROM information_schema.columns WHERE table_schema = 'public'"
            " AND data_type IN ('text', 'character varying') AND table_name <> 'alembic_version'"
        )
        assert collations == [("C",)]
        ((key,),) = await asked("SELECT pg_get_partkeydef('records'::regclass)")
        plan = await asked(f"EXPLAIN SELECT * FROM records WHERE ({CATEGORY_SQL}) = 'kept'")
        assert "security" in key
        assert not any("records_activity" in row[0] or "records_security" in row[0] for row in plan)
        assert downgrade(url, SERVICE.migrations, "base")
        assert await asked("SELECT tablename FROM pg_tables WHERE schemaname = 'public'") == [("alembic_version",)]
        assert upgrade(url, SERVICE.migrations)
    finally:
        await engine.dispose()


@pytest.mark.parametrize(
    ("name", "category"),
    [
        ("auth.login.failed", "security"), ("iam.role.created", "security"), ("authz.denied", "security"),
        ("audit.read", "security"), ("audit.expired", "kept"), ("task.created", "activity"),
        ("user.created", "activity"), ("authority.x", "activity"),
    ],
)  # fmt: skip
def test_the_category_of_a_record_follows_from_its_name(name: str, category: str) -> None:
    """AUDIT-6."""
    with closing(sqlite3.connect(":memory:")) as connection:
        assert connection.execute(f"SELECT {CATEGORY_SQL} FROM (SELECT ? AS type)", (name,)).fetchone() == (category,)
