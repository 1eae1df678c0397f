"""The Task service for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.store.databases import Databases
from tests.store.tasks.harness import House, open_house


@pytest.fixture
async def house(databases: Databases) -> AsyncIterator[House]:
    """A service of its own on an empty database."""
    async with open_house(databases) as opened:
        yield opened
