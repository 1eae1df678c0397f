"""What an Alembic `env.py` does, once for all services, and without its configuration and its logging."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy.engine import Engine
from sqlalchemy.pool import NullPool

from taskman_server.kit.db.errors import DatabaseError, DatabaseUnavailable
from taskman_server.kit.db.migrate import MigrationError, survivor_of

_LOCK_TIMEOUT = 60  # seconds that a start waits for another's migration


def run(path: Path, migrations: Path, to: str, *, forward: bool) -> bool:
    """Run the steps between the file's revision and `to` in one transaction; whether there were any.

    Raises MigrationError with the database as it was before, DatabaseUnavailable.
    """
    engine = _engine(path)
    try:
        with engine.begin() as connection:
            done = steps(connection, path.name, migrations, to, forward=forward)
            broken = connection.exec_driver_sql("PRAGMA foreign_key_check").first()
            if broken is not None:
                raise MigrationError(f"migration of {path.name} to {to}: rows of {broken[0]} lose what they refer to")
            return done
    except DatabaseError:
        raise
    except sa.exc.OperationalError as error:
        if isinstance(error.orig, sqlite3.OperationalError) and "locked" in str(error.orig):
            raise DatabaseUnavailable(f"database {path.name} is locked by another process") from None
        raise MigrationError(f"migration of {path.name} to {to} failed: {error.orig}") from None
    except sa.exc.DBAPIError as error:
        # The driver's text names tables and columns; SQLAlchemy's would add the values.
        raise MigrationError(f"migration of {path.name} to {to} failed: {error.orig}") from None
    finally:
        engine.dispose()


def steps(connection: sa.Connection, name: str, migrations: Path, to: str, *, forward: bool) -> bool:
    """Run the steps inside the connection's transaction; whether there were any.

    Raises MigrationError for revisions that do not fit together, and what the driver raises.
    """
    script = ScriptDirectory(str(Path(__file__).parent), version_locations=[str(migrations / "versions")])
    done: list[bool] = []

    def plan(revision: Any, context: Any) -> Any:
        found = script._upgrade_revs(to, revision) if forward else script._downgrade_revs(to, revision)
        done.append(bool(found))
        return found

    try:
        with EnvironmentContext(Config(), script, fn=plan) as environment:
            environment.configure(connection=connection, render_as_batch=True, transaction_per_migration=False)
            environment.run_migrations()
            if any(done):
                _note_survivor(connection, migrations, environment.get_context().get_current_revision())
    except CommandError as error:
        raise MigrationError(f"migration of {name} to {to} failed: {error}") from None
    return any(done)


def _note_survivor(connection: sa.Connection, migrations: Path, revision: str | None) -> None:
    """Keeps beside the revision which code can work on it (see `migrate`), where no schema changes by it."""
    survivor = survivor_of(migrations, revision) if revision is not None else "0"
    if connection.dialect.name == "postgresql":
        text = survivor.replace("'", "''")
        connection.exec_driver_sql(f"COMMENT ON TABLE alembic_version IS '{text}'")
    elif survivor.isdecimal():
        connection.exec_driver_sql(f"PRAGMA user_version = {int(survivor)}")


def _engine(path: Path) -> Engine:
    engine = sa.create_engine(
        sa.URL.create("sqlite", database=str(path)),
        poolclass=NullPool,
        connect_args={"timeout": _LOCK_TIMEOUT, "isolation_level": None},
    )

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        # The driver would begin only at the first change of a row, and leave DDL outside. The lock is taken before the
        # revision is read, so that of two starts the second sees what the first has done.
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine
