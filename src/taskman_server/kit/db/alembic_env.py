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
from taskman_server.kit.db.migrate import MigrationError

_LOCK_TIMEOUT = 60  # seconds that a start waits for another's migration


def run(path: Path, migrations: Path, to: str, *, forward: bool) -> bool:
    """Run the steps between the file's revision and `to` in one transaction; whether there were any.

    Raises MigrationError with the database as it was before, DatabaseUnavailable.
    """
    script = ScriptDirectory(str(Path(__file__).parent), version_locations=[str(migrations / "versions")])
    done: list[bool] = []

    def steps(revision: Any, context: Any) -> Any:
        plan = script._upgrade_revs(to, revision) if forward else script._downgrade_revs(to, revision)
        done.append(bool(plan))
        return plan

    engine = _engine(path)
    try:
        with engine.begin() as connection, EnvironmentContext(Config(), script, fn=steps) as environment:
            environment.configure(connection=connection, render_as_batch=True, transaction_per_migration=False)
            environment.run_migrations()
            broken = connection.exec_driver_sql("PRAGMA foreign_key_check").first()
            if broken is not None:
                raise MigrationError(f"migration of {path.name} to {to}: rows of {broken[0]} lose what they refer to")
    except DatabaseError:
        raise
    except sa.exc.OperationalError as error:
        if isinstance(error.orig, sqlite3.OperationalError) and "locked" in str(error.orig):
            raise DatabaseUnavailable(f"database {path.name} is locked by another process") from None
        raise MigrationError(f"migration of {path.name} to {to} failed: {error.orig}") from None
    except sa.exc.DBAPIError as error:
        # The driver's text names tables and columns; SQLAlchemy's would add the values.
        raise MigrationError(f"migration of {path.name} to {to} failed: {error.orig}") from None
    except CommandError as error:
        raise MigrationError(f"migration of {path.name} to {to} failed: {error}") from None
    finally:
        engine.dispose()
    return any(done)


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
