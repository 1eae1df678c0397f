"""Users, IAM and Authorization for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.store.databases import Databases
from tests.store.iam.harness import House, open_house


@pytest.fixture
async def house(databases: Databases) -> AsyncIterator[House]:
    """Services of their own on empty databases."""
    async with open_house(databases) as opened:
        yield opened
