"""The audit service for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from taskman_server.services.audit import SERVICE
from tests.store.audit.house import House, open_house


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """A service of its own on an empty database."""
    async with open_house(SERVICE, tmp_path) as opened:
        yield opened
