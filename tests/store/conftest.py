"""Databases and brokers on files of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from taskman_server.kit.db import Database
from taskman_server.kit.db.sqlite import SqliteDatabase
from tests.store.databases import databases, postgres_stock
from tests.store.support import OpenDatabase, create_tables

__all__ = ["databases", "postgres_stock"]


@pytest.fixture
def kind() -> str:
    """Which database `db` and `open_db` are; a module whose promises hold on PostgreSQL too overrides it."""
    return "sqlite"


@pytest.fixture
async def open_db(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[OpenDatabase]:
    """Opens one database, empty at first, as often as one likes; `options` as the kind of database has them."""
    where = request.getfixturevalue("postgresql").database("kit") if kind == "postgresql" else ""
    opened: list[Database] = []

    async def open_one(**options: Any) -> Database:
        if where:
            from taskman_server.kit.db.postgres import PostgresDatabase

            opened.append(await PostgresDatabase.open(where, name="kit", **options))
        else:
            opened.append(SqliteDatabase(tmp_path / "service.db", **options))
        return opened[-1]

    yield open_one
    for database in opened:
        await database.close()


@pytest.fixture
async def db(open_db: OpenDatabase) -> Database:
    """An empty service database with the tables of `support`."""
    database = await open_db()
    await create_tables(database)
    return database
