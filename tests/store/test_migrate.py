"""Migrations: forward, back, at once from many processes, all or nothing."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from taskman_server.kit.db import DatabaseUnavailable
from taskman_server.kit.db.migrate import MigrationError, current, downgrade, head, upgrade
from taskman_server.kit.db.sqlite import SqliteDatabase
from tests.store.support import PUT, start_child

FIRST = """
from __future__ import annotations
import sqlalchemy as sa
from alembic import op
from taskman_server.kit.outbox import create_event_tables, drop_event_tables

revision: str = "0001"
down_revision: str | None = None

def upgrade() -> None:
    op.create_table("notes", sa.Column("id", sa.Text, primary_key=True), sa.Column("text", sa.Text))
    create_event_tables(op)

def downgrade() -> None:
    drop_event_tables(op)
    op.drop_table("notes")
"""
SECOND = """
import sqlalchemy as sa
from alembic import op

revision = '0002'
down_revision = '0001'  # a comment

def upgrade() -> None:
    with op.batch_alter_table("notes") as batch:
        batch.add_column(sa.Column("done", sa.Boolean, nullable=False, server_default=sa.false()))

def downgrade() -> None:
    with op.batch_alter_table("notes") as batch:
        batch.drop_column("done")
"""
BROKEN = """
from alembic import op

revision = "0003"
down_revision = "0002"

def upgrade() -> None:
    op.execute("CREATE TABLE half (id TEXT)")
    op.execute("INSERT INTO notes (id) SELECT id FROM notes")

def downgrade() -> None:
    op.execute("DROP TABLE half")
"""


@pytest.fixture
def migrations(tmp_path: Path) -> Path:
    """A service's folder with two revisions."""
    versions = tmp_path / "migrations" / "versions"
    versions.mkdir(parents=True)
    (versions / "0001_first.py").write_text(FIRST)
    (versions / "0002_second.py").write_text(SECOND)
    return versions.parent


def tables(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as connection:
        return {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}


def columns(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return [row[1] for row in connection.execute("PRAGMA table_info(notes)")]


async def test_forward_back_and_forward_again(tmp_path: Path, migrations: Path) -> None:
    """OPS-7: forward and back; what was written stays."""
    path = tmp_path / "x.db"
    assert head(migrations) == "0002"
    assert current(path) is None
    assert upgrade(path, migrations, "0001")
    assert (current(path), columns(path)) == ("0001", ["id", "text"])
    db = SqliteDatabase(path)
    await db.execute(PUT, id="1", text="kept")
    await db.close()
    assert upgrade(f"sqlite:///{path}", migrations)
    assert (current(path), columns(path)) == ("0002", ["id", "text", "done"])
    assert {"outbox", "inbox", "idempotency"} <= tables(path)
    assert not upgrade(path, migrations)
    assert downgrade(path, migrations, "0001")
    assert not downgrade(path, migrations, "0001")
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT id, text FROM notes").fetchall() == [("1", "kept")]
    assert downgrade(path, migrations, "base")
    assert current(path) is None
    assert tables(path) <= {"alembic_version"}
    assert upgrade(path, migrations)


def test_nothing_to_do_is_quick_and_imports_no_alembic(tmp_path: Path, migrations: Path) -> None:
    """OPS-1: seconds to the first request; eight services ask at every start."""
    path = tmp_path / "x.db"
    upgrade(path, migrations)
    child = start_child(
        """
        import sys, time
        from taskman_server.kit.db.migrate import upgrade
        start = time.perf_counter()
        assert not upgrade(sys.argv[1], sys.argv[2])
        print(time.perf_counter() - start, "alembic" in sys.modules)
        """,
        path,
        migrations,
    )
    output, _ = child.communicate(timeout=60)
    seconds, imported = output.split()
    assert imported == "False"
    assert float(seconds) < 0.03


def test_processes_that_start_at_once_migrate_once(tmp_path: Path, migrations: Path) -> None:
    """OPS-2: a process per service, several of one service: one migrates, the others wait and see it done."""
    path = tmp_path / "x.db"
    children = [
        start_child(
            """
            import sys
            from taskman_server.kit.db.migrate import upgrade
            print(upgrade(sys.argv[1], sys.argv[2]))
            """,
            path,
            migrations,
        )
        for _ in range(4)
    ]
    outputs = [child.communicate(timeout=60)[0].strip() for child in children]
    assert [child.returncode for child in children] == [0, 0, 0, 0]
    assert outputs.count("True") == 1
    assert columns(path) == ["id", "text", "done"]


async def test_a_step_that_fails_leaves_the_schema_as_it_was(tmp_path: Path, migrations: Path) -> None:
    """All steps are one commit, and the error tells no value."""
    (migrations / "versions" / "0003_broken.py").write_text(BROKEN)
    path = tmp_path / "x.db"
    upgrade(path, migrations, "0001")
    db = SqliteDatabase(path)
    await db.execute(PUT, id="hunter2", text="")
    await db.close()
    with pytest.raises(MigrationError, match=r"migration of x\.db to 0003 failed") as caught:
        upgrade(path, migrations)
    assert "hunter2" not in str(caught.value)
    assert current(path) == "0001"
    assert "half" not in tables(path)
    assert columns(path) == ["id", "text"]


def test_a_newer_releases_file_is_left_alone(tmp_path: Path, migrations: Path) -> None:
    """An old release started by mistake on new data."""
    path = tmp_path / "x.db"
    upgrade(path, migrations)
    (migrations / "versions" / "0002_second.py").unlink()
    with pytest.raises(MigrationError, match="made by a newer release"):
        upgrade(path, migrations)
    with pytest.raises(MigrationError, match="no revision 0009"):
        upgrade(path, migrations, "0009")
    assert current(path) == "0002"


def test_what_cannot_be_migrated_is_said(tmp_path: Path, migrations: Path) -> None:
    """Two newest revisions, a file without a revision, another kind of database, a folder that is not there."""
    with pytest.raises(MigrationError, match="kind 'mysql'"):
        upgrade("mysql://localhost/x", migrations)
    with pytest.raises(DatabaseUnavailable, match="cannot be opened"):
        upgrade(tmp_path / "missing" / "x.db", migrations)
    (tmp_path / "y.db").write_bytes(b"not a database" * 100)
    with pytest.raises(DatabaseUnavailable, match=r"y\.db"):
        upgrade(tmp_path / "y.db", migrations)
    other = migrations / "versions" / "0002_other.py"
    other.write_text(SECOND.replace("0002", "0002b"))
    with pytest.raises(MigrationError, match="found 0002, 0002b"):
        upgrade(tmp_path / "x.db", migrations)
    other.write_text("x = 1\n")
    with pytest.raises(MigrationError, match=r"0002_other\.py names no revision"):
        upgrade(tmp_path / "x.db", migrations)
    with pytest.raises(MigrationError, match="found none"):
        upgrade(tmp_path / "x.db", tmp_path)


def test_logging_stays_as_it_is(tmp_path: Path, migrations: Path) -> None:
    """Alembic's usual environment replaces the whole configuration of logging."""
    root = logging.getLogger()
    before = (list(root.handlers), root.level, logging.getLogger("taskman_server").disabled)
    upgrade(tmp_path / "x.db", migrations)
    assert (list(root.handlers), root.level, logging.getLogger("taskman_server").disabled) == before
