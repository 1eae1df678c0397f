"""The services for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.store.authentication.harness import House, open_house
from tests.store.databases import Databases


@pytest.fixture
async def house(databases: Databases) -> AsyncIterator[House]:
    """Services of their own on empty databases."""
    async with open_house(databases) as opened:
        yield opened
