"""Databases and brokers on files of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from taskman_server.kit.db.sqlite import SqliteDatabase
from tests.store.support import create_tables


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[SqliteDatabase]:
    """An empty service database with the tables of `support`."""
    database = SqliteDatabase(tmp_path / "service.db")
    await create_tables(database)
    yield database
    await database.close()
