"""The audit service for each test, on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from taskman_server.services.audit import SERVICE
from tests.store.audit.house import House, open_house
from tests.store.databases import Databases


@pytest.fixture
async def house(databases: Databases) -> AsyncIterator[House]:
    """A service of its own on an empty database."""
    async with open_house(SERVICE, databases) as opened:
        yield opened
