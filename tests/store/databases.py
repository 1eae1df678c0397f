"""Migrated databases of services, on SQLite and on PostgreSQL: what is stored is tested on both.

A test that asks for `databases`, or for a `house` that stands on it, runs once on each. Opening a service's database
again gives what another process of the service would have: another `Database` on the same rows.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, ClassVar, Final, Protocol

import asyncpg  # type: ignore[import-untyped]
import pytest

from taskman_server.kit.db import Database
from taskman_server.kit.db.migrate import upgrade
from taskman_server.kit.db.postgres import PostgresDatabase
from taskman_server.kit.db.sqlite import SqliteDatabase
from taskman_server.kit.rpc import ServiceDefinition
from tests.parts.postgresql import PostgreSQL

__all__ = [
    "KINDS",
    "Databases",
    "PostgresDatabases",
    "PostgresStock",
    "SqliteDatabases",
    "databases_in",
    "lent_databases",
]

KINDS: Final = ("sqlite", "postgresql")


class Databases(Protocol):
    """The databases of one test.

    Attributes:
        kind: `sqlite` or `postgresql`.
        folder: the test's own.
    """

    kind: ClassVar[str]
    folder: Path

    async def open(self, service: ServiceDefinition, **options: Any) -> Database:
        """The service's database, made and migrated where there is none yet; whoever opens it closes it."""


class SqliteDatabases:
    """Files in the test's folder, named `<service>.db` unless said otherwise."""

    kind: ClassVar[str] = "sqlite"

    def __init__(self, folder: Path, name: str = "") -> None:
        self.folder = folder
        self._name = name

    async def open(self, service: ServiceDefinition, **options: Any) -> SqliteDatabase:
        """See `Databases.open`; `options` are those of `SqliteDatabase`."""
        path = self.folder / f"{self._name or service.name}.db"
        if not path.exists():
            shutil.copy(_migrated_file(service.name, service.migrations), path)
        return SqliteDatabase(path, **{"durability": "normal"} | options)


def databases_in(where: Path | Databases) -> Databases:
    """Those that are given, or files in a folder."""
    return SqliteDatabases(where) if isinstance(where, Path) else where


@cache
def _migrated_file(name: str, migrations: Path) -> Path:
    path = Path(mkdtemp()) / f"{name}.db"
    upgrade(path, migrations)
    return path


class PostgresStock:
    """Migrated databases of a test run's process. One that a test is done with is emptied and lent again."""

    def __init__(self, server: PostgreSQL) -> None:
        self.server = server
        self._free: dict[str, list[str]] = defaultdict(list)

    async def lend(self, service: ServiceDefinition) -> str:
        """The URL of an empty database of the service."""
        free = self._free[service.name]
        return free.pop() if free else await asyncio.to_thread(self._make, service)

    async def take_back(self, name: str, url: str) -> None:
        """Empties a database that nobody uses any more."""
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(_EMPTY)
        finally:
            await connection.close()
        self._free[name].append(url)

    def _make(self, service: ServiceDefinition) -> str:
        url = self.empty(service.name)
        upgrade(url, service.migrations)
        return url

    def empty(self, name: str) -> str:
        """The URL of a new database without tables.

        It is sorted by a language unless a column says otherwise, as an operator's may well be.
        """
        name = f"{name}_{secrets.token_hex(5)}"
        self.server.execute(f"CREATE DATABASE {name} TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en'")
        return self.server.url(name)


# TRUNCATE would make new files for every table and index: 20 times as slow for a handful of rows.
_EMPTY = """
SET session_replication_role = replica;
DO $$
DECLARE name text;
BEGIN
    FOR name IN SELECT quote_ident(tablename) FROM pg_tables
                WHERE schemaname = 'public' AND tablename <> 'alembic_version' LOOP
        EXECUTE 'DELETE FROM ' || name;
    END LOOP;
    FOR name IN SELECT quote_ident(sequencename) FROM pg_sequences WHERE schemaname = 'public' LOOP
        EXECUTE 'ALTER SEQUENCE ' || name || ' RESTART';
    END LOOP;
END $$
"""


class PostgresDatabases:
    """Databases of the run's server."""

    kind: ClassVar[str] = "postgresql"

    def __init__(self, stock: PostgresStock, folder: Path) -> None:
        self.folder = folder
        self._stock = stock
        self._urls: dict[str, str] = {}

    async def open(self, service: ServiceDefinition, **options: Any) -> PostgresDatabase:
        """See `Databases.open`; `options` are SQLite's alone."""
        return await PostgresDatabase.open(await self.url(service), name=service.name, pool_size=5)

    async def url(self, service: ServiceDefinition) -> str:
        """Where the service's database is."""
        if service.name not in self._urls:
            self._urls[service.name] = await self._stock.lend(service)
        return self._urls[service.name]

    async def close(self) -> None:
        """Gives all back."""
        await asyncio.gather(*(self._stock.take_back(name, url) for name, url in self._urls.items()))


@pytest.fixture(scope="session")
def postgres_stock(request: pytest.FixtureRequest) -> Callable[[], PostgresStock]:
    """The stock, begun when the first test wants a database of it."""
    stock: list[PostgresStock] = []

    def get() -> PostgresStock:
        if not stock:
            stock.append(PostgresStock(request.getfixturevalue("postgresql")))
        return stock[0]

    return get


@asynccontextmanager
async def lent_databases(kind: str, folder: Path, stock: Callable[[], PostgresStock]) -> AsyncIterator[Databases]:
    """Databases of a kind, given back at the end."""
    if kind == "sqlite":
        yield SqliteDatabases(folder)
        return
    lent = PostgresDatabases(stock(), folder)
    try:
        yield lent
    finally:
        await lent.close()


@pytest.fixture(params=KINDS)
async def databases(
    request: pytest.FixtureRequest, tmp_path: Path, postgres_stock: Callable[[], PostgresStock]
) -> AsyncIterator[Databases]:
    """Databases of the test's own, on SQLite and then on PostgreSQL."""
    async with lent_databases(request.param, tmp_path, postgres_stock) as lent:
        yield lent
