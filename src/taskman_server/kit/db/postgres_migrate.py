"""Migrations of a PostgreSQL database: the driver is asyncpg here too, on an event loop of its own in a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import asyncpg  # type: ignore[import-untyped]
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from taskman_server.kit.db.errors import DatabaseUnavailable, TransactionConflict
from taskman_server.kit.db.migrate import MigrationError, database_name
from taskman_server.kit.db.postgres import connect
from taskman_server.kit.db.postgres_errors import FAILURES, is_lost, translate

__all__ = ["current", "run", "survivor"]

T = TypeVar("T")

_LOCK = 0x5441534B4D414E  # "TASKMAN": who migrates this database holds it
_LOCK_TIMEOUT = "60s"  # that a start waits for another's migration
_TABLE_TIMEOUT = "10s"  # that a step waits for a table in use; while it waits, everybody else waits behind it


def current(url: str) -> str | None:
    """The revision a database is at, None when nothing was migrated. Raises DatabaseUnavailable."""
    return _in_thread(_ask(url, "SELECT version_num FROM alembic_version"))


def run(url: str, migrations: Path, to: str, *, forward: bool) -> bool:
    """Run the steps between the database's revision and `to` in one transaction; whether there were any.

    Raises MigrationError with the database as it was before, DatabaseUnavailable.
    """
    return _in_thread(_run(url, migrations, to, forward=forward))


def survivor(url: str) -> str | None:
    """The oldest revision whose code works on the database as it is; None when nobody said. Raises
    DatabaseUnavailable."""
    return _in_thread(_ask(url, "SELECT obj_description(CAST('alembic_version' AS regclass), 'pg_class')"))


async def _ask(url: str, query: str) -> str | None:
    name = database_name(url)
    connection = await connect(url, name, _settings("0"))
    try:
        at = await connection.fetchval(query)
    except asyncpg.UndefinedTableError:
        return None
    except FAILURES as error:
        raise translate(error, name) from None
    finally:
        connection.terminate()
    return None if at is None else str(at)


async def _run(url: str, migrations: Path, to: str, *, forward: bool) -> bool:
    from taskman_server.kit.db.alembic_env import steps

    name = database_name(url)

    def work(connection: sa.Connection) -> bool:
        # Before the revision is read, so that of two starts the second sees what the first has done.
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_TABLE_TIMEOUT}'")
        return steps(connection, name, migrations, to, forward=forward)

    engine = create_async_engine(
        "postgresql+asyncpg://",
        poolclass=NullPool,
        async_creator=lambda: connect(url, name, _settings(_LOCK_TIMEOUT)),
    )
    try:
        async with engine.begin() as connection:
            return await connection.run_sync(work)
    except sa.exc.DBAPIError as error:
        # Traffic beside a migration can make it the loser of a deadlock; nothing was done, and the next try succeeds.
        # SQLAlchemy's text would tell values. What asyncpg raised is the cause of what it wraps.
        cause = error.orig.__cause__ if error.orig is not None else None
        found = translate(cause or error, name)
        if isinstance(found, DatabaseUnavailable | TransactionConflict) or (cause is not None and is_lost(cause)):
            raise DatabaseUnavailable(f"migration of {name} to {to} was not done: {found}") from None
        raise MigrationError(f"migration of {name} to {to} failed: {found}") from None
    finally:
        await engine.dispose()


def _settings(lock_timeout: str) -> dict[str, str]:
    return {
        "application_name": "taskman-migrate",
        "timezone": "UTC",
        "statement_timeout": "0",
        "idle_in_transaction_session_timeout": "0",
        "lock_timeout": lock_timeout,
    }


def _in_thread(work: Coroutine[Any, Any, T]) -> T:
    # The caller may be on an event loop, which cannot run another one.
    with ThreadPoolExecutor(1, thread_name_prefix="migrate") as pool:
        return pool.submit(asyncio.run, work).result()
