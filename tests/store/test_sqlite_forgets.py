"""What was deleted is gone from the disk, not only from the tables (NOTIFY-1)."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest
import sqlalchemy as sa

from taskman_server.kit.db import DatabaseUnavailable
from taskman_server.kit.db.sqlite import SqliteDatabase
from tests.store.support import NOTES, PUT, create_tables

SECRET = "tok_0123456789abcdef"


def left(folder: Path) -> bool:
    return any(SECRET.encode() in file.read_bytes() for file in folder.glob("notes.db*"))


@pytest.mark.parametrize("length", [1, 100, 20_000])
@pytest.mark.parametrize("wipe", [sa.delete(NOTES).where(NOTES.c.id == "5"), sa.update(NOTES).values(text=None)])
async def test_what_was_deleted_or_overwritten_is_in_no_byte_of_the_files(
    tmp_path: Path, length: int, wipe: sa.Delete | sa.Update
) -> None:
    """NOTIFY-1: whether it lay in a page of the table or, being long, in pages of its own."""
    db = SqliteDatabase(tmp_path / "notes.db")
    try:
        await create_tables(db)
        for n in range(10):
            await db.execute(PUT, id=str(n), text="x" * length + (SECRET if n == 5 else ""))
        assert await db.forget()
        assert left(tmp_path), "the test looks in the wrong place"
        await db.execute(wipe)
        assert await db.forget()
        assert not left(tmp_path)
        assert (tmp_path / "notes.db-wal").stat().st_size == 0
        await db.execute(PUT, id="after", text="it goes on")
    finally:
        await db.close()


async def test_the_log_is_not_emptied_under_somebody_who_reads_it(tmp_path: Path) -> None:
    """Whoever asks is told, and writers go on."""
    db = SqliteDatabase(tmp_path / "notes.db")
    try:
        await create_tables(db)
        reader = apsw.Connection(str(tmp_path / "notes.db"))
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM notes").fetchall()
        await db.execute(PUT, id="1", text=SECRET)
        assert not await db.forget()
        await db.execute(PUT, id="2", text="it goes on")
        reader.close()
        assert await db.forget()
    finally:
        await db.close()
    with pytest.raises(DatabaseUnavailable):
        await db.forget()
