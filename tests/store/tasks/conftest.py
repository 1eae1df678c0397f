"""The Task service for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.store.tasks.harness import House, open_house


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """A service of its own on an empty database."""
    async with open_house(tmp_path) as opened:
        yield opened
