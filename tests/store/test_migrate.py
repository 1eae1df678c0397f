"""Migrations: forward, back, at once from many processes, all or nothing. On SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
import logging
import re
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg  # type: ignore[import-untyped]
import pytest

from taskman_server.kit.db import DatabaseUnavailable, postgres_migrate
from taskman_server.kit.db.migrate import MigrationError, current, downgrade, head, upgrade
from taskman_server.kit.db.postgres import PostgresDatabase
from taskman_server.kit.db.sqlite import SqliteDatabase
from taskman_server.settings import SERVICES
from tests.parts.postgresql import PostgreSQL
from tests.store.support import PUT, start_child, until

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


class SqlitePlace:
    """A file that is not there yet."""

    def __init__(self, folder: Path) -> None:
        self.database = str(folder / "x.db")
        self.url = f"sqlite:///{self.database}"
        self.name = "x.db"

    def ask(self, sql: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.database)) as connection:
            return connection.execute(sql).fetchall()

    def tables(self) -> set[str]:
        return {name for (name,) in self.ask("SELECT name FROM sqlite_schema WHERE type = 'table'")}

    def columns(self) -> list[str]:
        return [row[1] for row in self.ask("PRAGMA table_info(notes)")]

    async def put(self, name: str) -> None:
        db = SqliteDatabase(self.database)
        await db.execute(PUT, id=name, text="kept")
        await db.close()


class PostgresPlace:
    """An empty database."""

    def __init__(self, url: str) -> None:
        self.database = self.url = url
        self.name = url.rpartition("/")[2]

    def ask(self, sql: str) -> list[tuple[Any, ...]]:
        async def run() -> list[tuple[Any, ...]]:
            connection = await asyncpg.connect(self.url)
            try:
                return [tuple(row) for row in await connection.fetch(sql)]
            finally:
                await connection.close()

        with ThreadPoolExecutor(1) as pool:
            return pool.submit(asyncio.run, run()).result()

    def tables(self) -> set[str]:
        return {name for (name,) in self.ask("SELECT tablename::text FROM pg_tables WHERE schemaname = 'public'")}

    def columns(self) -> list[str]:
        return [
            name
            for (name,) in self.ask(
                "SELECT attname::text FROM pg_attribute WHERE attrelid = 'notes'::regclass AND attnum > 0"
                " AND NOT attisdropped ORDER BY attnum"
            )
        ]

    async def put(self, name: str) -> None:
        db = await PostgresDatabase.open(self.url, name="x")
        await db.execute(PUT, id=name, text="kept")
        await db.close()


Place: TypeAlias = SqlitePlace | PostgresPlace


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Somewhere to migrate, with nothing in it."""
    if request.param == "sqlite":
        return SqlitePlace(tmp_path)
    return PostgresPlace(request.getfixturevalue("postgresql").database("migrate"))


async def test_forward_back_and_forward_again(place: Place, migrations: Path) -> None:
    """OPS-7: forward and back; what was written stays."""
    database = place.database
    assert head(migrations) == "0002"
    assert current(database) is None
    assert upgrade(database, migrations, "0001")
    assert (current(database), place.columns()) == ("0001", ["id", "text"])
    await place.put("1")
    assert upgrade(place.url, migrations)
    assert (current(database), place.columns()) == ("0002", ["id", "text", "done"])
    assert {"outbox", "inbox", "idempotency"} <= place.tables()
    assert not upgrade(database, migrations)
    assert downgrade(database, migrations, "0001")
    assert not downgrade(database, migrations, "0001")
    assert place.ask("SELECT id, text FROM notes") == [("1", "kept")]
    assert downgrade(database, migrations, "base")
    assert current(database) is None
    assert place.tables() <= {"alembic_version"}
    assert upgrade(database, migrations)


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


def test_processes_that_start_at_once_migrate_once(place: Place, migrations: Path) -> None:
    """OPS-2: a process per service, several of one service: one migrates, the others wait and see it done."""
    children = [
        start_child(
            """
            import sys
            from taskman_server.kit.db.migrate import upgrade
            print(upgrade(sys.argv[1], sys.argv[2]))
            """,
            place.database,
            migrations,
        )
        for _ in range(4)
    ]
    outputs = [child.communicate(timeout=60)[0].strip() for child in children]
    assert [child.returncode for child in children] == [0, 0, 0, 0]
    assert outputs.count("True") == 1
    assert place.columns() == ["id", "text", "done"]


async def test_a_step_that_fails_leaves_the_schema_as_it_was(place: Place, migrations: Path) -> None:
    """All steps are one commit, and the error tells no value."""
    (migrations / "versions" / "0003_broken.py").write_text(BROKEN)
    upgrade(place.database, migrations, "0001")
    await place.put("hunter2")
    with pytest.raises(MigrationError, match=f"migration of {re.escape(place.name)} to 0003 failed") as caught:
        upgrade(place.database, migrations)
    assert "hunter2" not in str(caught.value)
    assert current(place.database) == "0001"
    assert "half" not in place.tables()
    assert place.columns() == ["id", "text"]


def test_a_newer_releases_file_is_left_alone(place: Place, migrations: Path) -> None:
    """An old release started by mistake on new data."""
    path = place.database
    upgrade(path, migrations)
    (migrations / "versions" / "0002_second.py").unlink()
    with pytest.raises(MigrationError, match="made by a newer release"):
        upgrade(path, migrations)
    with pytest.raises(MigrationError, match="no revision 0009"):
        upgrade(path, migrations, "0009")
    assert current(path) == "0002"


def test_the_release_before_works_on_a_newer_schema_that_says_so(place: Place, migrations: Path) -> None:
    """OPS-7: in a rolling upgrade, and after a step back, old code starts on the new schema and leaves it alone."""
    second = migrations / "versions" / "0002_second.py"
    second.write_text(SECOND.replace("down_revision", "survives = '0001'\ndown_revision"))
    assert upgrade(place.database, migrations)
    second.unlink()
    assert not upgrade(place.database, migrations)
    assert current(place.database) == "0002"
    assert place.columns() == ["id", "text", "done"]
    (migrations / "versions" / "0001_first.py").write_text(FIRST.replace('"0001"', '"0000"'))
    with pytest.raises(MigrationError, match="made by a newer release"):
        upgrade(place.database, migrations)


def test_what_a_newer_schema_survives_goes_with_the_schema(place: Place, migrations: Path) -> None:
    """OPS-7: after the way back, and a way forward that breaks with old code, nobody starts on what does not fit."""
    second = migrations / "versions" / "0002_second.py"
    text = SECOND.replace("down_revision", "survives = '0001'\ndown_revision")
    second.write_text(text)
    upgrade(place.database, migrations)
    downgrade(place.database, migrations, "0001")
    second.write_text(SECOND)
    upgrade(place.database, migrations)
    second.unlink()
    with pytest.raises(MigrationError, match="made by a newer release"):
        upgrade(place.database, migrations)


@pytest.mark.parametrize("service", SERVICES)
def test_every_step_says_which_release_survives_it(service: str, repo: Path) -> None:
    """OPS-7: whoever writes a migration has asked themselves."""
    folder = repo / "src/taskman_server/services" / service / "migrations"
    for file in (folder / "versions").glob("[0-9]*.py"):
        text = file.read_text()
        assert "down_revision = None" in text or re.search(r'^survives = "\d{4}"', text, re.MULTILINE), file.name


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


def test_a_database_that_is_not_there_is_said_with_what_to_do(postgresql: PostgreSQL, migrations: Path) -> None:
    """OPS-2: an operator reads it, so no traceback and no password."""
    url = postgresql.url("nowhere")
    with pytest.raises(DatabaseUnavailable, match=r"no database .nowhere. on 127\.0\.0\.1") as missing:
        upgrade(url, migrations)
    assert 'CREATE DATABASE "nowhere"' in str(missing.value)
    with pytest.raises(DatabaseUnavailable, match="refuses the user or the password") as refused:
        upgrade(url.replace("taskman:", "taskman:wrong"), migrations)
    with pytest.raises(DatabaseUnavailable, match=r"cannot be reached on 127\.0\.0\.1:1"):
        current("postgresql://taskman:hunter2@127.0.0.1:1/x")
    for error in (missing, refused):
        assert url.split(":")[2].split("@")[0] not in str(error.value)


def test_a_start_waits_while_another_migrates(postgresql: PostgreSQL, migrations: Path) -> None:
    """OPS-2: then it sees what the other one has done."""
    place = PostgresPlace(postgresql.database("migrate"))

    async def run() -> bool:
        other = await asyncpg.connect(place.url)
        await other.execute(f"BEGIN; SELECT pg_advisory_xact_lock({postgres_migrate._LOCK})")
        try:
            start = asyncio.create_task(asyncio.to_thread(upgrade, place.database, migrations))

            async def waits() -> bool:
                return bool(await other.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"))

            await until(waits)
            assert not start.done()
            await other.execute("COMMIT")
            return await start
        finally:
            await other.close()

    assert asyncio.run(run())
    assert place.columns() == ["id", "text", "done"]


def test_a_step_that_a_reader_holds_up_gives_up_and_says_so(
    postgresql: PostgreSQL, migrations: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While an ALTER TABLE waits, everybody else waits behind it."""
    monkeypatch.setattr(postgres_migrate, "_TABLE_TIMEOUT", "50ms")
    place = PostgresPlace(postgresql.database("migrate"))
    upgrade(place.database, migrations, "0001")

    async def run() -> None:
        reader = await asyncpg.connect(place.url)
        await reader.execute("BEGIN; SELECT * FROM notes")
        try:
            await asyncio.to_thread(upgrade, place.database, migrations)
        finally:
            await reader.close()

    with pytest.raises(DatabaseUnavailable, match="waited too long for a lock"):
        asyncio.run(run())
    assert current(place.database) == "0001"
    assert upgrade(place.database, migrations)


def test_the_loser_of_a_deadlock_migrates_at_its_next_try(postgresql: PostgreSQL, migrations: Path) -> None:
    """OPS-7: traffic of the release before goes on beside a migration; what it cost the first try is no reason to
    give the start up, as a step that is wrong is."""
    place = PostgresPlace(postgresql.database("migrate"))
    upgrade(place.database, migrations)
    head = "from alembic import op\nrevision = '0003'\ndown_revision = '0002'\n\n"
    step = head + "def upgrade() -> None:\n    op.execute({!r})\n"
    file = migrations / "versions" / "0003_third.py"
    file.write_text(step.format("DO $$ BEGIN RAISE deadlock_detected; END $$"))
    with pytest.raises(DatabaseUnavailable, match="to 0003 was not done"):
        upgrade(place.database, migrations)
    file.write_text(step.format("ALTER TABLE notes ADD COLUMN third integer"))
    assert upgrade(place.database, migrations)
