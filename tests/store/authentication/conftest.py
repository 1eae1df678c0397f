"""The services for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.store.authentication.harness import House, open_house


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """Services of their own on empty databases."""
    async with open_house(tmp_path) as opened:
        yield opened
