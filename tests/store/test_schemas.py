"""The schemas of the services: what the migrations make is what the stores describe, on both databases."""

from __future__ import annotations

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

from taskman_server.kit.db.migrate import current, downgrade, upgrade
from taskman_server.kit.rpc import ServiceDefinition
from taskman_server.services import authentication, authorization, iam, notifications, tasks, users
from taskman_server.services.authentication.store import METADATA as AUTHENTICATION
from taskman_server.services.authorization.store import METADATA as AUTHORIZATION
from taskman_server.services.iam.store import METADATA as IAM
from taskman_server.services.notifications.tables import METADATA as NOTIFICATIONS
from taskman_server.services.tasks.store import FTS_DDL
from taskman_server.services.tasks.store import METADATA as TASKS
from taskman_server.services.users.store import METADATA as USERS
from tests.store.databases import PostgresStock

TABLES = {
    "authentication": AUTHENTICATION,
    "authorization": AUTHORIZATION,
    "iam": IAM,
    "notifications": NOTIFICATIONS,
    "tasks": TASKS,
    "users": USERS,
}
SERVICES = [each.SERVICE for each in (authentication, authorization, iam, notifications, tasks, users)]
each_service = pytest.mark.parametrize("service", SERVICES, ids=lambda each: each.name)


def _differences(connection: sa.Connection, service: ServiceDefinition) -> list[Any]:
    def ours(name: str | None, kind: str, *_: Any) -> bool:
        # what is asked by SQL of its own is described there; FTS5 keeps its parts in tables beside the virtual one
        return not (kind == "table" and ((name or "").startswith("task_search") or name == "alembic_version"))

    options = {"include_name": ours, "compare_type": True, "compare_server_default": True}
    return list(compare_metadata(MigrationContext.configure(connection, opts=options), TABLES[service.name]))


@each_service
def test_on_sqlite_the_migrations_make_what_the_store_describes_and_lead_back(
    service: ServiceDefinition, tmp_path: Path
) -> None:
    """OPS-2: forward, back to nothing, and forward again to the same."""
    path = tmp_path / "service.db"

    def schema() -> list[Any]:
        with closing(sqlite3.connect(path)) as connection:
            return connection.execute(
                "SELECT name, sql FROM sqlite_schema WHERE name != 'alembic_version' AND name NOT LIKE 'sqlite_auto%'"
                " ORDER BY name"
            ).fetchall()

    assert upgrade(path, service.migrations)
    made = schema()
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        assert _differences(connection, service) == []
    engine.dispose()
    assert downgrade(path, service.migrations, "base")
    assert schema() == []
    assert upgrade(path, service.migrations)
    assert schema() == made
    assert current(path) is not None
    assert dict(made).get("task_search") == (FTS_DDL if service is tasks.SERVICE else None)


@each_service
async def test_on_postgresql_the_migrations_make_what_the_store_describes_and_lead_back(
    service: ServiceDefinition, postgres_stock: Callable[[], PostgresStock]
) -> None:
    """OPS-2: the same; and every text is sorted by code point, so that pages are those of SQLite."""
    url = postgres_stock().empty(f"schema_{service.name}")
    engine = create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://"), poolclass=sa.NullPool)

    async def asked(work: Callable[[sa.Connection], Any]) -> Any:
        async with engine.connect() as connection:
            return await connection.run_sync(work)

    def schema(connection: sa.Connection) -> list[Any]:
        columns = connection.exec_driver_sql(
            "SELECT table_name, column_name, data_type, collation_name, is_nullable, column_default"
            " FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> 'alembic_version'"
            " ORDER BY 1, 2"
        )
        indexes = connection.exec_driver_sql(
            "SELECT tablename, indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename <> 'alembic_version'"
            " ORDER BY 1, 2"
        )
        return [*map(tuple, columns), *map(tuple, indexes)]

    try:
        assert upgrade(url, service.migrations)
        made = await asked(schema)
        assert await asked(lambda connection: _differences(connection, service)) == []
        texts = [row for row in made if len(row) == 6 and row[2] in ("text", "character varying")]
        assert texts
        assert {row[3] for row in texts} == {"C"}
        assert downgrade(url, service.migrations, "base")
        assert await asked(schema) == []
        assert upgrade(url, service.migrations)
        assert await asked(schema) == made
        assert current(url) is not None
    finally:
        await engine.dispose()
